//! What is wrong with a request, in the form of our own routes.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use shunt_module::HttpProblem;

use crate::{
    host::{CallError, Refusal},
    library::{InstallError, InvokeError},
};

/// The longest sentence of a problem, in characters.
const DETAIL: usize = 1_000;

/// Why a request has no answer: `application/problem+json`, and after which time to come again.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) title: &'static str,
    pub(crate) detail: String,
    /// Whole seconds, for `Retry-After`.
    pub(crate) retry_after: Option<u64>,
}

// === impl Problem ===

impl Problem {
    pub(crate) fn new(status: StatusCode, title: &'static str, detail: impl Into<String>) -> Self {
        // A sentence may repeat what was sent, however long that is.
        let mut detail = detail.into();
        if let Some((end, _)) = detail.char_indices().nth(DETAIL) {
            detail.truncate(end);
        }
        Self { status, title, detail, retry_after: None }
    }

    pub(crate) fn bad(title: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, title, detail)
    }

    /// There is no such function.
    pub(crate) fn unknown(name: &str) -> Self {
        // A path may be long.
        let name: String = name.chars().take(64).collect();
        Self::new(StatusCode::NOT_FOUND, "no such function", format!("there is no function {name:?}"))
    }

    /// Why this function did not answer.
    pub(crate) fn of_call(name: &str, error: &InvokeError) -> Self {
        let (status, title) = match error {
            InvokeError::Off(_) => (StatusCode::SERVICE_UNAVAILABLE, "switched off"),
            InvokeError::Preparing => (StatusCode::SERVICE_UNAVAILABLE, "not ready yet"),
            InvokeError::Unprepared(_) => (StatusCode::INTERNAL_SERVER_ERROR, "cannot be called"),
            InvokeError::Removed => (StatusCode::NOT_FOUND, "no such function"),
            InvokeError::Store => (StatusCode::BAD_REQUEST, "cannot be called"),
            InvokeError::Call(error) => match error {
                CallError::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
                CallError::Full => (StatusCode::SERVICE_UNAVAILABLE, "no memory left"),
                CallError::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "ending"),
                CallError::Time(_) => (StatusCode::GATEWAY_TIMEOUT, "took too long"),
                CallError::Memory(_) => (StatusCode::INTERNAL_SERVER_ERROR, "took too much memory"),
                CallError::Output(_) => (StatusCode::BAD_GATEWAY, "answered too much"),
                CallError::Refused(_) => (StatusCode::UNPROCESSABLE_ENTITY, "the function refused"),
                CallError::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the function failed"),
            },
        };
        let again = status == StatusCode::SERVICE_UNAVAILABLE && !matches!(error, InvokeError::Off(_));
        let retry_after = again.then_some(1);
        Self { retry_after, ..Self::new(status, title, format!("{name}: {error}")) }
    }
}

impl From<InstallError> for Problem {
    fn from(error: InstallError) -> Self {
        let detail = error.to_string();
        let (status, title) = match &error {
            InstallError::Echo => (StatusCode::FORBIDDEN, "built in"),
            InstallError::Unknown(_) => (StatusCode::NOT_FOUND, "no such function"),
            InstallError::TwinOnly => (StatusCode::FORBIDDEN, "not allowed"),
            InstallError::Unwanted => (StatusCode::CONFLICT, "not wanted any more"),
            InstallError::TwinsOwn(_) => (StatusCode::CONFLICT, "the module twin's own"),
            InstallError::Digest { .. } => (StatusCode::BAD_REQUEST, "another file than meant"),
            InstallError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too large"),
            InstallError::TooMany(_) => (StatusCode::INSUFFICIENT_STORAGE, "no room"),
            InstallError::Asked(_) => (StatusCode::BAD_REQUEST, "cannot be given"),
            InstallError::Refused(Refusal::NoInterpreter(_)) => {
                (StatusCode::NOT_IMPLEMENTED, "no interpreter")
            }
            InstallError::Refused(Refusal::Host(_)) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "cannot be prepared")
            }
            InstallError::Refused(_) => (StatusCode::UNPROCESSABLE_ENTITY, "not a function"),
            InstallError::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            InstallError::Disk(_) => (StatusCode::INSUFFICIENT_STORAGE, "cannot be kept"),
            InstallError::Ended(_) => (StatusCode::SERVICE_UNAVAILABLE, "ended early"),
        };
        let retry_after = matches!(error, InstallError::Busy).then_some(5);
        Self { retry_after, ..Self::new(status, title, detail) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = HttpProblem::new(self.status, self.title, self.detail).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
