//! The client of the stand-in's control interface, and of the same calls at any hub that speaks them.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context;
use reqwest::{Client, Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The API version of IoT Hub's calls, as `az` sends it.
const API: &str = "api-version=2024-03-31";

/// A client of the stand-in.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    client: Client,
    base: String,
}

/// A message that reached the hub.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct HubRecord {
    /// Running number at the hub.
    pub(crate) sequence: u64,
    /// The module that sent it.
    #[serde(default)]
    pub(crate) module: Option<String>,
    /// Application properties.
    #[serde(default)]
    pub(crate) properties: Map<String, Value>,
    /// System properties.
    #[serde(default)]
    pub(crate) system: Map<String, Value>,
    /// JSON, or base64 text.
    #[serde(default)]
    pub(crate) body: Value,
    /// When it came, RFC 3339.
    #[serde(default)]
    pub(crate) enqueued: String,
    /// When it came, on the machine's monotonic clock.
    #[serde(default)]
    pub(crate) received_mono_ns: u64,
}

#[derive(Debug, Deserialize)]
struct Messages {
    messages: Vec<HubRecord>,
    next: u64,
}

/// A module as the stand-in sees it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ModuleStatus {
    /// Its id.
    pub(crate) id: String,
    /// Is it connected?
    #[serde(default)]
    pub(crate) connected: bool,
}

/// What the stand-in says of itself.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct SimStatus {
    /// The device's id.
    pub(crate) device: String,
    /// The modules it knows.
    #[serde(default)]
    pub(crate) modules: Vec<ModuleStatus>,
    /// Messages so far.
    #[serde(default)]
    pub(crate) messages: u64,
}

// === impl HubRecord ===

impl HubRecord {
    /// A property of the message.
    pub(crate) fn property(&self, name: &str) -> Option<&str> {
        self.properties.get(name).and_then(Value::as_str)
    }

    /// Its id: the event's.
    pub(crate) fn id(&self) -> Option<&str> {
        self.property("id").or_else(|| {
            ["message_id", "messageId", "message-id", "$.mid", "mid"]
                .iter()
                .find_map(|name| self.system.get(*name).and_then(Value::as_str))
        })
    }
}

// === impl Control ===

impl Control {
    /// `base` is `http://host:port`.
    pub(crate) fn new(base: &str) -> anyhow::Result<Self> {
        let client = Client::builder()
            .no_proxy()
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_secs(2))
            .timeout(Duration::from_secs(40))
            .build()?;
        Ok(Self { client, base: base.trim_end_matches('/').to_owned() })
    }

    /// The stand-in's state.
    pub(crate) async fn status(&self) -> anyhow::Result<SimStatus> {
        Ok(serde_json::from_value(self.get("/status").await?)?)
    }

    /// The variables that IoT Edge gives to this module.
    pub(crate) async fn environment(&self, module: &str) -> anyhow::Result<BTreeMap<String, String>> {
        let path = format!("/modules/{}/environment", encode(module));
        Ok(serde_json::from_value(self.get(&path).await?)?)
    }

    /// Makes an identity for a module, where there is none.
    pub(crate) async fn add_module(&self, device: &str, module: &str) -> anyhow::Result<()> {
        let path = format!("/devices/{}/modules/{}?{API}", encode(device), encode(module));
        self.send(Method::PUT, &path, None).await.map(drop)
    }

    /// The messages from this number on, waiting up to `wait` for the first; and the number to go on from.
    pub(crate) async fn messages(&self, from: u64, wait: Duration) -> anyhow::Result<(Vec<HubRecord>, u64)> {
        let answer = self.get(&format!("/messages?from={from}&wait={}", wait.as_secs())).await?;
        let Messages { messages, next } = serde_json::from_value(answer)?;
        Ok((messages, next))
    }

    /// Applies a deployment manifest, as `az iot edge set-modules` does.
    pub(crate) async fn deploy(&self, device: &str, manifest: &Value) -> anyhow::Result<()> {
        let path = format!("/devices/{}/applyConfigurationContent?{API}", encode(device));
        self.send(Method::POST, &path, Some(manifest)).await.map(drop)
    }

    /// A module's twin.
    pub(crate) async fn twin(&self, device: &str, module: &str) -> anyhow::Result<Value> {
        self.get(&twin_path(device, module)).await
    }

    /// Patches a module's desired properties.
    pub(crate) async fn patch_desired(
        &self,
        device: &str,
        module: &str,
        patch: &Value,
    ) -> anyhow::Result<Value> {
        let patch = json!({"properties": {"desired": patch}});
        self.send(Method::PATCH, &twin_path(device, module), Some(&patch)).await
    }

    /// Calls a direct method; the status and payload that the module answered.
    pub(crate) async fn invoke(
        &self,
        device: &str,
        module: &str,
        method: &str,
        payload: &Value,
        limit: Duration,
    ) -> anyhow::Result<(i64, Value)> {
        let path = format!("/twins/{}/modules/{}/methods?{API}", encode(device), encode(module));
        let call = json!({
            "methodName": method,
            "payload": payload,
            "responseTimeoutInSeconds": limit.as_secs().max(5),
            "connectTimeoutInSeconds": 5,
        });
        let answer = self.send(Method::POST, &path, Some(&call)).await?;
        let status = answer.get("status").and_then(Value::as_i64).context("the answer has no status")?;
        Ok((status, answer.get("payload").cloned().unwrap_or(Value::Null)))
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.send(Method::GET, path, None).await
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer =
            request.send().await.with_context(|| format!("no answer from the hub at {}", self.base))?;
        let status = answer.status();
        let text = answer.text().await?;
        if !status.is_success() {
            let told: Option<Value> = serde_json::from_str(&text).ok();
            let told = told.as_ref().and_then(|told| {
                ["message", "Message", "error", "detail"].iter().find_map(|name| told.get(name)?.as_str())
            });
            anyhow::bail!("the hub answered {status} to {path}: {}", told.unwrap_or(text.trim()));
        }
        if status == StatusCode::NO_CONTENT || text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).with_context(|| format!("the hub's answer to {path} is not JSON"))
    }
}

fn twin_path(device: &str, module: &str) -> String {
    format!("/twins/{}/modules/{}?{API}", encode(device), encode(module))
}

/// A path segment, percent-encoded.
pub(crate) fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            byte if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_encoded() {
        assert_eq!(encode("$edgeAgent"), "%24edgeAgent");
        assert_eq!(encode("a/b c"), "a%2Fb%20c");
    }

    #[test]
    fn a_record_knows_its_event() {
        let record =
            json!({"sequence": 3, "properties": {"kind": "emotion"}, "system": {"message_id": "a-1"}});
        let record: HubRecord = serde_json::from_value(record).unwrap();
        assert_eq!((record.id(), record.property("kind")), (Some("a-1"), Some("emotion")));
    }
}
