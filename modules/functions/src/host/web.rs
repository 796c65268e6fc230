//! `wasi:http/proxy` components.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt, Full};
use tokio::sync::oneshot;
use wasmtime::{Engine, component::ResourceTable};
use wasmtime_wasi_http::{
    WasiHttpView,
    p2::{
        bindings::{
            ProxyPre,
            http::types::{ErrorCode, Scheme},
        },
        body::HyperOutgoingBody,
    },
};

use super::{
    Answer, CallError, Request,
    call::{standard_streams_to_log, within},
    context::{self, Scene},
    program::TooLong,
};
use crate::{grants::Limits, reach::Reach};

/// What such a component sends: a head and a stream of bytes, or its own error.
type Sent = Result<hyper::Response<HyperOutgoingBody>, ErrorCode>;

/// Calls a `wasi:http/proxy` component.
pub(super) async fn call(
    engine: &Engine,
    proxy: &ProxyPre<Scene>,
    mut request: Request,
    limits: Limits,
    reach: Reach,
) -> Result<Answer, CallError> {
    let cause = request.cause.take();
    let request = incoming(request)?;
    let mut scene = Scene::new(standard_streams_to_log(&reach), reach, limits);
    scene.cause = cause;
    let mut store = context::store(engine, scene, limits);
    within(&mut store, limits, async |store| {
        let (sender, receiver) = oneshot::channel();
        let handled = async {
            let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
            let answer = store.data_mut().http().new_response_outparam(sender)?;
            let proxy = proxy.instantiate_async(&mut *store).await?;
            proxy.wasi_http_incoming_handler().call_handle(&mut *store, request, answer).await?;
            // It has ended: what it did not send by now never comes.
            store.data_mut().table = ResourceTable::new();
            wasmtime::Result::Ok(())
        };
        // While it runs, what it sends is taken from it, since it may wait for that.
        tokio::try_join!(handled, collected(receiver, limits.output_bytes)).map(|((), answer)| answer)
    })
    .await
}

/// The request as HTTP has it. The function sees the path behind its own name.
fn incoming(request: Request) -> Result<hyper::Request<Full<Bytes>>, CallError> {
    let host = request.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let slash = if request.path.starts_with('/') { "" } else { "/" };
    let mark = if request.query.is_empty() { "" } else { "?" };
    let path = format!("{slash}{}{mark}{}", request.path, request.query);
    let path = PathAndQuery::try_from(path);
    let uri =
        path.and_then(|path| Ok(Uri::builder().scheme("http").authority(host).path_and_query(path).build()));
    let Ok(Ok(uri)) = uri else {
        return Err(CallError::Refused("the request's host, path or query is not of HTTP's form".to_owned()));
    };
    let mut headers = request.headers;
    if let Ok(content_type) = header::HeaderValue::from_str(&request.content_type)
        && !content_type.is_empty()
    {
        headers.entry(header::CONTENT_TYPE).or_insert(content_type);
    }
    let mut incoming = hyper::Request::new(Full::new(request.body));
    *incoming.method_mut() = request.method;
    *incoming.uri_mut() = uri;
    *incoming.headers_mut() = headers;
    Ok(incoming)
}

/// All of the answer, to a limit.
async fn collected(receiver: oneshot::Receiver<Sent>, longest: usize) -> wasmtime::Result<Answer> {
    let sent = receiver.await.map_err(|_| wasmtime::format_err!("it ended without an answer"))?;
    let sent = sent.map_err(|code| wasmtime::format_err!("it answered with an error of HTTP: {code:?}"))?;
    let (head, mut body) = sent.into_parts();
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| wasmtime::format_err!("it ended in the midst of its answer: {error}"))?;
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > longest.saturating_sub(bytes.len()) {
            return Err(TooLong.into());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(answer(head.status, head.headers, bytes.freeze()))
}

fn answer(status: StatusCode, headers: HeaderMap, body: Bytes) -> Answer {
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned();
    Answer { status, headers, content_type, body, ..Answer::default() }
}
