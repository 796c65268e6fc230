//! The module's HTTP interface: `/healthz`, `/readyz`, `/metrics` and the module's own routes.

mod connections;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{Health, metrics};
use connections::Limits;

/// The largest request body in bytes, unless a route sets its own `DefaultBodyLimit`. A larger one gets 413.
const BODY_LIMIT: usize = 1024 * 1024;

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
pub(crate) async fn serve(listener: TcpListener, pages: Router, shutdown: CancellationToken) {
    connections::serve(listener, pages, Limits::default(), shutdown).await;
}

/// The pages that every module has, before its own routes.
pub(crate) fn pages(routes: Router, health: Health, metrics: prometheus::Registry) -> Router {
    let own = Router::new()
        .route("/healthz", get(|| async { Json(json!({"alive": true})) }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_page))
        .with_state(Pages { health, metrics });
    own.fallback_service(routes).layer(DefaultBodyLimit::max(BODY_LIMIT))
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
