//! Calling functions.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Extension,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{
    Api, Problem,
    body::{Most, Room},
    door,
};
use crate::{
    host::{Answer, Request as Call},
    library::Function,
};

/// Headers of a request that are none of the function's business: they are of this hop.
const NOT_PASSED: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers that a function cannot answer: of this hop, or such that bind a browser to more than this answer.
const NOT_ANSWERED: &[&str] = &[
    "accept-ch",
    "alt-svc",
    "clear-site-data",
    "connection",
    "content-length",
    "content-security-policy",
    "critical-ch",
    "keep-alive",
    "nel",
    "proxy-authenticate",
    "public-key-pins",
    "refresh",
    "report-to",
    "reporting-endpoints",
    "server-timing",
    "service-worker-allowed",
    "set-cookie",
    "strict-transport-security",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "use-as-dictionary",
    "x-content-type-options",
];

/// Marks an answer as a function's own.
#[derive(Debug, Clone, Copy)]
pub(super) struct ByFunction;

/// Any method on `/NAME`, `/NAME/...`, `/function/NAME`, `/function/NAME/...`.
pub(crate) async fn invoke(
    State(api): State<Api>,
    Path(parts): Path<HashMap<String, String>>,
    request: Request,
) -> Result<Response, Problem> {
    let name = parts.get("name").map_or("", String::as_str);
    call(&api, name, request).await.map(respond)
}

/// `POST /async-function/NAME`, as OpenFaaS has it: answered at once, and the function's answer goes nowhere.
pub(crate) async fn invoke_later(
    State(api): State<Api>,
    Path(name): Path<String>,
    request: Request,
) -> Result<StatusCode, Problem> {
    let (function, call, room) = prepare(&api, &name, request).await?;
    // Not before the body is there: whoever sends it slowly would hold a place.
    let place = Arc::clone(&api.later).try_acquire_owned().map_err(|_| {
        let busy = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "too many calls wait already");
        Problem { retry_after: Some(1), ..busy }
    })?;
    let library = api.library.clone();
    api.library.in_background(async move {
        // What fails is counted, and is in the listing.
        library.call(&function, call).await.ok();
        drop((place, room));
    });
    Ok(StatusCode::ACCEPTED)
}

async fn call(api: &Api, name: &str, request: Request) -> Result<Answer, Problem> {
    let (function, call, _room) = prepare(api, name, request).await?;
    api.library.call(&function, call).await.map_err(|error| Problem::of_call(name, &error))
}

/// The function, and what it is called with.
async fn prepare(api: &Api, name: &str, request: Request) -> Result<(Arc<Function>, Call, Room), Problem> {
    // Before the body is read.
    let function = api.library.get(name).ok_or_else(|| Problem::unknown(name))?;
    let most = Most { bytes: api.library.settings().max_body(), setting: "max_body_kb" };
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let mut headers = request.headers().clone();
    remove_hop(&mut headers);
    door::hide_token(&api.library.settings().token, &mut headers);
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or_default().to_owned();
    let path = behind_name(uri.path()).to_owned();
    let (body, room) = api.body(request, most).await?;
    let call = Call {
        name: name.to_owned(),
        source: "http".to_owned(),
        method,
        path,
        query: uri.query().unwrap_or_default().to_owned(),
        headers,
        content_type,
        body,
        cause: None,
    };
    Ok((function, call, room))
}

/// Takes out the headers of this hop, and those that `Connection` names to be.
fn remove_hop(headers: &mut HeaderMap) {
    let named = headers.get_all(header::CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    let named: Vec<HeaderName> =
        named.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok()).collect();
    for name in named {
        headers.remove(name);
    }
    for name in NOT_PASSED {
        headers.remove(*name);
    }
}

/// What of a path is behind the function's name: empty, or beginning with `/`.
fn behind_name(path: &str) -> &str {
    let rest = path.strip_prefix("/function/").or_else(|| path.strip_prefix('/')).unwrap_or(path);
    rest.find('/').and_then(|at| rest.get(at..)).unwrap_or_default()
}

/// A function's answer can be anything, also a page: a browser must take it for what it says to be, and run nothing of
/// it as if it came from the module.
pub(crate) fn respond(answer: Answer) -> Response {
    let mut headers = HeaderMap::new();
    for (name, value) in &answer.headers {
        if !NOT_ANSWERED.contains(&name.as_str()) {
            headers.append(name.clone(), value.clone());
        }
    }
    let content_type = HeaderValue::from_str(&answer.content_type).ok().filter(|value| !value.is_empty());
    if let Some(content_type) = content_type {
        headers.insert(header::CONTENT_TYPE, content_type);
    } else if !headers.contains_key(header::CONTENT_TYPE) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    let took = format!("call;dur={:.3}", answer.took.as_secs_f64() * 1000.0);
    if let Ok(took) = HeaderValue::from_str(&took) {
        headers.insert(HeaderName::from_static("server-timing"), took);
    }
    (answer.status, headers, Extension(ByFunction), answer.body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_behind_the_name_is_the_function_s() {
        for (path, expected) in [
            ("/echo", ""),
            ("/echo/", "/"),
            ("/echo/a/b", "/a/b"),
            ("/function/echo", ""),
            ("/function/echo/a", "/a"),
            ("/function", ""),
        ] {
            assert_eq!(behind_name(path), expected, "{path}");
        }
    }

    #[test]
    fn a_function_cannot_bind_a_browser_to_more_than_its_answer() {
        let mut headers = HeaderMap::new();
        for name in NOT_ANSWERED {
            headers.append(*name, HeaderValue::from_static("evil"));
        }
        headers.append(header::SET_COOKIE, HeaderValue::from_static("token=evil; Path=/"));
        headers.append("x-own", HeaderValue::from_static("kept"));
        let response = respond(Answer { headers, ..Answer::default() });
        let told: Vec<_> = response.headers().iter().filter(|(_, value)| *value == "evil").collect();
        assert!(told.is_empty(), "{told:?}");
        assert!(!response.headers().contains_key(header::SET_COOKIE));
        assert_eq!(response.headers()["x-own"], "kept");
        assert_eq!(response.headers()["content-security-policy"], "sandbox");
    }

    #[test]
    fn headers_of_the_hop_are_none_of_the_function_s() {
        let mut headers = HeaderMap::new();
        headers.append(header::CONNECTION, HeaderValue::from_static("close, X-Hop"));
        headers.append(header::CONNECTION, HeaderValue::from_static("x-other,"));
        for name in ["x-hop", "x-other", "te", "x-own"] {
            headers.append(name, HeaderValue::from_static("1"));
        }
        remove_hop(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-own"]);
    }
}
