//! Management as Arm's EdgeFaaS has it: plain text.

use std::sync::Arc;

use axum::{
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
};

use super::{Api, Problem, body::Most, upload};
use crate::{
    library::{Function, Install, InstallError, Source, split_extension},
    name::FunctionName,
};

/// The longest name or address that is read, in bytes.
const TEXT: Most = Most { bytes: 4096, setting: "(none)" };

/// `GET /mgmt`: the names, one a line.
pub(crate) async fn list(State(api): State<Api>) -> String {
    api.library.list().iter().map(|function| format!("{}\n", function.record.name)).collect()
}

/// `POST /mgmt`: the body is the address of a file, whose name without the extension is the function's.
pub(crate) async fn fetch(State(api): State<Api>, request: Request) -> Response {
    let fetched = async {
        upload::check_installs(&api)?;
        let (body, _room) = api.file(request, TEXT).await?;
        let address = text(&body)?;
        let file = crate::fetch::file_name(address)?;
        let stem = file.rsplit_once('.').map_or(file.as_str(), |(stem, _)| stem);
        let (name, place) = upload::begin(&api, stem)?;
        let (file, bytes) = upload::fetch(&api, address).await?;
        // One without an extension gets that of its kind.
        let file = if file.contains('.') { file } else { String::new() };
        let install = Install::of_file(name, file, bytes);
        let function = api.library.install(place, install, Arc::new(|_| ())).await?;
        Ok(created(&function))
    };
    fetched.await.unwrap_or_else(plain)
}

/// `POST /mgmt/NAME`: the body is the file.
pub(crate) async fn install(State(api): State<Api>, Path(name): Path<String>, request: Request) -> Response {
    let installed = async {
        let (stem, extension) = split_extension(&name);
        let (name, place) = upload::begin(&api, stem)?;
        let mut install = upload::from_file(&api, name, request).await?;
        install.extension = install.extension.or_else(|| extension.map(str::to_owned));
        let function = api.library.install(place, install, Arc::new(|_| ())).await?;
        Ok(created(&function))
    };
    installed.await.unwrap_or_else(plain)
}

fn created(function: &Function) -> Response {
    format!("{} has been created", function.record.file).into_response()
}

/// `DELETE /mgmt`: the body is a name.
pub(crate) async fn remove(State(api): State<Api>, request: Request) -> Response {
    let removed = async {
        upload::check_installs(&api)?;
        let (body, _room) = api.file(request, TEXT).await?;
        let text = text(&body)?;
        let name = text.parse::<FunctionName>().map_err(|_| InstallError::Unknown(text.to_owned()))?;
        api.library.remove(&name, Source::Http).await?;
        Ok(format!("{name} has been removed"))
    };
    removed.await.map_or_else(plain, IntoResponse::into_response)
}

fn text(body: &[u8]) -> Result<&str, Problem> {
    let text = std::str::from_utf8(body).map_err(|error| Problem::bad("no text", error.to_string()))?;
    Ok(text.trim())
}

/// One sentence.
fn plain(problem: Problem) -> Response {
    let mut response = (problem.status, problem.detail.clone()).into_response();
    if let Some(retry) = problem.into_response().headers_mut().remove("retry-after") {
        response.headers_mut().insert("retry-after", retry);
    }
    response
}
