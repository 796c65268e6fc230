//! What is wrong with a request, in the form of our own routes.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use shunt_infer::ModelError;
use shunt_module::HttpProblem;

use crate::engine::Refusal;

/// Why a request has no answer: `application/problem+json`, and after which time to come again.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) title: &'static str,
    pub(crate) detail: String,
    /// Whole seconds, for `Retry-After`.
    pub(crate) retry_after: Option<u64>,
    pub(crate) code: Code,
}

/// The word that Custom Vision has for it; its clients compare it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// None: it goes by the status.
    Other,
    /// What was sent is no picture.
    ImageFormat,
    /// The picture is too large.
    ImageSizeBytes,
    /// The address of a picture cannot be used.
    ImageUrl,
}

// === impl Problem ===

impl Problem {
    pub(crate) fn new(status: StatusCode, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, title, detail: detail.into(), retry_after: None, code: Code::Other }
    }

    pub(crate) fn bad(title: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, title, detail)
    }

    /// The same with a word of Custom Vision's.
    pub(crate) fn with_code(self, code: Code) -> Self {
        Self { code, ..self }
    }

    /// The answer of a route that Custom Vision has too: a problem like any other, with the `code` and the `message`
    /// that its clients read.
    pub(crate) fn into_custom_vision_response(self) -> Response {
        let Self { status, title, detail, .. } = &self;
        let body = json!({
            "title": title,
            "status": status.as_u16(),
            "detail": detail,
            "code": self.word(),
            "message": detail,
        });
        let body = (*status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string());
        self.with_retry_after(body.into_response())
    }

    fn word(&self) -> &'static str {
        match (self.code, self.status) {
            (Code::ImageFormat, _) => "BadRequestImageFormat",
            (Code::ImageSizeBytes, _) | (Code::Other, StatusCode::PAYLOAD_TOO_LARGE) => {
                "BadRequestImageSizeBytes"
            }
            (Code::ImageUrl, _) => "BadRequestImageUrl",
            (Code::Other, StatusCode::NOT_FOUND) => "NotFound",
            (Code::Other, status) if status.is_client_error() => "BadRequest",
            (Code::Other, _) => "ErrorUnknown",
        }
    }

    fn with_retry_after(&self, mut response: Response) -> Response {
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    /// No model is loaded that could answer.
    pub(crate) fn no_model() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "no model", "no such model is loaded; /readyz says why")
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Full { retry_after } => {
                let seconds = retry_after.as_secs_f64().ceil().max(1.0) as u64;
                let detail =
                    format!("as many requests as may wait for this model do; try again in {seconds} s");
                Self {
                    retry_after: Some(seconds),
                    ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail)
                }
            }
            refusal @ Refusal::Rows { .. } => Self::bad("too many rows", refusal.to_string()),
            Refusal::Closed => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "ending", "the model is being taken away")
            }
            Refusal::Model(error) => error.into(),
        }
    }
}

impl From<ModelError> for Problem {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Shape { .. }
            | ModelError::Inputs { .. }
            | ModelError::NoPictures { .. }
            | ModelError::Picture { .. } => Self::bad("it does not fit the model", error.to_string()),
            error => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the model failed", error.to_string()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let response = HttpProblem::new(self.status, self.title, self.detail.clone()).into_response();
        self.with_retry_after(response)
    }
}
