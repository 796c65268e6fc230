//! The module's HTTP interface: `/healthz`, `/readyz`, `/metrics` and the module's own routes.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

use crate::{Health, metrics};

/// The largest request body in bytes, unless a route sets its own `DefaultBodyLimit`. A larger one gets 413.
const BODY_LIMIT: usize = 1024 * 1024;

/// Most open connections. When it is reached, new ones wait in the kernel's queue until one closes.
const CONNECTIONS: usize = 256;

/// An error answer of our own routes: `application/problem+json` (RFC 9457).
///
/// ```
/// use axum::http::StatusCode;
/// use shunt_module::HttpProblem;
///
/// async fn route() -> Result<String, HttpProblem> {
///     Err(HttpProblem::new(StatusCode::NOT_FOUND, "no such picture", "the folder has 3 pictures, not 4"))
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProblem {
    status: StatusCode,
    title: String,
    detail: String,
}

// === impl HttpProblem ===

impl HttpProblem {
    /// A problem: its kind in a few words, and what is the matter this time.
    pub fn new(status: StatusCode, title: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { status, title: title.into(), detail: detail.into() }
    }
}

impl IntoResponse for HttpProblem {
    fn into_response(self) -> Response {
        let body = json!({"title": self.title, "status": self.status.as_u16(), "detail": self.detail});
        (self.status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
    }
}

#[derive(Debug, Clone)]
struct Pages {
    health: Health,
    metrics: prometheus::Registry,
}

/// Serves until shutdown; open requests are finished.
pub(crate) async fn serve(
    listener: TcpListener,
    routes: Router,
    health: Health,
    metrics: prometheus::Registry,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let own = Router::new()
        .route("/healthz", get(|| async { Json(json!({"alive": true})) }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_page))
        .with_state(Pages { health, metrics });
    let pages = own.fallback_service(routes).layer(DefaultBodyLimit::max(BODY_LIMIT));
    let listener = Bounded { listener, permits: Arc::new(Semaphore::new(CONNECTIONS)) };
    axum::serve(listener, pages).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

async fn readyz(State(pages): State<Pages>) -> (StatusCode, Json<Value>) {
    let (ready, report) = pages.health.report();
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(report))
}

async fn metrics_page(State(pages): State<Pages>) -> Response {
    match metrics::page(&pages.metrics) {
        Ok(page) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response()
        }
        Err(error) => HttpProblem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "metrics cannot be written",
            error.to_string(),
        )
        .into_response(),
    }
}

/// A listener with no more than [`CONNECTIONS`] open, and no-delay on each.
struct Bounded {
    listener: TcpListener,
    permits: Arc<Semaphore>,
}

/// A connection that gives its permit back when it is closed.
struct Guarded {
    stream: TcpStream,
    _permit: Option<OwnedSemaphorePermit>,
}

// === impl Bounded ===

impl axum::serve::Listener for Bounded {
    type Io = Guarded;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // The semaphore is never closed.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        // axum's own listener waits and tries again when the process has no file descriptor left.
        let (stream, address) = axum::serve::Listener::accept(&mut self.listener).await;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "A connection did not take no-delay.");
        }
        (Guarded { stream, _permit: permit }, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

// === impl Guarded ===

impl AsyncRead for Guarded {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
