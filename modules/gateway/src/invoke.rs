//! Service invocation: `/v1.0/invoke/<app-id>/method/<path>`, and any path with the header `dapr-app-id`.
//!
//! The path after `method/` and the query are sent as they came, byte by byte: an encoded slash stays encoded, and
//! nothing is tidied up. Bodies stream both ways.

use std::error::Error;

use axum::{
    Router,
    body::{Body, HttpBody},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::any,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use http_body_util::{LengthLimitError, Limited};
use percent_encoding::percent_decode_str;
use shunt_module::services::CallError;
use tokio::time::Instant;

use crate::{Gateway, problem::Problem};

/// Names the app where the path does not.
const APP_ID: &str = "dapr-app-id";
/// Tells an app under which name it was called, as Dapr does.
const CALLEE: HeaderName = HeaderName::from_static("dapr-callee-app-id");
/// Tell an app who called it, as a Dapr sidecar does that knows its caller. We do not, and nobody may claim it.
const CALLER: [HeaderName; 2] =
    [HeaderName::from_static("dapr-caller-app-id"), HeaderName::from_static("dapr-caller-namespace")];
/// The route's fixed beginning.
const PREFIX: &str = "/v1.0/invoke/";
/// How often a request may come by in all: apps that hand requests on may bring one twice, a circle brings it for ever.
const ROUNDS: usize = 4;

/// Headers that belong to one connection and are not passed on (RFC 9110, section 7.6.1), apart from those that
/// `Connection` names.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

pub(crate) fn routes() -> Router<Gateway> {
    Router::new().route("/v1.0/invoke/{*rest}", any(by_path))
}

/// A path that no route has.
pub(crate) async fn fallback() -> Problem {
    no_app()
}

fn no_app() -> Problem {
    let message = "failed getting app id either from the URL path or the header dapr-app-id";
    Problem::new(StatusCode::NOT_FOUND, "ERR_DIRECT_INVOKE", message)
}

async fn by_path(State(gateway): State<Gateway>, mut request: Request) -> Response {
    let Some((app, target)) = split(request.uri()) else { return no_app().into_response() };
    *request.uri_mut() = target;
    invoke(&gateway, &app, request).await
}

/// The app id in the path, and what is to be asked of it.
fn split(uri: &Uri) -> Option<(String, Uri)> {
    let whole = uri.path_and_query()?.as_str();
    let rest = whole.strip_prefix(PREFIX)?;
    let (app, rest) = rest.split_once('/')?;
    let path = rest.strip_prefix("method")?;
    let app = percent_decode_str(app).decode_utf8().ok().filter(|app| !app.is_empty())?.into_owned();
    let target = match path.as_bytes().first() {
        Some(b'/') => path.parse().ok()?,
        Some(b'?') => format!("/{path}").parse().ok()?,
        None => Uri::from_static("/"),
        Some(_) => return None,
    };
    Some((app, target))
}

/// The app that a header addresses: `dapr-app-id`, or the user name and password that Dapr takes for one.
pub(crate) fn addressed_by_header(headers: &HeaderMap) -> Option<String> {
    if let Some(app) = headers.get(APP_ID) {
        return Some(app.to_str().unwrap_or_default().to_owned());
    }
    let basic = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let pair = String::from_utf8(BASE64_STANDARD.decode(basic).ok()?).ok()?;
    let (user, app) = pair.split_once(':')?;
    user.eq_ignore_ascii_case(APP_ID).then(|| app.to_owned())
}

/// Invokes with the path as it is.
pub(crate) async fn by_header(gateway: &Gateway, app: &str, mut request: Request) -> Response {
    let headers = request.headers_mut();
    if headers.remove(APP_ID).is_none() {
        // The app was told by it; it says nothing else.
        headers.remove(header::AUTHORIZATION);
    }
    invoke(gateway, app, request).await
}

async fn invoke(gateway: &Gateway, app: &str, mut request: Request) -> Response {
    let begun = Instant::now();
    let refused = |problem: Problem| {
        gateway.tally.failed(app, "refused");
        problem.into_response()
    };
    if goes_in_circles(gateway, app, request.headers()) {
        let why = "the call leads back to the gateway";
        return refused(Problem::invoke(StatusCode::LOOP_DETECTED, app, why));
    }
    let limit = gateway.settings.borrow().max_body_bytes;
    if request.body().size_hint().lower() > limit {
        return refused(Problem::too_large(limit));
    }
    if request.body().size_hint().exact().is_none() {
        request = request.map(|body| Body::new(Limited::new(body, limit as usize)));
    }
    let headers = request.headers_mut();
    drop_hop_by_hop(headers);
    headers.remove(header::EXPECT);
    for name in [CALLEE].iter().chain(&CALLER) {
        headers.remove(name);
    }
    if let Ok(callee) = HeaderValue::from_str(app) {
        headers.insert(CALLEE, callee);
    }
    if let Ok(via) = HeaderValue::from_str(&format!("1.1 {}", gateway.name)) {
        headers.append(header::VIA, via);
    }
    match gateway.apps.call(app, request).await {
        Ok(mut response) => {
            gateway.tally.answered(app, response.status(), begun.elapsed());
            drop_hop_by_hop(response.headers_mut());
            response
        }
        Err(error) if is_too_large(&error) => refused(Problem::too_large(limit)),
        Err(error) => {
            gateway.tally.failed(app, outcome(&error));
            tracing::debug!(app, %error, "A call failed.");
            problem(app, &error).into_response()
        }
    }
}

/// Would this call come back here?
fn goes_in_circles(gateway: &Gateway, app: &str, headers: &HeaderMap) -> bool {
    let name = gateway.name.as_str();
    let ours = |via: &&str| via.split_ascii_whitespace().nth(1) == Some(name);
    let rounds = headers.get_all(header::VIA).iter().filter_map(|via| via.to_str().ok());
    app == name || rounds.flat_map(|via| via.split(',')).filter(ours).count() >= ROUNDS
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
        let named = named.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok());
        for name in named.collect::<Vec<HeaderName>>() {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Did the request's body end because of its limit?
fn is_too_large(error: &CallError) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn outcome(error: &CallError) -> &'static str {
    match error {
        CallError::TimedOut { .. } => "timeout",
        CallError::Broken { .. } | CallError::Request { .. } | CallError::Body { .. } => "broken",
        _ => "refused",
    }
}

fn problem(app: &str, error: &CallError) -> Problem {
    let status = match error {
        CallError::Request { .. } => StatusCode::BAD_REQUEST,
        // What Dapr answers for everything else.
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Problem::invoke(status, app, error)
}
