//! The routes of second-state/dapr-wasm, both generations, so that its web page and its services' callers work against
//! this module unchanged.
//!
//! They call the installed functions `grayscale` and `classify`. The services of that project were apps behind Dapr; ours
//! are one address, so the gateway's setting `apps` leads each app id here, and the header that tells an app its id says
//! which of them is meant where two have the same path.
//!
//! What it deliberately does otherwise: a function's text never becomes part of a page, large pictures are read to their
//! end, and `GET /init` drops nothing.

mod ledger;
mod sentence;

use std::{net::SocketAddr, time::Duration};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::time::timeout;

use self::ledger::Note;
pub(crate) use self::ledger::{BUCKETS, Ledger};
use crate::{
    api::{Api, Most, Problem},
    host::{Answer, Request as Call},
};

/// The page. Values are put into it as text.
const PAGE: &str = include_str!("dapr_wasm/home.html");
/// What stands in place of a picture that is too large.
const TOO_LARGE: &str = "ImageTooLarge";
/// The largest event that is told of, in bytes.
const EVENT: usize = 4096;
/// How long an answer waits for its event and its state to be on disk. They are a courtesy: what happens is logged.
const NOTING: Duration = Duration::from_secs(2);
/// Encoding more than this is heavy.
const HEAVY: usize = 64 * 1024;
/// Tells an app its id (Dapr, and our gateway).
const CALLEE: &str = "dapr-callee-app-id";
/// Which of the first generation's services is meant.
const API: &str = "api";

/// What the routes share.
#[derive(Clone)]
pub(crate) struct DaprWasm {
    api: Api,
    ledger: Ledger,
}

/// What is done with a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Grayscale,
    Classify,
}

/// How the answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The picture in base64, said to be `image/png`.
    Base64,
    /// As the function says it.
    Text,
    /// A sentence with a link.
    Sentence,
}

/// An event as the services tell it.
#[derive(Debug, Deserialize)]
struct Told {
    event_ts: Option<i64>,
    op_type: OperationTold,
    input_size: u64,
}

/// The newest services say a word, those before a number.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OperationTold {
    Word(String),
    Number(i64),
}

/// The routes.
pub(crate) fn routes(api: &Api, ledger: Ledger) -> Router {
    let state = DaprWasm { api: api.clone(), ledger };
    Router::new()
        .route("/static/home.html", get(page))
        .route("/api/hello", post(hello))
        .route("/api/image", post(image))
        .route("/image", post(image))
        .route("/api/grayscale", post(grayscale))
        .route("/api/classify", post(classify))
        .route("/create_event", post(create_event))
        .route("/init", get(init))
        .route("/events", get(events))
        .with_state(state)
}

/// Puts the apps of the second generation in front of the functions' own routes: `/grayscale` and `/classify` are theirs
/// where the gateway says that one of them was called.
pub(crate) fn before(routes: Router, api: &Api, ledger: Ledger) -> Router {
    let state = DaprWasm { api: api.clone(), ledger };
    routes.layer(middleware::from_fn_with_state(state, by_app))
}

async fn by_app(State(state): State<DaprWasm>, request: Request, next: Next) -> Response {
    let app = text(request.headers(), CALLEE);
    let is_post = *request.method() == Method::POST;
    match request.uri().path() {
        "/grayscale" if is_post && app.starts_with("image-api-") => {
            state.answer(Operation::Grayscale, Form::Base64, true, request).await
        }
        "/classify" if is_post && app.starts_with("image-api-") => {
            state.answer(Operation::Classify, Form::Text, true, request).await
        }
        _ => next.run(request).await,
    }
}

async fn page() -> Response {
    // The page talks to this module only, and no text of a function can run in it.
    let policy = "default-src 'none'; script-src 'sha256-SCRIPT'; style-src 'unsafe-inline'; img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy.replace("SCRIPT", &script_digest(PAGE))),
    ];
    (headers, PAGE).into_response()
}

/// The digest of the page's script, by which its policy knows it.
fn script_digest(page: &str) -> String {
    let script = page.split_once("<script>").and_then(|(_, rest)| rest.split_once("</script>"));
    let script = script.map_or("", |(script, _)| script);
    BASE64_STANDARD.encode(ring::digest::digest(&ring::digest::SHA256, script.as_bytes()))
}

