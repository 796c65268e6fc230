//! Installing over HTTP: what a request says, and the answer, with its progress where that is asked for.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    Json,
    body::Body,
    extract::Request,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_core::Stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::{Api, Problem, body::Most};
use crate::{
    fetch::{self, FetchError, Hosts},
    grants::Grants,
    host::Progress,
    library::{Function, Install, InstallError, Place, Source},
    name::FunctionName,
    settings::{Asked, Installs, is_digest},
};

/// The header with the grants, as JSON.
const GRANTS: &str = "shunt-grants";
/// Lines of an answer that wait for the caller to read. When it is full, the next line waits.
const LINES: usize = 4;
/// Bytes of a JSON body besides the file in it.
const AROUND: usize = 64 * 1024;

/// What an address may say of a file that is the body.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    language: Option<String>,
    sha256: Option<String>,
    /// The name of the file.
    file: Option<String>,
    time_ms: Option<u32>,
    memory_mb: Option<u32>,
    output_kb: Option<u32>,
}

/// A request in JSON: one of `url`, `text`, `base64`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    url: Option<String>,
    text: Option<String>,
    base64: Option<String>,
    language: Option<String>,
    file: Option<String>,
    sha256: Option<String>,
    #[serde(default)]
    grants: Grants,
    time_ms: Option<u32>,
    memory_mb: Option<u32>,
    output_kb: Option<u32>,
}

/// The lines of an answer.
pub(super) struct Lines(pub(super) mpsc::Receiver<Bytes>);

/// Installs what a request holds.
pub(crate) async fn install(api: &Api, name: &str, request: Request) -> Result<Response, Problem> {
    let (name, place) = begin(api, name)?;
    let headers = request.headers().clone();
    let json = content_type(&headers) == "application/json";
    let install =
        if json { from_document(api, name, request).await? } else { from_file(api, name, request).await? };
    Ok(answer(api, place, install, &headers).await)
}

/// A place for an install of this name, where installs over HTTP are allowed.
pub(crate) fn begin(api: &Api, name: &str) -> Result<(FunctionName, Place), Problem> {
    check_installs(api)?;
    let name: FunctionName = name.parse().map_err(|error| Problem::bad("not a name", format!("{error}")))?;
    let place = api.library.place(&name, Source::Http)?;
    Ok((name, place))
}

/// May anybody install over HTTP?
pub(crate) fn check_installs(api: &Api) -> Result<(), Problem> {
    if api.library.settings().installs == Installs::Twin {
        return Err(InstallError::TwinOnly.into());
    }
    Ok(())
}

/// The body is the file.
pub(crate) async fn from_file(api: &Api, name: FunctionName, request: Request) -> Result<Install, Problem> {
    let (headers, uri) = (request.headers().clone(), request.uri().clone());
    let said: axum::extract::Query<Said> = axum::extract::Query::try_from_uri(&uri)
        .map_err(|error| Problem::bad("a bad query", error.body_text()))?;
    let said = said.0;
    let grants = match headers.get(GRANTS) {
        Some(value) => serde_json::from_slice(value.as_bytes())
            .map_err(|error| Problem::bad("bad grants", format!("the header Shunt-Grants: {error}")))?,
        None => Grants::default(),
    };
    let language = extension(said.language.as_deref())?.or_else(|| type_extension(&headers));
    let settings = api.library.settings();
    let most = match language {
        Some("py" | "js") => Most { bytes: settings.max_text_kb as usize * 1024, setting: "max_text_kb" },
        _ => Most { bytes: settings.max_file(), setting: "max_file_kb" },
    };
    let (bytes, room) = api.file(request, most).await?;
    let mut install = Install::of_file(name, said.file.unwrap_or_default(), bytes);
    install.room = Some(Arc::new(room));
    install.extension = language.map(str::to_owned).or(install.extension);
    install.digest = digest(said.sha256)?;
    install.grants = grants;
    install.asked = Asked { time_ms: said.time_ms, memory_mb: said.memory_mb, output_kb: said.output_kb };
    Ok(install)
}

/// The body tells of the file.
async fn from_document(api: &Api, name: FunctionName, request: Request) -> Result<Install, Problem> {
    let most = api.library.settings().max_file();
    let most = Most { bytes: most / 3 * 4 + AROUND, setting: "max_file_kb" };
    let (body, room) = api.file(request, most).await?;
    let document: Document = serde_json::from_slice(&body)
        .map_err(|error| Problem::bad("not such a document", error.to_string()))?;
    let language = extension(document.language.as_deref())?;
    let (file, bytes) = match (document.url, document.text, document.base64) {
        (Some(url), None, None) => fetch(api, &url).await?,
        (None, Some(text), None) => (String::new(), Bytes::from(text)),
        (None, None, Some(base64)) => {
            let bytes =
                STANDARD.decode(base64).map_err(|error| Problem::bad("not base64", error.to_string()))?;
            (String::new(), bytes.into())
        }
        _ => return Err(Problem::bad("not such a document", "it must have one of url, text and base64")),
    };
    let mut install = Install::of_file(name, document.file.unwrap_or(file), bytes);
    // A file takes no more than the document that it was in.
    install.room = Some(Arc::new(room));
    install.extension = language.map(str::to_owned).or(install.extension);
    install.digest = digest(document.sha256)?;
    install.grants = document.grants;
    install.asked =
        Asked { time_ms: document.time_ms, memory_mb: document.memory_mb, output_kb: document.output_kb };
    Ok(install)
}

