//! Management in JSON.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{Api, Problem, body::Most};
use crate::{
    library::{Function, Install, Source},
    name::FunctionName,
    settings::Installs,
};

/// `GET /functions`: all of them.
pub(crate) async fn list(State(api): State<Api>) -> Json<Value> {
    let list: Vec<_> = api.library.list().iter().map(|function| function.describe()).collect();
    Json(list.into())
}

/// `GET /functions/NAME`.
pub(crate) async fn get(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    Ok(Json(find(&api, &name)?.describe()))
}

/// `PUT /functions/NAME`: installs it.
pub(crate) async fn put(
    State(api): State<Api>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    check_installs(&api)?;
    let name = self::name(&name)?;
    api.library.check_owner(&name, Source::Http)?;
    let extension = language(request.headers());
    let (bytes, _room) = api.body(request, most_file(&api)).await?;
    let extension = extension.or_else(|| guess(&bytes));
    let install = Install { extension: extension.map(str::to_owned), ..Install::new(name, bytes) };
    let function = api.library.install(install, Arc::new(|_| ())).await?;
    Ok(Json(function.describe()).into_response())
}

/// `DELETE /functions/NAME`.
pub(crate) async fn remove(State(api): State<Api>, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    check_installs(&api)?;
    let name = self::name(&name)?;
    api.library.remove(&name, Source::Http).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /functions/NAME/content`: its file.
pub(crate) async fn content(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, Problem> {
    let function = find(&api, &name)?;
    if function.record.source == Source::BuiltIn {
        return Err(Problem::new(StatusCode::NOT_FOUND, "no file", format!("{name} is built in")));
    }
    let bytes = api.library.content(&function).await.map_err(|error| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the file cannot be read", error.to_string())
    })?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::ETAG, format!("\"{}\"", function.record.digest)),
    ];
    Ok((headers, bytes).into_response())
}

/// `GET /system/functions`: the list as OpenFaaS has it.
pub(crate) async fn open_faas(State(api): State<Api>) -> Json<Value> {
    let entry = |function: &Arc<Function>| {
        let ready = u32::from(function.error().is_none());
        json!({
            "name": function.record.name,
            "image": function.record.file,
            "namespace": "",
            "envProcess": "",
            "labels": {},
            "annotations": {"digest": function.record.digest},
            "invocationCount": function.statistics.calls(),
            "replicas": 1,
            "availableReplicas": ready,
            "createdAt": function.record.installed_at,
        })
    };
    Json(api.library.list().iter().map(entry).collect::<Vec<_>>().into())
}

fn find(api: &Api, name: &str) -> Result<Arc<Function>, Problem> {
    api.library.get(name).ok_or_else(|| Problem::unknown(name))
}

/// May anybody install over HTTP?
pub(crate) fn check_installs(api: &Api) -> Result<(), Problem> {
    if api.library.settings().installs == Installs::Twin {
        let detail = "functions are installed by the module twin only, as the setting installs says";
        return Err(Problem::new(StatusCode::FORBIDDEN, "not allowed", detail));
    }
    Ok(())
}

pub(crate) fn name(text: &str) -> Result<FunctionName, Problem> {
    text.parse().map_err(|error| Problem::bad("not a name", format!("{error}")))
}

/// The most that a file may have.
pub(crate) fn most_file(api: &Api) -> Most {
    Most { bytes: api.library.settings().max_file(), setting: "max_file_kb" }
}

/// The name and the extension, where it is one of a function's file.
pub(crate) fn split_extension(file: &str) -> (&str, Option<&'static str>) {
    let Some((stem, extension)) = file.rsplit_once('.') else { return (file, None) };
    match extension.to_ascii_lowercase().as_str() {
        "py" => (stem, Some("py")),
        "js" | "mjs" => (stem, Some("js")),
        "wasm" => (stem, Some("wasm")),
        _ => (file, None),
    }
}

/// The language that the content type says.
pub(crate) fn language(headers: &HeaderMap) -> Option<&'static str> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let value = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match value.as_str() {
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

/// The language of a text of which nobody said it, by its handler.
pub(crate) fn guess(bytes: &[u8]) -> Option<&'static str> {
    if bytes.starts_with(b"\0asm") {
        return Some("wasm");
    }
    let text = std::str::from_utf8(bytes).ok()?;
    let python = |line: &str| line.starts_with("def handle(") || line.starts_with("async def handle(");
    let script = |line: &str| {
        [
            "export ",
            "module.exports",
            "exports.",
            "function handle",
            "async function handle",
            "const handle",
            "let handle",
            "var handle",
        ]
        .iter()
        .any(|begin| line.starts_with(begin))
    };
    text.lines().find_map(|line| match line {
        line if python(line) => Some("py"),
        line if script(line) => Some("js"),
        _ => None,
    })
}
