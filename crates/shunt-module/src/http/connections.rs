//! Accepts connections, serves HTTP/1.1 and HTTP/2 without TLS on them, and ends those on which nothing moves.
//!
//! One rule for all that a caller can hold up (a head that does not end, a kept connection, an answer that nobody
//! reads): when it has been the caller's turn for the whole limit, and it did nothing, the connection is closed. A
//! request that we work on, and an answer that has no next piece yet, are our turn.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::ConnectInfo,
    http::{Request, Response},
};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, interval_at},
};
use tokio_util::sync::CancellationToken;

use crate::patience::Patience;

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Most open connections. When it is reached, new ones wait in the kernel's queue until one closes.
    pub(crate) connections: usize,
    /// How long it may be the caller's turn without anything moving; also the longest pause inside a request's body.
    pub(crate) idle: Duration,
    /// The largest head of a request in bytes; a larger one is answered 431.
    pub(crate) head: usize,
    /// Most requests at the same time on one HTTP/2 connection; more wait at the caller.
    pub(crate) streams: u32,
}

/// Whose turn it is on a connection, and since when.
#[derive(Debug)]
struct Turn {
    /// Requests that we work on, and answers without a next piece yet.
    ours: AtomicUsize,
    /// When something moved last, in milliseconds since `begun`.
    moved: AtomicU64,
    begun: Instant,
}

/// Our turn, until it is dropped.
#[derive(Debug)]
struct Ours(Arc<Turn>);

/// The body of an answer: our turn while it has no next piece.
struct Sending {
    body: Body,
    turn: Arc<Turn>,
    waiting: Option<Ours>,
}

/// The body of a request, whose pieces may not take too long.
struct Receiving {
    body: Incoming,
    patience: Patience,
}

/// A socket that tells when it has sent something.
struct Socket {
    stream: TcpStream,
    turn: Arc<Turn>,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 256, idle: Duration::from_secs(30), head: 64 * 1024, streams: 64 }
    }
}

/// Serves until shutdown; requests that have begun are finished. What is still open when this future is dropped is
/// cut off.
pub(crate) async fn serve(
    mut listener: TcpListener,
    pages: Router,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let pages = pages.with_state(());
    let mut open = JoinSet::new();
    loop {
        let accepted = shutdown.run_until_cancelled(async {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            // axum's own listener waits and tries again when the process has no file descriptor left.
            (accept(&mut listener).await, place)
        });
        let Some((stream, place)) = accepted.await else { break };
        while open.try_join_next().is_some() {}
        let (pages, shutdown) = (pages.clone(), shutdown.clone());
        open.spawn(async move {
            connection(stream, pages, limits, shutdown).await;
            drop(place);
        });
    }
    drop(listener);
    while open.join_next().await.is_some() {}
}

async fn accept(listener: &mut TcpListener) -> TcpStream {
    let (stream, _): (TcpStream, SocketAddr) = axum::serve::Listener::accept(listener).await;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "A connection did not take no-delay.");
    }
    stream
}

