//! Requests of functions to the outside (`wasi:http/outgoing-handler`).
//!
//! Only to granted hosts. We follow no redirect: a function that follows one makes a new request, which is looked at
//! like the first. No proxy, no cookies, nothing of the module in the headers.

use std::{
    error::Error as _,
    io,
    net::{SocketAddr, ToSocketAddrs},
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyDataStream, BodyExt};
use hyper::body::{Body, Frame, SizeHint};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    time::{Sleep, sleep, timeout},
};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::{Level, Reach, hosts::may_resolve_to, take};

/// Most requests of one call.
pub(super) const MOST: u32 = 100;
/// The largest body, of a request and of an answer, in bytes.
const LARGEST: u64 = 16 * 1024 * 1024;
/// The longest wait for a connection, for an answer's head and between two pieces of its body. The call's own time is
/// shorter, where nobody sets it longer.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Bytes of a body that wait for the other side, request or answer: a guest may hold many bodies at a time.
const WAITING: usize = 16 * 1024;
/// Connections to a host that are kept for the next request, and for how long.
const IDLE: (usize, Duration) = (4, Duration::from_secs(15));

/// Names that are looked up at a time. Full: the others wait, within the time for their connection.
const LOOKUPS: usize = 8;

/// The client that all functions share; made when it is used first.
#[derive(Debug)]
pub(super) struct Client {
    client: OnceLock<Result<reqwest::Client, String>>,
    names: Names,
}

/// What a call's requests go through.
#[derive(Debug)]
pub(crate) struct Hooks {
    reach: Reach,
}

/// A response, and what still goes on behind it: nothing.
type Answer = (http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

/// Finds the addresses of a name, but none of the machine itself.
#[derive(Debug, Clone)]
struct Names {
    /// The module's own runtime: the system's look-up blocks a thread, and those of guests have none to spare.
    runtime: Handle,
    /// A look-up whose call has gone keeps its place to its end, so that there are never more.
    lookups: Arc<Semaphore>,
}

/// A name leads to nothing but addresses that functions may not reach by a name.
#[derive(Debug, thiserror::Error)]
#[error(
    "the name {0:?} leads to an address of this machine or its links; grant the address itself if that is meant"
)]
struct Prohibited(String);

/// A body within its bounds.
struct Bounded<B> {
    body: B,
    left: u64,
    too_large: fn(Option<u64>) -> Error,
    /// The longest wait for the next piece. None: the other side takes its time.
    longest: Option<Duration>,
    /// The wait now. It begins when the next piece is asked for: a guest that is slow itself is not the other side.
    wait: Option<Pin<Box<Sleep>>>,
}

// === impl Client ===

impl Client {
    /// Looks names up on the threads of this runtime.
    pub(super) fn start() -> Self {
        let names = Names { runtime: Handle::current(), lookups: Arc::new(Semaphore::new(LOOKUPS)) };
        Self { client: OnceLock::new(), names }
    }

    fn get(&self) -> Result<&reqwest::Client, Error> {
        let client = self.client.get_or_init(|| {
            // Without it no client can be made; a second call changes nothing.
            rustls::crypto::ring::default_provider().install_default().ok();
            let client = reqwest::Client::builder()
                .tcp_nodelay(true)
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .referer(false)
                .dns_resolver(Arc::new(self.names.clone()))
                .connect_timeout(LONGEST_WAIT)
                .pool_max_idle_per_host(IDLE.0)
                .pool_idle_timeout(IDLE.1)
                .build();
            client.map_err(|error| error.to_string())
        });
        client.as_ref().map_err(|error| Error::InternalError(Some(error.clone())))
    }
}

// === impl Hooks ===

impl Hooks {
    /// Those of one call.
    pub(crate) fn new(reach: &Reach) -> Self {
        Self { reach: reach.clone() }
    }

    /// The request as the client takes it, if it is granted.
    fn prepare(
        &self,
        request: http::Request<WasiBody>,
    ) -> Result<(reqwest::Client, reqwest::Request), Error> {
        let url =
            reqwest::Url::parse(&request.uri().to_string()).map_err(|_| Error::HttpRequestUriInvalid)?;
        // A user and a password in the address are for nobody but the other side's log.
        let plain = url.username().is_empty() && url.password().is_none();
        let granted = self.reach.of.hosts.iter().any(|host| host.allows(&url));
        if !plain || !granted || !matches!(url.scheme(), "http" | "https") {
            return Err(Error::HttpRequestDenied);
        }
        // A tunnel would lead to another host.
        if request.method() == http::Method::CONNECT {
            return Err(Error::HttpRequestMethodInvalid);
        }
        take(&self.reach.left.requests).ok_or(Error::ConnectionLimitReached)?;
        let client = self.reach.means().map_err(|_| Error::HttpRequestDenied)?.client.get()?.clone();
        let (mut parts, body) = request.into_parts();
        // The client sets it from the address.
        parts.headers.remove(http::header::HOST);
        let mut wanted = reqwest::Request::new(parts.method, url);
        *wanted.headers_mut() = parts.headers;
        if !body.is_end_stream() {
            let too_large = Error::HttpRequestBodySize;
            let body = Bounded { body, left: LARGEST, too_large, longest: None, wait: None };
            *wanted.body_mut() = Some(reqwest::Body::wrap_stream(BodyDataStream::new(body)));
        }
        Ok((client, wanted))
    }
}

