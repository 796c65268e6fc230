//! Management as Arm's EdgeFaaS has it: plain text.

use std::sync::Arc;

use axum::{
    extract::{Path, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{Api, Problem, body::Most, manage};
use crate::{
    library::{Install, InstallError, Source},
    name::FunctionName,
};

/// The longest name or address that is read, in bytes.
const TEXT: Most = Most { bytes: 4096, setting: "(none)" };

/// `GET /mgmt`: the names, one a line.
pub(crate) async fn list(State(api): State<Api>) -> String {
    api.library.list().iter().map(|function| format!("{}\n", function.record.name)).collect()
}

/// `POST /mgmt`: the body is the address of a file.
pub(crate) async fn fetch(State(_api): State<Api>, _request: Request) -> Response {
    plain(Problem::new(StatusCode::NOT_IMPLEMENTED, "not yet", "addresses are not fetched yet"))
}

/// `POST /mgmt/NAME`: the body is the file.
pub(crate) async fn install(State(api): State<Api>, Path(name): Path<String>, request: Request) -> Response {
    match install_body(&api, &name, request).await {
        Ok(text) => text.into_response(),
        Err(problem) => plain(problem),
    }
}

async fn install_body(api: &Api, name: &str, request: Request) -> Result<String, Problem> {
    manage::check_installs(api)?;
    let (stem, extension) = manage::split_extension(name);
    let name: FunctionName = manage::name(stem)?;
    api.library.check_owner(&name, Source::Http)?;
    let extension = extension.or_else(|| manage::language(request.headers()));
    let (bytes, _room) = api.body(request, manage::most_file(api)).await?;
    let extension = extension.or_else(|| manage::guess(&bytes));
    let install = Install { extension: extension.map(str::to_owned), ..Install::new(name, bytes) };
    let function = api.library.install(install, Arc::new(|_| ())).await?;
    Ok(format!("{} has been created", function.record.file))
}

/// `DELETE /mgmt`: the body is a name.
pub(crate) async fn remove(State(api): State<Api>, request: Request) -> Response {
    let removed = async {
        manage::check_installs(&api)?;
        let (body, _room) = api.body(request, TEXT).await?;
        let text = std::str::from_utf8(&body).unwrap_or_default().trim();
        let name = text.parse::<FunctionName>().map_err(|_| InstallError::Unknown(text.to_owned()))?;
        api.library.remove(&name, Source::Http).await?;
        Ok(format!("{name} has been removed"))
    };
    removed.await.map_or_else(plain, IntoResponse::into_response)
}

/// One sentence.
fn plain(problem: Problem) -> Response {
    let mut response = (problem.status, problem.detail.clone()).into_response();
    if let Some(retry) = problem.into_response().headers_mut().remove("retry-after") {
        response.headers_mut().insert("retry-after", retry);
    }
    response
}
