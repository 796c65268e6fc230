//! What the HTTP listeners share: one request in, one JSON answer out, everything bounded.

use std::{convert::Infallible, future::Future, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, Method, Request, Response, StatusCode, header},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::token;

/// Largest body of a request. A longer one is refused with 413.
const MAX_BODY: usize = 1024 * 1024;
/// Time for the head and for the body of a request.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// A request, read completely.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// The parts of the path, percent-decoded.
    pub(crate) path: Vec<String>,
    query: Vec<(String, String)>,
    pub(crate) headers: axum::http::HeaderMap,
    pub(crate) body: Bytes,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Option<Value>,
}

// === impl Call ===

impl Call {
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn parts(&self) -> Vec<&str> {
        self.path.iter().map(String::as_str).collect()
    }
}

// === impl Answer ===

impl Answer {
    pub(crate) fn json(status: u16, body: Value) -> Self {
        Self { status, body: Some(body) }
    }

    pub(crate) fn empty(status: u16) -> Self {
        Self { status, body: None }
    }

    /// `{"message": "..."}`, the form of all errors here.
    pub(crate) fn error(status: u16, message: impl Into<String>) -> Self {
        Self::json(status, json!({"message": message.into()}))
    }

    fn into_response(self) -> Response<Body> {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = match self.body {
            Some(body) => {
                let mut response = Response::new(Body::from(body.to_string()));
                response
                    .headers_mut()
                    .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                response
            }
            None => Response::new(Body::empty()),
        };
        *response.status_mut() = status;
        response
    }
}

/// Serves HTTP/1.1 on one connection until it ends or `stop` is cancelled.
pub(crate) async fn serve<S, H, F>(stream: S, stop: CancellationToken, handler: H)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Call) -> F,
    F: Future<Output = Answer>,
{
    let handler = &handler;
    let service = service_fn(move |request: Request<Incoming>| async move {
        let answer = match read(request).await {
            Ok(call) => handler(call).await,
            Err(answer) => answer,
        };
        Ok::<_, Infallible>(answer.into_response())
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(READ_LIMIT).max_headers(64);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            tracing::debug!("An HTTP connection broke: {error}.");
        },
        () = stop.cancelled() => {}
    }
}

async fn read(request: Request<Incoming>) -> Result<Call, Answer> {
    let (head, body) = request.into_parts();
    let decoded: Option<Vec<String>> =
        head.uri.path().split('/').filter(|part| !part.is_empty()).map(token::decode).collect();
    let path = decoded.ok_or_else(|| Answer::error(400, "the path is not percent-encoded UTF-8"))?;
    let query = head
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((token::decode(name)?, token::decode(value)?))
        })
        .collect();
    #[expect(clippy::disallowed_methods, reason = "this is the one place, and it has a limit")]
    let body = tokio::time::timeout(READ_LIMIT, axum::body::to_bytes(Body::new(body), MAX_BODY))
        .await
        .map_err(|_| Answer::error(408, "the body did not come in time"))?
        .map_err(|_| Answer::error(413, format!("the body has more than {MAX_BODY} bytes or broke off")))?;
    Ok(Call { method: head.method, path, query, headers: head.headers, body })
}
