//! Kept connections.
//!
//! A connection is driven by the task that uses it, not by a task of its own: an answer then costs no wake-up from
//! one task to another, which is a good part of the time of a short call.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, Request, Response, uri::Authority},
};
use hyper::{
    body::{Body as HttpBody, Frame, Incoming, SizeHint},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    net::{TcpStream, lookup_host},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use super::{CallError, CallPolicy};
use crate::patience::Patience;

/// Most connections kept for one app that nobody uses now; one that comes back beyond them is closed.
const KEPT: usize = 32;
/// How long a connection is kept unused: shorter than servers do by default (Node's and uvicorn 5 s, ours 30 s), so
/// that no request goes off on one that is just being closed.
const KEEP: Duration = Duration::from_secs(4);

/// Which addresses a host may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Any: a person set it.
    Any,
    /// Those of other machines or containers in the network, not our own or those of a link alone (as that of a
    /// cloud's metadata).
    Network,
}

/// Most calls to one app at the same time.
const CALLS: usize = 64;

/// Where an app is, and the connections to it that nobody uses now.
#[derive(Debug)]
pub(super) struct Endpoint {
    app: String,
    authority: Authority,
    host: HeaderValue,
    reach: Reach,
    /// So that an app that hangs does not take the places of the others. When it has all of its own, new calls wait.
    pub(super) places: Arc<Semaphore>,
    /// The one used last is taken first. Bounded by [`KEPT`].
    kept: Mutex<Vec<(Line, Instant)>>,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Line {
    sender: http1::SendRequest<Body>,
    /// Nothing when it has ended: dropping it gives back a request that it has not begun to send.
    connection: Option<http1::Connection<TokioIo<TcpStream>, Body>>,
}

/// A try that led to no answer.
pub(super) struct Failure {
    pub(super) error: CallError,
    /// The request, where nothing of it was sent.
    pub(super) unsent: Option<Request<Body>>,
    /// A kept connection had been closed by the other side.
    pub(super) stale: bool,
}

/// The body of an answer. Its connection is kept when it was read to its end, and closed when it is dropped before.
#[derive(Debug)]
pub(super) struct Answer {
    body: Incoming,
    line: Option<Line>,
    endpoint: Arc<Endpoint>,
    /// The call's places among those at the same time.
    _places: [OwnedSemaphorePermit; 2],
    patience: Patience,
}

// === impl Endpoint ===

impl Endpoint {
    pub(super) fn new(app: &str, authority: Authority, reach: Reach) -> Self {
        // An authority holds nothing that a header may not.
        let host = HeaderValue::from_str(authority.as_str()).unwrap_or(HeaderValue::from_static("localhost"));
        let places = Arc::new(Semaphore::new(CALLS));
        Self { app: app.to_owned(), authority, host, reach, places, kept: Mutex::default() }
    }

    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The host header.
    pub(super) fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// Sends on a kept connection, or on a new one.
    pub(super) async fn send(
        &self,
        request: Request<Body>,
        policy: &CallPolicy,
    ) -> Result<(Response<Incoming>, Line), Failure> {
        if let Some(line) = self.take() {
            return self.send_on(line, request, true).await;
        }
        match timeout(policy.connect, self.connect()).await {
            Ok(Ok(line)) => self.send_on(line, request, false).await,
            Ok(Err(error)) => Err(Failure { error, unsent: Some(request), stale: false }),
            Err(_) => {
                let source = io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no connection within {:?}", policy.connect),
                );
                Err(Failure { error: self.refused(source), unsent: Some(request), stale: false })
            }
        }
    }

    async fn send_on(
        &self,
        mut line: Line,
        request: Request<Body>,
        kept: bool,
    ) -> Result<(Response<Incoming>, Line), Failure> {
        let mut failure = match line.send(request).await {
            Ok(response) => return Ok((response, line)),
            Err(failure) => failure,
        };
        let (app, address) = (self.app.clone(), self.authority.to_string());
        let unsent = failure.take_message();
        let source = failure.into_error();
        let error = if source.is_user() {
            CallError::Request { app, source }
        } else {
            CallError::Broken { app, address, source }
        };
        Err(Failure { error, stale: kept && unsent.is_some(), unsent })
    }