/// The file at an address and its name, from the hosts that callers may name.
pub(crate) async fn fetch(api: &Api, address: &str) -> Result<(String, Bytes), Problem> {
    let settings = api.library.settings();
    let hosts = if settings.fetch_hosts.is_empty() && api.listens.ip().is_loopback() {
        Hosts::Any
    } else {
        Hosts::These(&settings.fetch_hosts)
    };
    let bytes = api.fetcher.fetch(address, hosts, settings.fetch_limits()).await?;
    Ok((fetch::file_name(address)?, bytes))
}

/// Installs; the answer has the function's entry, and before it the progress where lines are asked for.
async fn answer(api: &Api, place: Place, install: Install, headers: &HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accept.contains("application/x-ndjson") {
        return lines(api, place, install);
    }
    match api.library.install(place, install, Arc::new(|_| ())).await {
        Ok(function) => Json(function.describe()).into_response(),
        Err(error) => Problem::from(error).into_response(),
    }
}

fn lines(api: &Api, place: Place, install: Install) -> Response {
    let (lines, written) = mpsc::channel(LINES);
    let (progress, mut now) = watch::channel(None::<Progress>);
    let library = api.library.clone();
    tokio::spawn(async move {
        let told = Arc::new(move |made: Progress| {
            progress.send_replace(Some(made));
        });
        let mut installing = std::pin::pin!(library.install(place, install, told));
        let installed = loop {
            tokio::select! {
                biased;
                installed = &mut installing => break installed,
                Ok(()) = now.changed() => {
                    let made = *now.borrow_and_update();
                    if let Some(Progress { done, all }) = made {
                        // Whoever asked may have gone: what has begun goes on.
                        lines.send(line(&json!({"progress": {"done": done, "all": all}}))).await.ok();
                    }
                }
            }
        };
        lines.send(line(&outcome(installed))).await.ok();
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(Lines(written))).into_response()
}

fn outcome(installed: Result<Arc<Function>, InstallError>) -> Value {
    match installed {
        Ok(function) => json!({"function": function.describe()}),
        Err(error) => {
            let Problem { status, title, detail, .. } = Problem::from(error);
            json!({"problem": {"title": title, "status": status.as_u16(), "detail": detail}})
        }
    }
}

fn line(value: &Value) -> Bytes {
    format!("{value}\n").into()
}

/// The extension of a language's files.
fn extension(language: Option<&str>) -> Result<Option<&'static str>, Problem> {
    match language.map(str::to_ascii_lowercase).as_deref() {
        None | Some("") => Ok(None),
        Some("py" | "python" | "python3") => Ok(Some("py")),
        Some("js" | "mjs" | "javascript") => Ok(Some("js")),
        Some("wasm" | "webassembly") => Ok(Some("wasm")),
        Some(_) => Err(Problem::bad("no such language", "language must be python, javascript or wasm")),
    }
}

/// The extension that the content type tells.
fn type_extension(headers: &HeaderMap) -> Option<&'static str> {
    match content_type(headers).as_str() {
        "text/x-python" | "text/x-python-script" | "application/x-python" | "application/x-python-code" => {
            Some("py")
        }
        "text/javascript" | "application/javascript" | "application/ecmascript" | "text/ecmascript" => {
            Some("js")
        }
        "application/wasm" => Some("wasm"),
        _ => None,
    }
}

fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn digest(text: Option<String>) -> Result<Option<String>, Problem> {
    match text {
        Some(text) if !is_digest(&text) => {
            Err(Problem::bad("no digest", "sha256 must be 64 hexadecimal digits, as sha256sum tells them"))
        }
        other => Ok(other.map(|text| text.to_ascii_lowercase())),
    }
}

impl From<FetchError> for Problem {
    fn from(error: FetchError) -> Self {
        let (status, title) = match &error {
            FetchError::Address(_) | FetchError::Form => {
                (StatusCode::BAD_REQUEST, "not an address that is fetched")
            }
            FetchError::NoHosts | FetchError::Host(_) => (StatusCode::FORBIDDEN, "not allowed"),
            FetchError::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too large"),
            FetchError::Slow(_) => (StatusCode::GATEWAY_TIMEOUT, "too slow"),
            FetchError::Failed(_) => (StatusCode::BAD_GATEWAY, "cannot be fetched"),
        };
        Self::new(status, title, error.to_string())
    }
}

// === impl Lines ===

impl Stream for Lines {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|line| line.map(Ok))
    }
}
