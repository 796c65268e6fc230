//! The direct methods that every module has: `ping`, `getSettings`, `setLogLevel`, `diagnostics`.

use serde_json::{Value, json};
use shunt_bus::{Bus, BusState};
use shunt_hub::{Hub, HubState};
use tokio::time::Instant;

use crate::{
    Health, MethodError, Methods, Settings,
    handle::InForce,
    logging::{LogLevel, LogLevelError},
    metrics, redact,
};

/// Bytes of the answer of `diagnostics`; edgeHub takes 128 KiB.
const BUNDLE: usize = 120 * 1024;

/// What the methods tell of.
#[derive(Clone)]
pub(crate) struct StandardMethods<S> {
    pub(crate) name: String,
    pub(crate) bus: Bus,
    pub(crate) hub: Option<Hub>,
    pub(crate) in_force: InForce<S>,
    pub(crate) health: Health,
    pub(crate) metrics: prometheus::Registry,
    pub(crate) log: LogLevel,
    pub(crate) started: Instant,
}

// === impl StandardMethods ===

impl<S: Settings> StandardMethods<S> {
    pub(crate) fn register(self, methods: &Methods) -> Result<(), MethodError> {
        let own = self.clone();
        methods.on("ping", move |_| std::future::ready((200, own.ping())))?;
        let own = self.clone();
        methods.on("getSettings", move |_| std::future::ready((200, own.settings())))?;
        let own = self.clone();
        methods.on("setLogLevel", move |payload| std::future::ready(own.set_log_level(&payload)))?;
        methods.on("diagnostics", move |_| std::future::ready((200, self.diagnostics())))
    }

    fn ping(&self) -> Value {
        json!({
            "module": self.name,
            "version": env!("CARGO_PKG_VERSION"),
            "ready": self.health.is_ready(),
            "uptime_s": self.started.elapsed().as_secs(),
        })
    }

    fn settings(&self) -> Value {
        redact::value(&serde_json::to_value(self.in_force.get().as_ref()).unwrap_or_default())
    }

    fn set_log_level(&self, payload: &Value) -> (u16, Value) {
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

    /// All that a person far away needs to see what is the matter, in one answer.
    fn diagnostics(&self) -> Value {
        let mut bundle = self.ping();
        let bus = match &*self.bus.state().borrow() {
            BusState::Connected => "connected".to_owned(),
            BusState::Disconnected(reason) => format!("not connected: {reason}"),
        };
        let hub = self.hub.as_ref().map_or_else(|| "no identity".to_owned(), hub_state);
        let page = metrics::page(&self.metrics).unwrap_or_else(|error| format!("# not written: {error}"));
        let more = [
            ("bus", json!(redact::text(&bus))),
            ("hub", json!(redact::text(&hub))),
            ("health", redact::value(&self.health.report().1)),
            ("settings", self.settings()),
            ("log", json!(self.log.recent())),
            ("metrics", json!(page)),
        ];
        for (field, value) in more {
            // Objects take any field.
            if let Some(bundle) = bundle.as_object_mut() {
                bundle.insert(field.to_owned(), value);
            }
        }
        cut(&mut bundle, BUNDLE);
        bundle
    }
}

fn hub_state(hub: &Hub) -> String {
    match &*hub.state().borrow() {
        HubState::Connected => "connected".to_owned(),
        HubState::Disconnected(reason) => format!("not connected: {reason}"),
    }
}

/// Makes the bundle no larger than so many bytes: first the metrics lose their end, then the log its oldest lines,
/// then the settings go. What was cut is said in `cut`.
fn cut(bundle: &mut Value, limit: usize) {
    let Some(fields) = bundle.as_object_mut() else { return };
    let mut notes = Vec::new();
    let size = |fields: &serde_json::Map<String, Value>| Value::Object(fields.clone()).to_string().len();
    // Room for the notes themselves.
    let limit = limit.saturating_sub(256);
    while size(fields) > limit {
        if let Some(Value::String(page)) = fields.get_mut("metrics")
            && !page.is_empty()
        {
            // By lines, so that what is left can be read.
            let half = page.get(..page.floor_char_boundary(page.len() / 2)).unwrap_or_default();
            *page = half.rsplit_once('\n').map_or_else(String::new, |(lines, _)| format!("{lines}\n"));
            notes.push("the end of the metrics");
        } else if let Some(Value::Array(lines)) = fields.get_mut("log")
            && !lines.is_empty()
        {
            lines.drain(..lines.len().div_ceil(2));
            notes.push("the oldest lines of the log");
        } else if fields.remove("settings").is_some() {
            notes.push("the settings");
        } else if fields.remove("health").is_some() {
            notes.push("the health report");
        } else {
            break;
        }
    }
    notes.dedup();
    if !notes.is_empty() {
        fields.insert("cut".to_owned(), json!(notes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(settings: usize, lines: usize, metrics: usize) -> Value {
        json!({
            "module": "heart",
            "settings": {"text": "s".repeat(settings)},
            "log": vec!["x".repeat(1_000); lines],
            "metrics": "up 1\n".repeat(metrics),
        })
    }

    #[test]
    fn a_bundle_that_fits_is_left_alone() {
        let mut small = bundle(100, 2, 10);
        cut(&mut small, BUNDLE);
        assert_eq!(small, bundle(100, 2, 10));
    }

    #[test]
    fn a_bundle_that_is_too_large_is_cut_where_it_hurts_least_and_says_so() {
        let mut large = bundle(100, 2, 100_000);
        cut(&mut large, BUNDLE);
        assert!(large.to_string().len() <= BUNDLE);
        assert_eq!(large["cut"], json!(["the end of the metrics"]));
        assert!(large["metrics"].as_str().unwrap().ends_with("up 1\n"));
        assert_eq!(large["log"].as_array().unwrap().len(), 2);
        let mut larger = bundle(200_000, 300, 100_000);
        cut(&mut larger, BUNDLE);
        assert!(larger.to_string().len() <= BUNDLE);
        let expected = json!(["the end of the metrics", "the oldest lines of the log", "the settings"]);
        assert_eq!(larger["cut"], expected);
    }
}
