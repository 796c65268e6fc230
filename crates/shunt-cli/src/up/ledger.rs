//! What reached the hub: how much, each event once, and where its time went.

use std::collections::{BTreeMap, HashSet, VecDeque};

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use shunt_wire::{Mono, Stamps};

use crate::control::HubRecord;

/// How many event ids are remembered to know an event that came twice; older ones are forgotten.
const REMEMBERED: usize = 262_144;

/// The longest time that is told apart, in microseconds.
const LONGEST_US: u64 = 120_000_000;

/// Times in microseconds.
#[derive(Debug, Clone)]
pub(crate) struct Times(Option<Histogram<u64>>);

/// What reached the hub.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Messages, repeated ones counted each time.
    pub(crate) messages: u64,
    /// Events, each counted once.
    pub(crate) events: u64,
    /// When the first came.
    pub(crate) first: Option<Mono>,
    /// From capture to the hub.
    pub(crate) total: Times,
    /// The parts of it, in order of travel.
    pub(crate) hops: Vec<(String, Times)>,
    /// From capture until the relay has the event, inference taken out.
    pub(crate) transport: Times,
    /// Inside the emotion module, inference taken out.
    pub(crate) around_inference: Times,
    /// The frames with faces.
    pub(crate) judged: VecDeque<JudgedFrame>,
    /// By kind.
    pub(crate) kinds: BTreeMap<String, u64>,
    seen: HashSet<String>,
    order: VecDeque<String>,
}

/// A frame whose faces reached the hub.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JudgedFrame {
    sequence: u64,
    /// Faces that reached the hub.
    pub(crate) faces: u32,
    /// Milliseconds from pixels to expressions.
    pub(crate) inference_ms: f64,
    /// Of these, milliseconds inside the models themselves.
    pub(crate) model_ms: f64,
}

/// Frames kept for [`Ledger::judged`]; the oldest go.
const JUDGED: usize = 16_384;

// === impl Times ===

impl Default for Times {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_US, 3).ok())
    }
}

impl Times {
    pub(crate) fn add(&mut self, nanos: u64) {
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record((nanos / 1_000).max(1));
        }
    }

    /// How many times were added.
    pub(crate) fn count(&self) -> u64 {
        self.0.as_ref().map_or(0, Histogram::len)
    }

    /// In milliseconds; nothing where nothing was added.
    pub(crate) fn quantile(&self, quantile: f64) -> Option<f64> {
        let histogram = self.0.as_ref().filter(|histogram| !histogram.is_empty())?;
        Some(histogram.value_at_quantile(quantile) as f64 / 1_000.0)
    }

    /// `p50` and `p99` in milliseconds.
    pub(crate) fn to_json(&self) -> Map<String, Value> {
        let mut map = Map::new();
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
            map.insert(name.to_owned(), json!(self.quantile(quantile)));
        }
        map
    }
}

// === impl Ledger ===

