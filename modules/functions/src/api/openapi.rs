//! The document of the whole port (OpenAPI 3) and a page that shows it.

use axum::{
    Router,
    http::header,
    response::{Html, Redirect},
    routing::get,
};

const PAGE: &str = include_str!("openapi.html");
const DOCUMENT: &str = include_str!("openapi.json");

/// `/openapi.json`, the page `/swagger`, and `/` that leads to it.
pub(crate) fn routes() -> Router {
    let document = || async { ([(header::CONTENT_TYPE, "application/json")], DOCUMENT) };
    // Nobody may put the page into a frame of his own.
    let page = || async { ([(header::CONTENT_SECURITY_POLICY, "frame-ancestors 'none'")], Html(PAGE)) };
    Router::new()
        .route("/openapi.json", get(document))
        .route("/swagger", get(page))
        .route("/", get(|| async { Redirect::temporary("/swagger") }))
}
