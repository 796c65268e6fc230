//! The direct methods that every module has.

use serde_json::{Value, json};
use shunt_hub::{Hub, MethodCall};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    Health, Settings,
    handle::InForce,
    logging::{LogLevel, LogLevelError},
    redact,
};

const METHODS: [&str; 3] = ["ping", "getSettings", "setLogLevel"];

/// Answers direct methods until shutdown: `ping`, `getSettings`, `setLogLevel`.
pub(crate) struct Methods<S> {
    pub(crate) name: String,
    pub(crate) hub: Hub,
    pub(crate) in_force: InForce<S>,
    pub(crate) health: Health,
    pub(crate) log: LogLevel,
    pub(crate) started: Instant,
}

// === impl Methods ===

impl<S: Settings> Methods<S> {
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let answering = async {
            let mut calls = self.hub.methods();
            while let Some(MethodCall { name, payload, reply }) = calls.recv().await {
                let (status, answer) = self.answer(&name, &payload);
                tracing::info!(method = name, status, "A direct method was called.");
                reply.answer(status, answer).await;
            }
        };
        shutdown.run_until_cancelled(answering).await;
    }

    fn answer(&self, method: &str, payload: &Value) -> (u16, Value) {
        match method {
            "ping" => {
                let (ready, _) = self.health.report();
                let answer = json!({
                    "module": self.name,
                    "version": env!("CARGO_PKG_VERSION"),
                    "ready": ready,
                    "uptime_s": self.started.elapsed().as_secs(),
                });
                (200, answer)
            }
            "getSettings" => {
                let settings = serde_json::to_value(self.in_force.get().as_ref()).unwrap_or_default();
                (200, redact::value(&settings))
            }
            "setLogLevel" => {
                let level = payload.as_str().or_else(|| payload.get("level").and_then(Value::as_str));
                let Some(level) = level else {
                    return (
                        400,
                        json!({"message": "the payload must be a level as text or {\"level\": \"debug\"}"}),
                    );
                };
                match self.log.set(level) {
                    Ok(()) => (200, json!({"level": level})),
                    Err(error @ LogLevelError::Filter { .. }) => (400, json!({"message": error.to_string()})),
                    Err(error) => (500, json!({"message": error.to_string()})),
                }
            }
            other => (404, json!({"message": format!("there is no method {other:?}"), "methods": METHODS})),
        }
    }
}