/// The first generation's page: the header says which service; only `go` classifies.
async fn hello(State(state): State<DaprWasm>, request: Request) -> Response {
    let (operation, form) = match text(request.headers(), API) {
        "go" => (Operation::Classify, Form::Sentence),
        _ => (Operation::Grayscale, Form::Base64),
    };
    state.answer(operation, form, false, request).await
}

/// The first generation's services: the one in Go classifies, those in Rust make grey.
async fn image(State(state): State<DaprWasm>, request: Request) -> Response {
    let (operation, form) = match text(request.headers(), CALLEE) {
        "image-api-go" => (Operation::Classify, Form::Sentence),
        _ => (Operation::Grayscale, Form::Base64),
    };
    state.answer(operation, form, false, request).await
}

async fn grayscale(State(state): State<DaprWasm>, request: Request) -> Response {
    state.answer(Operation::Grayscale, Form::Base64, true, request).await
}

async fn classify(State(state): State<DaprWasm>, request: Request) -> Response {
    state.answer(Operation::Classify, Form::Text, true, request).await
}

/// Makes the events' table; ours is always there, and what is in it stays.
async fn init() -> Json<Value> {
    Json(json!({ "status": true }))
}

async fn create_event(State(state): State<DaprWasm>, request: Request) -> Result<Json<Value>, Problem> {
    let most = Most { bytes: EVENT, setting: "largest event" };
    let (body, _room) = state.api.body(request, most).await?;
    let told: Told = serde_json::from_slice(&body)
        .map_err(|error| Problem::bad("no event", format!("the event cannot be read: {error}")))?;
    let note = told.note().map_err(|detail| Problem::bad("no event", detail))?;
    state.ledger.note(note, None).await.map_err(|error| unavailable(&error))?;
    Ok(Json(json!({ "status": true })))
}

async fn events(State(state): State<DaprWasm>) -> Result<Json<Value>, Problem> {
    state.ledger.list().await.map(Json).map_err(|error| unavailable(&error))
}

fn unavailable(error: &impl ToString) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no state now", error.to_string())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Milliseconds since 1970.
fn now_ms() -> i64 {
    (OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000) as i64
}

// === impl DaprWasm ===

impl DaprWasm {
    /// Answers with what the function made of the picture. `noted`: as the second generation does, with an event and the
    /// caller's last call as state.
    async fn answer(&self, operation: Operation, form: Form, noted: bool, request: Request) -> Response {
        match self.work(operation, form, noted, request).await {
            Ok(response) => response,
            // As those services say it, so that their page knows it.
            Err(problem) if problem.status == StatusCode::PAYLOAD_TOO_LARGE => {
                written(HeaderValue::from_static("image/png"), TOO_LARGE.into())
            }
            Err(problem) => problem.into_response(),
        }
    }

    async fn work(
        &self,
        operation: Operation,
        form: Form,
        noted: bool,
        request: Request,
    ) -> Result<Response, Problem> {
        let name = operation.function();
        let function = self.api.library.get(name).ok_or_else(|| operation.missing())?;
        let caller =
            request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip().to_string());
        let most = Most { bytes: self.api.library.settings().max_body(), setting: "max_body_kb" };
        let content_type = text(request.headers(), "content-type").to_owned();
        let (body, _room) = self.api.body(request, most).await?;
        let size = body.len() as u64;
        let call = Call {
            name: name.to_owned(),
            source: "http".to_owned(),
            method: Method::POST,
            path: String::new(),
            query: String::new(),
            headers: HeaderMap::new(),
            content_type,
            body,
            cause: None,
        };
        let answer = self.api.library.call(&function, call).await;
        let answer = answer.map_err(|error| Problem::of_call(name, &error))?;
        if noted {
            let at = now_ms();
            let note = Note { event_ts: at, op_type: name.to_owned(), input_size: size };
            let caller = caller.unwrap_or_else(|| "0.0.0.0".to_owned());
            match timeout(NOTING, self.ledger.note(note, Some((caller, at)))).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "An event of dapr-wasm was not noted."),
                Err(_) => tracing::debug!("An event of dapr-wasm was not noted in time."),
            }
        }
        form.write(answer).await
    }
}

