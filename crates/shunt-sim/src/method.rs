//! Direct methods: the call from the cloud and the call from module to module.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::{
    identity::ClientId,
    state::{Inner, MethodTarget},
};

/// Longest method name, in characters.
pub(crate) const MAX_NAME: usize = 100;
/// Largest argument in bytes of JSON.
pub(crate) const MAX_PAYLOAD: usize = 128 * 1024;

/// What a method answered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MethodResult {
    /// The method's own status, usually as of HTTP; 400000 where the module's answer had none.
    pub status: i64,
    /// What it returned.
    pub payload: Value,
}

/// Why a method has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvokeError {
    /// There is no such module or device.
    #[error("there is no module or device {0:?}")]
    Unknown(String),
    /// It was not connected, or takes no methods.
    #[error("{0:?} is not connected, or takes no methods")]
    NotConnected(String),
    /// It did not answer in time.
    #[error("{0:?} did not answer in time")]
    NoAnswer(String),
    /// A limit of the call is broken.
    #[error("{0}")]
    Limit(String),
}

// === impl InvokeError ===

impl InvokeError {
    /// The HTTP status of the call.
    pub fn status(&self) -> u16 {
        match self {
            Self::Unknown(_) | Self::NotConnected(_) => 404,
            Self::NoAnswer(_) => 504,
            Self::Limit(_) => 400,
        }
    }
}

/// Calls a method. Waits `connect` for the target to take methods, then `response` for its answer.
pub(crate) async fn invoke(
    inner: &Inner,
    target: &ClientId,
    name: &str,
    payload: Option<&Value>,
    connect: Duration,
    response: Duration,
) -> Result<MethodResult, InvokeError> {
    if name.is_empty() || name.chars().count() > MAX_NAME {
        return Err(InvokeError::Limit(format!("the method name must have 1 to {MAX_NAME} characters")));
    }
    if name.contains(['/', '#', '+', '?']) {
        return Err(InvokeError::Limit(format!("the method name {name:?} cannot be part of a topic")));
    }
    if payload.is_some_and(|payload| payload.to_string().len() > MAX_PAYLOAD) {
        return Err(InvokeError::Limit(format!("the payload has more than {MAX_PAYLOAD} bytes")));
    }
    wait_for_target(inner, target, connect).await?;
    let (rid, answer) = inner.call_method(target, name, payload).map_err(|error| match error {
        MethodTarget::Unknown => InvokeError::Unknown(target.to_string()),
        MethodTarget::NotConnected => InvokeError::NotConnected(target.to_string()),
        MethodTarget::Busy => InvokeError::NoAnswer(target.to_string()),
    })?;
    let forget = Forget { inner, rid };
    let result = tokio::time::timeout(response, answer).await;
    drop(forget);
    match result {
        Ok(Ok(answer)) => Ok(MethodResult { status: answer.status, payload: answer.payload }),
        _ => Err(InvokeError::NoAnswer(target.to_string())),
    }
}

async fn wait_for_target(inner: &Inner, target: &ClientId, connect: Duration) -> Result<(), InvokeError> {
    let deadline = Instant::now() + connect;
    let mut changes = inner.session_changes.subscribe();
    let mut waited = false;
    loop {
        changes.mark_unchanged();
        match inner.takes_methods(target) {
            Err(_) => return Err(InvokeError::Unknown(target.to_string())),
            Ok(true) if waited => {
                // edgeHub gives a module that has just subscribed a moment.
                tokio::time::sleep(inner.options.method_settle).await;
                return Ok(());
            }
            Ok(true) => return Ok(()),
            Ok(false) => waited = true,
        }
        match timeout_at(deadline, changes.changed()).await {
            Ok(Ok(())) => {}
            _ => return Err(InvokeError::NotConnected(target.to_string())),
        }
    }
}

/// Takes the request out of the table, however the call ends.
struct Forget<'a> {
    inner: &'a Inner,
    rid: String,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.inner.forget_method(&self.rid);
    }
}