impl WasiHttpHooks for Hooks {
    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        1
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        WAITING
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _sent: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Answer, Error>> + Send> {
        let prepared = self.prepare(request);
        if let Err(error) = &prepared {
            self.reach.say(Level::Warn, &format!("A request to the outside is refused: {error}."));
        }
        Box::new(async move {
            let (client, request) = prepared?;
            send(&client, request, options.unwrap_or_default()).await
        })
    }
}

async fn send(
    client: &reqwest::Client,
    request: reqwest::Request,
    options: RequestOptions,
) -> Result<Answer, Error> {
    let wait = |wanted: Option<Duration>| wanted.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
    let first = wait(options.connect_timeout) + wait(options.first_byte_timeout);
    let answer = timeout(first, client.execute(request)).await.map_err(|_| Error::HttpResponseTimeout)?;
    let answer = http::Response::from(answer.map_err(|error| meaning(&error))?);
    let between = wait(options.between_bytes_timeout);
    let answer = answer.map(|body| {
        let body = body.map_err(|error| meaning(&error));
        let (too_large, longest) = (Error::HttpResponseBodySize, Some(between));
        Bounded { body, left: LARGEST, too_large, longest, wait: None }.boxed_unsync()
    });
    Ok((answer, Box::new(async { Ok(()) })))
}

// === impl Names ===

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let (name, Self { runtime, lookups }) = (name.as_str().to_owned(), self.clone());
        Box::pin(async move {
            let place = lookups.acquire_owned().await?;
            let looking = runtime.spawn_blocking(move || {
                let _place = place;
                // The client sets the port.
                let found = (name.as_str(), 0).to_socket_addrs()?;
                let allowed: Vec<_> = found.filter(|address| may_resolve_to(&name, address.ip())).collect();
                io::Result::Ok((name, allowed))
            });
            let (name, allowed): (String, Vec<SocketAddr>) = looking.await??;
            if allowed.is_empty() {
                return Err(Prohibited(name).into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

// === impl Bounded ===

impl<B: Body<Data = Bytes, Error = Error> + Unpin> Body for Bounded<B> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Poll::Ready(next) = Pin::new(&mut self.body).poll_frame(context) else {
            let Some(longest) = self.longest else { return Poll::Pending };
            let wait = self.wait.get_or_insert_with(|| Box::pin(sleep(longest)));
            return wait.as_mut().poll(context).map(|()| Some(Err(Error::ConnectionReadTimeout)));
        };
        self.wait = None;
        let size = next.as_ref().and_then(|next| next.as_ref().ok()?.data_ref()).map_or(0, Bytes::len);
        match self.left.checked_sub(size as u64) {
            Some(left) => self.left = left,
            None => return Poll::Ready(Some(Err((self.too_large)(Some(LARGEST))))),
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What the client's error means in the words of `wasi:http`.
fn meaning(error: &reqwest::Error) -> Error {
    let mut cause = error.source();
    while let Some(one) = cause {
        if one.is::<Prohibited>() {
            return Error::DestinationIpProhibited;
        }
        if let Some(Error::HttpRequestBodySize(size)) = one.downcast_ref::<Error>() {
            return Error::HttpRequestBodySize(*size);
        }
        if let Some(io) = one.downcast_ref::<io::Error>() {
            match io.kind() {
                io::ErrorKind::ConnectionRefused => return Error::ConnectionRefused,
                io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
                    return Error::ConnectionTerminated;
                }
                _ => {}
            }
        }
        if let Some(tls) = one.downcast_ref::<rustls::Error>() {
            return match tls {
                rustls::Error::InvalidCertificate(_) => Error::TlsCertificateError,
                _ => Error::TlsProtocolError,
            };
        }
        // An `io::Error` keeps what it holds out of its chain of sources.
        cause = one
            .downcast_ref::<io::Error>()
            .and_then(|io| io.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static)))
            .or_else(|| one.source());
    }
    if error.is_timeout() {
        return Error::ConnectionTimeout;
    }
    if error.is_connect() {
        return Error::DestinationUnavailable;
    }
    Error::HttpProtocolError
}