    async fn connect(&self) -> Result<Line, CallError> {
        let host = self.authority.host().trim_start_matches('[').trim_end_matches(']');
        let addresses =
            lookup_host((host, self.authority.port_u16().unwrap_or(80))).await.map_err(|error| {
                let why = format!("the network does not know the name {host:?} ({error})");
                CallError::Unknown { app: self.app.clone(), why }
            })?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            if !self.reach.allows(address.ip()) {
                let why = "its name leads to an address that only the setting of its own address may name";
                last = io::Error::new(io::ErrorKind::PermissionDenied, why);
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return Line::open(stream).await.map_err(|error| self.refused(error)),
                Err(error) => last = error,
            }
        }
        Err(self.refused(last))
    }

    fn refused(&self, source: io::Error) -> CallError {
        CallError::Refused { app: self.app.clone(), address: self.authority.to_string(), source }
    }

    /// A kept connection that still looks alive.
    fn take(&self) -> Option<Line> {
        let mut kept = self.kept.lock();
        while let Some((line, since)) = kept.pop() {
            if since.elapsed() < KEEP {
                return Some(line);
            }
            // Those below are older still.
            kept.clear();
        }
        None
    }

    fn keep(&self, line: Line) {
        let mut kept = self.kept.lock();
        kept.retain(|(_, since)| since.elapsed() < KEEP);
        if kept.len() < KEPT {
            kept.push((line, Instant::now()));
        }
    }
}

// === impl Reach ===

impl Reach {
    fn allows(self, address: IpAddr) -> bool {
        let near = match address.to_canonical() {
            IpAddr::V4(v4) => {
                v4.is_loopback()
                    || v4.is_link_local()
                    || v4.is_unspecified()
                    || v4.is_multicast()
                    || v4.is_broadcast()
            }
            IpAddr::V6(v6) => {
                v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast()
            }
        };
        self == Self::Any || !near
    }
}

// === impl Line ===

impl Line {
    async fn open(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        Ok(Self { sender, connection: Some(connection) })
    }

    /// Lets the connection do what it can now.
    fn drive(&mut self, context: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection
            && Pin::new(connection).poll(context).is_ready()
        {
            self.connection = None;
        }
    }

    async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, hyper::client::conn::TrySendError<Request<Body>>> {
        // Sees whether the other side has closed it meanwhile, before the request is handed over.
        std::future::poll_fn(|context| {
            self.drive(context);
            Poll::Ready(())
        })
        .await;
        let mut answer = std::pin::pin!(self.sender.try_send_request(request));
        std::future::poll_fn(|context| {
            self.drive(context);
            answer.as_mut().poll(context)
        })
        .await
    }

    fn is_ready(&self) -> bool {
        self.connection.is_some() && self.sender.is_ready()
    }
}

// === impl Answer ===

impl Answer {
    pub(super) fn new(
        body: Incoming,
        line: Line,
        endpoint: Arc<Endpoint>,
        places: [OwnedSemaphorePermit; 2],
        pause: Duration,
    ) -> Self {
        let mut answer =
            Self { body, line: Some(line), endpoint, _places: places, patience: Patience::new(pause) };
        // Nobody asks an empty body for its end.
        if answer.body.is_end_stream() {
            answer.give_back();
        }
        answer
    }

    /// Keeps the connection for the next call, if it is fit for one.
    fn give_back(&mut self) {
        if let Some(mut line) = self.line.take() {
            // Nobody waits for this poll: the next call polls anew.
            line.drive(&mut Context::from_waker(std::task::Waker::noop()));
            if line.is_ready() {
                self.endpoint.keep(line);
            }
        }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let mut frame = Pin::new(&mut this.body).poll_frame(context);
        if frame.is_pending()
            && let Some(line) = &mut this.line
        {
            line.drive(context);
            frame = Pin::new(&mut this.body).poll_frame(context);
        }
        let frame = match ready!(this.patience.poll(frame, context)) {
            Ok(frame) => frame,
            Err(late) => {
                this.line = None;
                return Poll::Ready(Some(Err(axum::Error::new(late))));
            }
        };
        if frame.is_none() || this.body.is_end_stream() {
            this.give_back();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(axum::Error::new)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_alone_leads_to_no_address_of_this_machine_or_of_one_link() {
        let near =
            ["127.0.0.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::1", "::ffff:127.0.0.1", "224.0.0.1"];
        for address in near {
            let address = address.parse().unwrap();
            assert!(!Reach::Network.allows(address) && Reach::Any.allows(address), "{address}");
        }
        for address in ["172.18.0.5", "10.0.0.1", "fd00::5"] {
            assert!(Reach::Network.allows(address.parse().unwrap()), "{address}");
        }
    }
}