async fn connection(stream: TcpStream, pages: Router, limits: Limits, shutdown: CancellationToken) {
    let turn = Arc::new(Turn { ours: AtomicUsize::new(0), moved: AtomicU64::new(0), begun: Instant::now() });
    let peer = stream.peer_addr().ok();
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().max_buf_size(limits.head);
    server.http2().max_concurrent_streams(limits.streams).max_header_list_size(limits.head as u32);
    let socket = TokioIo::new(Socket { stream, turn: Arc::clone(&turn) });
    let service = {
        let (pages, turn) = (TowerToHyperService::new(pages), Arc::clone(&turn));
        service_fn(move |mut request: Request<Incoming>| {
            // Routes may ask who calls.
            if let Some(peer) = peer {
                request.extensions_mut().insert(ConnectInfo(peer));
            }
            answer(&pages, request, &turn, limits.idle)
        })
    };
    let mut serving = pin!(server.serve_connection_with_upgrades(socket, service));
    let look = limits.idle / 4;
    let mut looks = interval_at(Instant::now() + look, look);
    let (mut ending, mut draining) = (false, false);
    loop {
        tokio::select! {
            result = &mut serving => {
                if let Err(error) = result {
                    tracing::debug!(%error, "A connection broke off.");
                }
                return;
            }
            () = shutdown.cancelled(), if !draining => {
                draining = true;
                serving.as_mut().graceful_shutdown();
            }
            _ = looks.tick() => {
                // It had its warning at the last look.
                if ending && turn.is_callers_for(limits.idle) {
                    tracing::debug!("A connection on which nothing moved is cut off.");
                    return;
                }
                ending = turn.is_callers_for(limits.idle);
                if ending {
                    serving.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

fn answer(
    pages: &TowerToHyperService<Router>,
    request: Request<Incoming>,
    turn: &Arc<Turn>,
    pause: Duration,
) -> impl Future<Output = Result<Response<Sending>, Infallible>> + use<> {
    let ours = Turn::take(turn);
    let turn = Arc::clone(turn);
    let answer =
        pages.call(request.map(|body| Body::new(Receiving { body, patience: Patience::new(pause) })));
    async move {
        let response = answer.await?;
        drop(ours);
        Ok(response.map(|body| Sending { body, turn, waiting: None }))
    }
}

// === impl Turn ===

impl Turn {
    fn take(turn: &Arc<Self>) -> Ours {
        turn.ours.fetch_add(1, Ordering::Relaxed);
        Ours(Arc::clone(turn))
    }

    fn moved(&self) {
        self.moved.store(self.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Has it been the caller's turn for so long, and nothing moved?
    fn is_callers_for(&self, limit: Duration) -> bool {
        let since = Duration::from_millis(self.moved.load(Ordering::Relaxed));
        self.ours.load(Ordering::Relaxed) == 0 && self.begun.elapsed().saturating_sub(since) >= limit
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        // Before the count: who sees that it is the caller's turn also sees since when.
        self.0.moved();
        self.0.ours.fetch_sub(1, Ordering::Release);
    }
}

// === impl Sending ===

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(context);
        if frame.is_ready() {
            this.waiting = None;
        } else if this.waiting.is_none() {
            this.waiting = Some(Turn::take(&this.turn));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl Receiving ===

impl HttpBody for Receiving {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(context);
        Poll::Ready(match ready!(this.patience.poll(frame, context)) {
            Ok(frame) => frame.map(|frame| frame.map_err(axum::Error::new)),
            Err(late) => Some(Err(axum::Error::new(late))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl Socket ===

impl Socket {
    fn sent(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(result, Poll::Ready(Ok(_))) {
            self.turn.moved();
        }
        result
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.sent(result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.sent(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::routing::{get, post};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::Notify,
        time::{sleep, timeout},
    };

    use super::*;

    const IDLE: Duration = Duration::from_millis(200);
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A server with little patience, and connections to it.
    struct Server {
        address: SocketAddr,
        /// The slow page was asked for.
        asked: Arc<Notify>,
        shutdown: CancellationToken,
        done: tokio::task::JoinHandle<()>,
    }

    impl Server {
        async fn start(connections: usize) -> Self {
            let endless = || async {
                // A piece, then nothing for longer than any limit, then the end.
                let late = async {
                    sleep(IDLE * 5).await;
                    Ok::<_, Infallible>(Bytes::from_static(b"late"))
                };
                Body::new(Late { first: true, late: Box::pin(late) })
            };
            let asked = Arc::new(Notify::new());
            let slow = {
                let asked = Arc::clone(&asked);
                || async move {
                    asked.notify_one();
                    sleep(IDLE * 5).await;
                    "done"
                }
            };
            let pages = Router::new()
                .route("/", get(|| async { "here" }))
                .route("/slow", get(slow))
                .route("/pause", get(endless))
                .route("/large", get(|| async { vec![b'x'; 64 << 20] }))
                .route("/echo", post(|body: Bytes| async { body }));
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
            let limits = Limits { connections, idle: IDLE, ..Limits::default() };
            let done = tokio::spawn(serve(listener, pages, limits, shutdown.clone()));
            Self { address, asked, shutdown, done }
        }

        /// Sends this and reads until the other side closes.
        async fn until_closed(&self, request: &str) -> String {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
            read.expect("the connection is closed in time").ok();
            String::from_utf8(answer).unwrap()
        }
    }

    /// A body whose second piece comes late.
    struct Late {
        first: bool,
        late: Pin<Box<dyn Future<Output = Result<Bytes, Infallible>> + Send>>,
    }

    impl HttpBody for Late {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let this = self.get_mut();
            if std::mem::take(&mut this.first) {
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"early ")))));
            }
            let piece = ready!(this.late.as_mut().poll(context));
            this.late = Box::pin(std::future::pending());
            Poll::Ready(Some(piece.map(Frame::data)))
        }
    }

    #[tokio::test]
    async fn a_connection_on_which_nothing_comes_is_closed() {
        let server = Server::start(8).await;
        assert_eq!(server.until_closed("").await, "");
        // The beginning of what could become HTTP/2, and a head that does not end.
        assert_eq!(server.until_closed("PRI * HTTP").await, "");
        assert_eq!(server.until_closed("GET / HTTP/1.1\r\nHost: x\r\nSlow: ").await, "");
        let answer = server.until_closed("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.ends_with("\r\n\r\nhere"), "{answer}");
    }

    #[tokio::test]
    async fn a_head_that_drips_in_is_not_waited_for() {
        let server = Server::start(1).await;
        let mut slow = TcpStream::connect(server.address).await.unwrap();
        let (mut reader, mut writer) = slow.split();
        let drip = async {
            writer.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nSlow: ").await.unwrap();
            while writer.write_all(b"x").await.is_ok() {
                sleep(IDLE / 10).await;
            }
        };
        // The only place is taken by the slow one; the next gets it.
        let next = async {
            let answer = server.until_closed("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
            assert!(answer.contains("200 OK"), "{answer}");
        };
        let (mut end, patience) = (Vec::new(), PATIENCE * 2);
        let (_, (), closed) =
            tokio::join!(timeout(patience, drip), next, timeout(patience, reader.read_to_end(&mut end)));
        assert!(closed.is_ok());
    }

    #[tokio::test]
    async fn work_of_ours_may_take_longer_than_a_caller_may() {
        let server = Server::start(8).await;
        let head = " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let answer = server.until_closed(&format!("GET /slow{head}")).await;
        assert!(answer.ends_with("done"), "{answer}");
        let answer = timeout(PATIENCE, async {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            stream.write_all(format!("GET /pause{head}").as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            while !answer.windows(4).any(|piece| piece == b"late") {
                assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{answer:?}");
            }
        });
        answer.await.unwrap();
    }

    #[tokio::test]
    async fn a_body_that_stops_half_way_is_given_up() {
        let server = Server::start(8).await;
        let answer =
            server.until_closed("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf").await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    }

    #[tokio::test]
    async fn an_answer_that_nobody_reads_is_given_up() {
        let server = Server::start(1).await;
        let mut deaf = TcpStream::connect(server.address).await.unwrap();
        deaf.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        // It holds the only place until it is given up.
        let answer = server.until_closed("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.ends_with("here"), "{answer}");
    }

    #[tokio::test]
    async fn a_request_that_has_begun_is_finished_at_the_end() {
        let server = Server::start(8).await;
        let request = server.until_closed("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
        let end = async {
            server.asked.notified().await;
            server.shutdown.cancel();
        };
        let (answer, ()) = tokio::join!(request, end);
        assert!(answer.ends_with("done"), "{answer}");
        timeout(PATIENCE, server.done).await.unwrap().unwrap();
        TcpStream::connect(server.address).await.unwrap_err();
    }

    #[tokio::test]
    async fn a_head_beyond_the_limit_is_refused() {
        let server = Server::start(8).await;
        let request = format!("GET / HTTP/1.1\r\nHost: x\r\nLarge: {}\r\n\r\n", "x".repeat(70 * 1024));
        let answer = server.until_closed(&request).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
}