// === impl Operation ===

impl Operation {
    /// The function that does it.
    fn function(self) -> &'static str {
        match self {
            Self::Grayscale => "grayscale",
            Self::Classify => "classify",
        }
    }

    fn missing(self) -> Problem {
        let name = self.function();
        let detail = format!(
            "the function {name:?} is not installed: curl HOST:8080/mgmt/{name} --data-binary @functions/builds/{name}.wasm"
        );
        Problem::new(StatusCode::NOT_FOUND, "no such function", detail)
    }
}

// === impl Form ===

impl Form {
    async fn write(self, answer: Answer) -> Result<Response, Problem> {
        if !answer.status.is_success() {
            let detail = format!("the function answered {}", answer.status);
            return Err(Problem::new(StatusCode::BAD_GATEWAY, "the function failed", detail));
        }
        Ok(match self {
            Self::Base64 => written(HeaderValue::from_static("image/png"), base64(answer.body).await?),
            Self::Text => written(HeaderValue::from_static("text/plain; charset=utf-8"), answer.body),
            Self::Sentence => {
                let said = String::from_utf8_lossy(&answer.body);
                let sentence = sentence::of(&said).ok_or_else(|| {
                    let detail =
                        format!("the function \"classify\" did not answer in the form {}", sentence::FORM);
                    Problem::new(StatusCode::BAD_GATEWAY, "not understood", detail)
                })?;
                // As Go's server says it of such a text.
                written(HeaderValue::from_static("text/plain; charset=utf-8"), sentence.into())
            }
        })
    }
}

async fn base64(body: Bytes) -> Result<Bytes, Problem> {
    if body.len() <= HEAVY {
        return Ok(BASE64_STANDARD.encode(body).into());
    }
    let encoding = tokio::task::spawn_blocking(move || Bytes::from(BASE64_STANDARD.encode(body)));
    encoding.await.map_err(|error| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "not encoded",
            format!("encoding ended early: {error}"),
        )
    })
}

/// What a function made: no browser takes it for a page of ours.
fn written(content_type: HeaderValue, body: Bytes) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox")),
        (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    ];
    (headers, body).into_response()
}

// === impl Told ===

impl Told {
    fn note(self) -> Result<Note, String> {
        let op_type = match self.op_type {
            OperationTold::Number(1) => Operation::Grayscale.function().to_owned(),
            OperationTold::Number(2) => Operation::Classify.function().to_owned(),
            OperationTold::Word(word) if (1..=64).contains(&word.len()) => word,
            OperationTold::Word(_) | OperationTold::Number(_) => {
                return Err(
                    "op_type must be a word of 1 to 64 bytes, or 1 (grayscale) or 2 (classify)".to_owned()
                );
            }
        };
        Ok(Note { event_ts: self.event_ts.unwrap_or_else(now_ms), op_type, input_size: self.input_size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_both_forms_are_read_and_others_are_refused() {
        let read = |text: &str| serde_json::from_str::<Told>(text).map_err(|error| error.to_string())?.note();
        let newest = read(r#"{"event_ts":1700000000000,"op_type":"grayscale","input_size":1234}"#).unwrap();
        assert_eq!(
            (newest.event_ts, newest.op_type.as_str(), newest.input_size),
            (1_700_000_000_000, "grayscale", 1234)
        );
        assert_eq!(read(r#"{"op_type":2,"input_size":5}"#).unwrap().op_type, "classify");
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"op_type":3,"input_size":5}"#,
            r#"{"op_type":"","input_size":5}"#,
            r#"{"op_type":"grayscale","input_size":-5}"#,
            r#"{"op_type":"grayscale"}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_page_loads_nothing_from_elsewhere_and_never_writes_html() {
        assert!(!PAGE.contains("innerHTML") && !PAGE.contains("document.write"), "values are put in as text");
        assert!(!PAGE.contains("src=\"http") && !PAGE.contains("href=\"http"), "no other host");
        assert_eq!(PAGE.matches("<script>").count(), 1);
        assert_ne!(script_digest(PAGE), script_digest(""));
    }
}
