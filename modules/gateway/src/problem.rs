//! Errors in Dapr's form: `{"errorCode": "ERR_...", "message": "...", "details": [...]}`.
//!
//! Codes, messages and statuses are those of Dapr's reference "Error codes" and of its runtime (dapr/dapr,
//! `pkg/messages`), because SDKs and apps look at them.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

/// An error answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// Dapr's richer description, in the form of `google.rpc` error details.
    details: Vec<Value>,
}

// === impl Problem ===

impl Problem {
    /// An error with Dapr's code for it.
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), details: Vec::new() }
    }

    /// The same with a detail more.
    pub(crate) fn with_detail(mut self, detail: Value) -> Self {
        self.details.push(detail);
        self
    }

    /// The body cannot be used.
    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "ERR_MALFORMED_REQUEST", message)
    }

    /// The body is larger than the setting allows.
    pub(crate) fn too_large(limit: u64) -> Self {
        let message =
            format!("the request body is larger than {limit} bytes (the gateway's setting max_body_bytes)");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "ERR_MALFORMED_REQUEST", message)
    }

    /// An app was called and cannot answer.
    pub(crate) fn invoke(status: StatusCode, app: &str, error: impl std::fmt::Display) -> Self {
        Self::new(status, "ERR_DIRECT_INVOKE", format!("failed to invoke, id: {app}, err: {error}"))
    }

    pub(crate) fn code(&self) -> &'static str {
        self.code
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({"errorCode": self.code, "message": self.message});
        if !self.details.is_empty()
            && let Some(body) = body.as_object_mut()
        {
            body.insert("details".to_owned(), Value::Array(self.details));
        }
        (self.status, Json(body)).into_response()
    }
}
