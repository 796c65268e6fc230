//! HTTP requests of guests.

use wasmtime_wasi_http::{Error, RequestOptions, Result, WasiBody, WasiHttpHooks};

use super::Reach;

/// What the outgoing requests of one call go through.
#[derive(Debug)]
pub(crate) struct Hooks;

type Sent = Result<(http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>)>;

// === impl Hooks ===

impl Hooks {
    /// Hooks of one call.
    pub(crate) fn new(_reach: &Reach) -> Self {
        Self
    }
}

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        _request: http::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _written: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(async { Err(Error::HttpRequestDenied) })
    }
}
