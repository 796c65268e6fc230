//! Management in JSON.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{Api, Problem, upload};
use crate::{
    library::{Function, Source},
    name::FunctionName,
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
    upload::install(&api, &name, request).await
}

/// `DELETE /functions/NAME`.
pub(crate) async fn remove(State(api): State<Api>, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    upload::check_installs(&api)?;
    let name: FunctionName = name.parse().map_err(|_| Problem::unknown(&name))?;
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