impl Ledger {
    /// Takes in a message. Says whether its event is new.
    pub(crate) fn take(&mut self, record: &HubRecord) -> bool {
        self.messages += 1;
        if let Some(id) = record.id() {
            if !self.seen.insert(id.to_owned()) {
                return false;
            }
            self.order.push_back(id.to_owned());
            if self.order.len() > REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.seen.remove(&oldest);
            }
        }
        self.events += 1;
        let received = Mono::from_nanos(record.received_mono_ns);
        self.first.get_or_insert(received);
        *self.kinds.entry(record.property("kind").unwrap_or("unknown").to_owned()).or_default() += 1;
        let stamps = record.property("shuntcapture").and_then(|capture| {
            Stamps::parse(capture, record.property("shunthops").unwrap_or_default()).ok()
        });
        if let Some(stamps) = stamps {
            self.total.add(received.since(stamps.capture()).as_nanos() as u64);
            self.account(&stamps, received);
            let milliseconds = |name| record.body.get(name).and_then(Value::as_f64);
            if let (Some(inference_ms), Some(model_ms)) =
                (milliseconds("inference_ms"), milliseconds("model_ms"))
            {
                self.take_out(&stamps, inference_ms);
                self.judged(record, inference_ms, model_ms);
            }
        }
        true
    }

    /// The time inside each module, and on the way between two.
    fn account(&mut self, stamps: &Stamps, hub: Mono) {
        let mut before: Option<(&str, Mono)> = None;
        for hop in stamps.hops() {
            let module = hop.module.as_str();
            if let Some((from, sent)) = before {
                self.hop(format!("{from} to {module}"), hop.received.since(sent).as_nanos());
            }
            self.hop(module.to_owned(), hop.sent.since(hop.received).as_nanos());
            before = Some((module, hop.sent));
        }
        if let Some((from, sent)) = before {
            self.hop(format!("{from} to hub"), hub.since(sent).as_nanos());
        }
    }

    /// What is left where inference is taken out.
    fn take_out(&mut self, stamps: &Stamps, inference_ms: f64) {
        let inference = (inference_ms * 1e6) as u64;
        for hop in stamps.hops() {
            match hop.module.as_str() {
                "emotion" => {
                    let inside = hop.sent.since(hop.received).as_nanos() as u64;
                    self.around_inference.add(inside.saturating_sub(inference));
                }
                "relay" => {
                    let way = hop.received.since(stamps.capture()).as_nanos() as u64;
                    self.transport.add(way.saturating_sub(inference));
                }
                _ => {}
            }
        }
    }

    fn judged(&mut self, record: &HubRecord, inference_ms: f64, model_ms: f64) {
        let sequence = record.body.get("sequence").and_then(Value::as_u64).unwrap_or_default();
        match self.judged.back_mut() {
            Some(frame) if frame.sequence == sequence => frame.faces += 1,
            _ => {
                if self.judged.len() == JUDGED {
                    self.judged.pop_front();
                }
                self.judged.push_back(JudgedFrame { sequence, faces: 1, inference_ms, model_ms });
            }
        }
    }

    fn hop(&mut self, name: String, nanos: u128) {
        let nanos = nanos as u64;
        if let Some((_, times)) = self.hops.iter_mut().find(|(own, _)| *own == name) {
            times.add(nanos);
        } else {
            let mut times = Times::default();
            times.add(nanos);
            self.hops.push((name, times));
        }
    }

    /// `p50`, `p99` from capture to hub, and the same by hop, in milliseconds.
    pub(crate) fn latency_json(&self) -> Value {
        let mut latency = self.total.to_json();
        let hops: Map<String, Value> =
            self.hops.iter().map(|(name, times)| (name.clone(), Value::Object(times.to_json()))).collect();
        latency.insert("hops".to_owned(), Value::Object(hops));
        Value::Object(latency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> HubRecord {
        let properties = json!({
            "id": id, "kind": "emotion", "shuntcapture": "1000000",
            "shunthops": "camera:0-2000000,emotion:3000000-9000000,relay:9500000-9600000",
        });
        let record = json!({"sequence": 1, "properties": properties, "received_mono_ns": 11_000_000});
        serde_json::from_value(record).unwrap()
    }

    #[test]
    fn an_event_that_came_twice_counts_once() {
        let mut ledger = Ledger::default();
        assert!(ledger.take(&record("a-1")));
        assert!(!ledger.take(&record("a-1")));
        assert_eq!((ledger.messages, ledger.events), (2, 1));
    }

    #[test]
    fn the_hops_add_up_to_the_whole() {
        let mut ledger = Ledger::default();
        ledger.take(&record("a-1"));
        let names: Vec<&str> = ledger.hops.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["camera", "camera to emotion", "emotion", "emotion to relay", "relay", "relay to hub"]
        );
        let sum: f64 = ledger.hops.iter().map(|(_, times)| times.quantile(0.5).unwrap()).sum();
        assert!((sum - ledger.total.quantile(0.5).unwrap()).abs() < 0.02, "{sum}");
        // The histogram keeps three digits.
        let emotion = ledger.latency_json()["hops"]["emotion"]["p50"].as_f64().unwrap();
        assert!((emotion - 6.0).abs() < 0.01, "{emotion}");
    }

    #[test]
    fn an_empty_ledger_tells_no_times() {
        assert_eq!(Ledger::default().latency_json()["p50"], Value::Null);
    }
}
