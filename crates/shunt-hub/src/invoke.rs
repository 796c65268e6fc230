//! Calling a direct method of another module through edgeHub, over HTTPS.

use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    fault::{Fault, chain},
    options::HubOptions,
    tls,
    token::Signer,
    topic::{API_VERSION, encode},
    workload::{WorkloadError, read_body},
};

const MAX_NAME: usize = 100;
const MAX_PAYLOAD: usize = 128 * 1024;
/// An answer carries a payload of 128 KiB at most.
const MAX_ANSWER: usize = 1 << 20;
/// To reach edgeHub; on top of the caller's limits.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How long to wait for another module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvokeLimits {
    /// For its answer: 5 to 300 s, 30 by default.
    pub response: Duration,
    /// For it to be connected: 0 to 300 s, 0 by default.
    pub connect: Duration,
}

/// What another module answered.
#[derive(Debug, Clone, PartialEq)]
pub struct MethodAnswer {
    /// Its status, as of HTTP.
    pub status: i32,
    /// Its payload.
    pub payload: Value,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvokeError {
    /// A limit of the hub is broken. Never sent.
    #[error("{0}")]
    Limit(String),
    /// The target is not connected, or does not take methods (404).
    #[error("the target is not there: {0}")]
    NotThere(String),
    /// The target did not answer in time (504).
    #[error("the target did not answer in time: {0}")]
    Late(String),
    /// The hub refused.
    #[error("the hub refused the call: {status} {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its words.
        message: String,
    },
    /// The hub cannot be reached, or its answer makes no sense.
    #[error("the hub gave no answer: {0}")]
    NoAnswer(String),
    /// There is no token.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
}

#[derive(Deserialize)]
struct Body {
    status: i32,
    #[serde(default)]
    payload: Value,
}

// === impl InvokeLimits ===

impl Default for InvokeLimits {
    fn default() -> Self {
        Self { response: Duration::from_secs(30), connect: Duration::ZERO }
    }
}

impl InvokeLimits {
    fn check(&self) -> Result<(), InvokeError> {
        let wrong = |what: &str, range: &str, value: Duration| {
            Err(InvokeError::Limit(format!("the {what} limit is {value:?}; {range} are allowed")))
        };
        if !(5..=300).contains(&self.response.as_secs()) {
            return wrong("response", "5 to 300 s", self.response);
        }
        if self.connect.as_secs() > 300 {
            return wrong("connect", "0 to 300 s", self.connect);
        }
        Ok(())
    }
}

/// Calls a method of a module on the same device.
pub(crate) async fn invoke(
    options: &HubOptions,
    signer: &Signer,
    target: &str,
    method: &str,
    payload: &Value,
    limits: InvokeLimits,
) -> Result<MethodAnswer, InvokeError> {
    limits.check()?;
    if method.is_empty() || method.chars().count() > MAX_NAME {
        return Err(InvokeError::Limit(format!("the method name has to have 1 to {MAX_NAME} characters")));
    }
    let size = payload.to_string().len();
    if size > MAX_PAYLOAD {
        return Err(InvokeError::Limit(format!("the payload has {size} bytes, {MAX_PAYLOAD} are allowed")));
    }
    let body = json!({
        "methodName": method,
        "payload": payload,
        "responseTimeoutInSeconds": limits.response.as_secs(),
        "connectTimeoutInSeconds": limits.connect.as_secs(),
    });
    let no_answer = |fault: Fault| InvokeError::NoAnswer(fault.reason());
    let tls = tls::config(&options.trust).await.map_err(no_answer)?;
    let token = signer.token().await?;
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls.as_ref().clone())
        .no_proxy()
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_LIMIT)
        // edgeHub delays a call by 3 s more where the target subscribes while the call waits.
        .timeout(limits.response + limits.connect + CONNECT_LIMIT)
        .pool_max_idle_per_host(0)
        .build()
        .map_err(|error| no_answer(Fault::HttpSetUp(error)))?;

    let host = &options.gateway.host;
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let url = format!(
        "https://{host}:{}/twins/{}/modules/{}/methods?api-version={API_VERSION}",
        options.https_port,
        encode(&options.identity.device),
        encode(target)
    );
    let mut request = client.post(url).header("Authorization", token.text).json(&body);
    if options.identity.module.is_some() {
        request = request.header("x-ms-edge-moduleId", options.identity.client_id());
    }
    let answer = request.send().await.map_err(|error| InvokeError::NoAnswer(chain(&error)))?;
    let status = answer.status();
    let text = read_body(answer, MAX_ANSWER).await.map_err(|error| InvokeError::NoAnswer(chain(&error)))?;
    if status.is_success() {
        let body: Body = serde_json::from_slice(&text)
            .map_err(|error| InvokeError::NoAnswer(format!("its answer makes no sense: {error}")))?;
        return Ok(MethodAnswer { status: body.status, payload: body.payload });
    }
    let message = serde_json::from_slice::<Value>(&text)
        .ok()
        .and_then(|answer| answer.get("message").or(answer.get("Message"))?.as_str().map(str::to_owned))
        .unwrap_or_else(|| "without a message".to_owned());
    Err(match status {
        StatusCode::NOT_FOUND => InvokeError::NotThere(message),
        StatusCode::GATEWAY_TIMEOUT => InvokeError::Late(message),
        status => InvokeError::Refused { status: status.as_u16(), message },
    })
}
