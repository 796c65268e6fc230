//! The HTTP interface: Text Analytics v2.0 as the container of Azure Cognitive Services has it, and its pages.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{any, get, post},
};
use serde_json::json;
use shunt_module::Health;
use shunt_wire::seed::{TextDocument, TextDocuments, TextRefusal, TextRefusalReason};

use crate::{
    judge::{Judge, NoVerdict, TEXTS, duplicate_id},
    tally::Tally,
};

/// Who judged: the local model's name, or `cognitive`.
const MODEL: HeaderName = HeaderName::from_static("x-shunt-model");
/// Why the local model judged although the container was wanted.
const FALLBACK: HeaderName = HeaderName::from_static("x-shunt-fallback");

const PAGE: &str = include_str!("swagger.html");
const OPENAPI: &str = include_str!("openapi.json");

/// What the routes share.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) judge: Judge,
    pub(crate) health: Health,
    pub(crate) tally: Tally,
}

/// Why a request is refused as a whole: the code and the sentence of the Text Analytics API.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
}

/// The routes.
pub(crate) fn routes(api: Api) -> Router {
    let document = || async { ([(header::CONTENT_TYPE, "application/json")], OPENAPI) };
    Router::new()
        .route("/text/analytics/v2.0/sentiment", post(sentiment).fallback(not_found))
        .route("/text/analytics/{*rest}", any(not_found))
        .route("/ready", get(ready))
        .route("/status", get(status))
        .route("/", get(|| async { Redirect::temporary("/swagger") }))
        .route("/swagger", get(|| async { Html(PAGE) }))
        .route("/swagger/index.html", get(|| async { Html(PAGE) }))
        .route("/swagger/v1/swagger.json", get(document))
        .route("/openapi.json", get(document))
        .with_state(api)
}

/// `POST /text/analytics/v2.0/sentiment`
async fn sentiment(State(api): State<Api>, body: Result<Bytes, BytesRejection>) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => {
            let message = format!("The request cannot be read: {}", rejection.body_text());
            return api.refuse(Refusal {
                status: rejection.status(),
                code: "InvalidRequestContent",
                message,
            });
        }
    };
    match api.judge.judge_request(move || read(&body)).await {
        Ok(Ok(verdict)) => {
            let mut response = Json(verdict.scores).into_response();
            response.headers_mut().extend([
                (header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8")),
                (MODEL, header_value(&verdict.model)),
            ]);
            if let Some(reason) = verdict.fallback {
                response.headers_mut().insert(FALLBACK, header_value(&reason));
            }
            response
        }
        Ok(Err(refusal)) => api.refuse(refusal),
        Err(problem) => api.unavailable(problem),
    }
}

/// The documents of a request, or why it is refused.
fn read(body: &[u8]) -> Result<Vec<TextDocument>, Refusal> {
    let bad = |code, message: String| Refusal { status: StatusCode::BAD_REQUEST, code, message };
    let request: TextDocuments = serde_json::from_slice(body)
        .map_err(|error| bad("InvalidRequestBodyFormat", format!("Request body format is wrong: {error}")))?;
    let documents = request.documents.unwrap_or_default();
    if documents.is_empty() {
        return Err(bad("MissingInputRecords", "Missing input records.".to_owned()));
    }
    if documents.len() > TEXTS {
        let message = format!("Batch request contains too many records. Max {TEXTS} records are permitted.");
        return Err(bad("InvalidDocumentBatch", message));
    }
    if duplicate_id(&documents).is_some() {
        let message = "Request contains duplicated Ids. Make sure each document has a unique Id.";
        return Err(bad("InvalidDocument", message.to_owned()));
    }
    Ok(documents)
}

/// What the cloud's gateway answers where there is nothing.
async fn not_found() -> Response {
    let body = json!({"statusCode": 404, "message": "Resource not found"});
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

/// Can it judge now?
async fn ready(State(api): State<Api>) -> Response {
    let loaded = api.judge.bench().is_some();
    let (status, word) =
        if loaded { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") };
    (status, Json(json!({"service": "sentiment", "ready": word}))).into_response()
}

/// Is its key good? It needs none.
async fn status(State(api): State<Api>) -> Response {
    let body = json!({
        "service": "sentiment",
        "apiStatus": "Valid",
        "apiStatusMessage": "No key is needed: texts are judged here.",
        "model": api.judge.bench().map(|bench| bench.model.name().to_owned()),
        "modelSha256": api.judge.bench().map(|bench| bench.model.digest().to_owned()),
        "ready": api.health.is_ready(),
    });
    Json(body).into_response()
}

/// The text as a header's value; what no header takes is replaced.
fn header_value(text: &str) -> HeaderValue {
    let plain: String = text.chars().map(|sign| if matches!(sign, ' '..='~') { sign } else { '?' }).collect();
    HeaderValue::from_str(&plain).unwrap_or_else(|_| HeaderValue::from_static("?"))
}

// === impl Api ===

impl Api {
    fn refuse(&self, refusal: Refusal) -> Response {
        self.tally.refused.inc();
        let Refusal { status, code, message } = refusal;
        let body = TextRefusal {
            code: "BadRequest".to_owned(),
            message: "Invalid request".to_owned(),
            inner_error: TextRefusalReason { code: code.to_owned(), message },
        };
        (status, Json(body)).into_response()
    }

    fn unavailable(&self, problem: NoVerdict) -> Response {
        self.tally.refused.inc();
        let body = TextRefusal {
            code: "ServiceUnavailable".to_owned(),
            message: "The service is not ready".to_owned(),
            inner_error: TextRefusalReason {
                code: "ServiceUnavailable".to_owned(),
                message: problem.to_string(),
            },
        };
        (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
    }
}
