//! `/v1.0/healthz`, `/v1.0/healthz/outbound`, `/v1.0/shutdown`.

use axum::{
    Router,
    http::StatusCode,
    routing::{get, post},
};

use crate::{Gateway, problem::Problem};

pub(crate) fn routes() -> Router<Gateway> {
    // The gateway answers as soon as it lives: what it needs (bus, stores) is told by the routes that need it, and by
    // the module's own /readyz.
    Router::new()
        .route("/v1.0/healthz", get(|| async { StatusCode::NO_CONTENT }))
        .route("/v1.0/healthz/outbound", get(|| async { StatusCode::NO_CONTENT }))
        .route("/v1.0/shutdown", post(shutdown))
}

/// A sidecar belongs to its app, this gateway to the whole device.
async fn shutdown() -> Problem {
    let message =
        "the gateway serves all apps of the device and is not stopped by one of them; IoT Edge stops it";
    Problem::new(StatusCode::FORBIDDEN, "ERR_SHUTDOWN_REFUSED", message)
}
