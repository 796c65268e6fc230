//! Kept connections.
//!
//! A connection is driven by the task that uses it, not by a task of its own: an answer then costs no wake-up from
//! one task to another, which is a good part of the time of a short call.

use std::{
    io,
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
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout},
};

use super::{CallError, CallPolicy};
use crate::patience::Patience;

/// Most connections kept for one app that nobody uses now; one that comes back beyond them is closed.
const KEPT: usize = 32;
/// How long a connection is kept unused: shorter than any server closes it (ours after 30 s).
const KEEP: Duration = Duration::from_secs(15);

/// Where an app is, and the connections to it that nobody uses now.
#[derive(Debug)]
pub(super) struct Endpoint {
    app: String,
    authority: Authority,
    host: HeaderValue,
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
    /// The call's place among those at the same time.
    _place: Option<OwnedSemaphorePermit>,
    patience: Patience,
}

// === impl Endpoint ===

impl Endpoint {
    pub(super) fn new(app: &str, authority: Authority) -> Self {
        // An authority holds nothing that a header may not.
        let host = HeaderValue::from_str(authority.as_str()).unwrap_or(HeaderValue::from_static("localhost"));
        Self { app: app.to_owned(), authority, host, kept: Mutex::default() }
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
        if kept.len() < KEPT {
            kept.push((line, Instant::now()));
        }
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
        place: Option<OwnedSemaphorePermit>,
        pause: Duration,
    ) -> Self {
        let mut answer =
            Self { body, line: Some(line), endpoint, _place: place, patience: Patience::new(pause) };
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
