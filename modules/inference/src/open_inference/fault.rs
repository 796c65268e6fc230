//! What is wrong with a request, in the protocol's own forms.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use shunt_infer::ModelError;
use tonic::{Code, Status};

use crate::{engine::Refusal, problem::Problem};

/// Characters of a message: over gRPC it travels in a header, and it may repeat what the caller sent.
const MESSAGE: usize = 600;

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// The request contradicts itself or the model.
    #[error("{0}")]
    Bad(String),
    /// There is no such model, version or path.
    #[error("{0}")]
    Unknown(String),
    /// The path is there, for another method.
    #[error("the method {0} is not for this path")]
    Method(String),
    /// Its body is too large.
    #[error("the body is too large: {0}")]
    Large(String),
    /// Its body is packed in a way that is not known.
    #[error("the content encoding {0:?} is not known; gzip and deflate are")]
    Encoding(String),
    /// The protocol has it, this server does not.
    #[error("{0}")]
    Unsupported(&'static str),
    /// There is no room for it.
    #[error("{text}; try again in {seconds} s")]
    Full { text: String, seconds: u64 },
    /// No model can be asked now.
    #[error("{0}")]
    Unavailable(String),
    /// The model failed.
    #[error("{0}")]
    Failed(String),
}

// === impl Fault ===

impl Fault {
    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self::Bad(text.into())
    }

    pub(super) fn large(limit: usize) -> Self {
        Self::Large(format!("the setting max_body_mb allows {limit} bytes"))
    }

    /// Is it the caller's?
    pub(super) fn is_callers(&self) -> bool {
        self.status().is_client_error()
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Bad(_) => StatusCode::BAD_REQUEST,
            Self::Unknown(_) => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Large(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Encoding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Unsupported(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Full { .. } | Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Bad(_) | Self::Method(_) | Self::Encoding(_) => Code::InvalidArgument,
            Self::Unknown(_) => Code::NotFound,
            Self::Large(_) => Code::ResourceExhausted,
            Self::Unsupported(_) => Code::Unimplemented,
            Self::Full { .. } | Self::Unavailable(_) => Code::Unavailable,
            Self::Failed(_) => Code::Internal,
        }
    }

    fn message(&self) -> String {
        let text = self.to_string();
        match text.char_indices().nth(MESSAGE) {
            Some((end, _)) => format!("{} ...", text.get(..end).unwrap_or_default()),
            None => text,
        }
    }
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        let Problem { status, detail, retry_after, .. } = problem;
        match (status, retry_after) {
            (_, Some(seconds)) => Self::Full { text: detail, seconds },
            (StatusCode::PAYLOAD_TOO_LARGE, None) => Self::Large(detail),
            (StatusCode::SERVICE_UNAVAILABLE, None) => Self::Unavailable(detail),
            (status, None) if status.is_client_error() => Self::Bad(detail),
            _ => Self::Failed(detail),
        }
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Full { retry_after } => Self::Full {
                text: "as many requests as may wait for this model do".to_owned(),
                seconds: retry_after.as_secs_f64().ceil().max(1.0) as u64,
            },
            refusal @ Refusal::Rows { .. } => Self::Bad(refusal.to_string()),
            refusal @ Refusal::Closed => Self::Unavailable(refusal.to_string()),
            Refusal::Model(error @ (ModelError::Shape { .. } | ModelError::Inputs { .. })) => {
                Self::Bad(error.to_string())
            }
            Refusal::Model(error) => Self::Failed(error.to_string()),
        }
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let mut status = Self::new(fault.code(), fault.message());
        if let Fault::Full { seconds, .. } = fault {
            // The name that gRPC's own retries look at.
            let pause = Duration::from_secs(seconds).as_millis().to_string();
            if let Ok(pause) = pause.parse() {
                status.metadata_mut().insert("grpc-retry-pushback-ms", pause);
            }
        }
        status
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(json!({"error": self.message()}))).into_response();
        if let Self::Full { seconds, .. } = self {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let fault = Fault::Bad("ü".repeat(5_000));
        assert_eq!(fault.message().chars().count(), MESSAGE + 4);
        assert_eq!(Status::from(fault).code(), Code::InvalidArgument);
    }

    #[test]
    fn a_full_queue_tells_when_to_come_again_in_both_forms() {
        let fault = Fault::from(Refusal::Full { retry_after: Duration::from_millis(1_200) });
        let status = Status::from(fault.clone());
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "2000");
        let response = fault.into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
    }
}
