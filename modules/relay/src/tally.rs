//! What the relay counts, and what `/status` tells.
//!
//! Each event that the relay acknowledged on the bus is `accepted`, and ends as `sent` or as `dropped` with a
//! reason; until then it is `queued`. So accepted = sent + dropped + queued, apart from what an earlier run of the
//! process left on disk.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector};
use serde_json::{Map, Value, json};
use shunt_wire::Kind;

use crate::queue::Measure;

/// Why an event was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    Filtered,
    RateLimited,
    QueueFull,
    TooLarge,
    Malformed,
    Damaged,
}

/// What the relay counts.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    accepted: IntCounterVec,
    sent: IntCounterVec,
    dropped: IntCounterVec,
    queued_events: IntGauge,
    queued_bytes: IntGauge,
    in_flight: IntGauge,
    disk_failures: IntCounter,
    replaced: IntCounter,
    oldest_ms: Arc<Mutex<Option<u64>>>,
}

// === impl Reason ===

impl Reason {
    const ALL: [Self; 6] =
        [Self::Filtered, Self::RateLimited, Self::QueueFull, Self::TooLarge, Self::Malformed, Self::Damaged];

    fn as_str(self) -> &'static str {
        match self {
            Self::Filtered => "filtered",
            Self::RateLimited => "rate_limited",
            Self::QueueFull => "queue_full",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::Damaged => "damaged",
        }
    }
}

// === impl Tally ===

impl Tally {
    pub(crate) fn new() -> prometheus::Result<Self> {
        let by = |name: &str, help: &str, label: &str| IntCounterVec::new(Opts::new(name, help), &[label]);
        let tally = Self {
            accepted: by(
                "shunt_relay_accepted_events_total",
                "Events acknowledged on the bus, whatever became of them.",
                "kind",
            )?,
            sent: by("shunt_relay_sent_events_total", "Events that the hub has acknowledged.", "kind")?,
            dropped: by(
                "shunt_relay_dropped_events_total",
                "Events that will not reach the hub: filtered, rate_limited, queue_full (the oldest go), too_large, malformed, damaged (lost with a damaged file).",
                "reason",
            )?,
            queued_events: IntGauge::new("shunt_relay_queued_events", "Events on disk.")?,
            queued_bytes: IntGauge::new("shunt_relay_queued_bytes", "Bytes of the events on disk.")?,
            in_flight: IntGauge::new(
                "shunt_relay_in_flight_events",
                "Events sent that the hub has not acknowledged yet; they are still on disk.",
            )?,
            disk_failures: IntCounter::new(
                "shunt_relay_disk_failures_total",
                "Times the disk did not take a change; events are not acknowledged meanwhile.",
            )?,
            replaced: IntCounter::new(
                "shunt_relay_replaced_queues_total",
                "Times a damaged queue was moved aside and a new one begun.",
            )?,
            oldest_ms: Arc::default(),
        };
        for reason in Reason::ALL {
            tally.dropped.with_label_values(&[reason.as_str()]);
        }
        Ok(tally)
    }

    /// All of them, for the registry and the reference.
    pub(crate) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.accepted.clone()),
            Box::new(self.sent.clone()),
            Box::new(self.dropped.clone()),
            Box::new(self.queued_events.clone()),
            Box::new(self.queued_bytes.clone()),
            Box::new(self.in_flight.clone()),
            Box::new(self.disk_failures.clone()),
            Box::new(self.replaced.clone()),
        ]
    }

    pub(crate) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        self.collectors().into_iter().try_for_each(|collector| registry.register(collector))
    }

    /// An event was acknowledged on the bus. `None`: what came is no event.
    pub(crate) fn accepted(&self, kind: Option<&Kind>) {
        self.accepted.with_label_values(&[kind.map_or("unknown", Kind::as_str)]).inc();
    }

    pub(crate) fn sent(&self, kind: &Kind) {
        self.sent.with_label_values(&[kind.as_str()]).inc();
    }

    pub(crate) fn dropped(&self, reason: Reason, events: u64) {
        self.dropped.with_label_values(&[reason.as_str()]).inc_by(events);
    }

    /// Events on disk, as measured last.
    pub(crate) fn queued(&self) -> i64 {
        self.queued_events.get()
    }

    pub(crate) fn in_flight(&self, events: usize) {
        self.in_flight.set(events as i64);
    }

    pub(crate) fn disk_failure(&self) {
        self.disk_failures.inc();
    }

    pub(crate) fn replaced(&self) {
        self.replaced.inc();
    }

    pub(crate) fn measured(&self, measure: Measure) {
        self.queued_events.set(measure.events as i64);
        self.queued_bytes.set(measure.bytes as i64);
        *self.oldest_ms.lock() = measure.oldest_ms;
    }

    /// What `/status` answers, apart from the states of disk and hub.
    pub(crate) fn status(&self) -> Map<String, Value> {
        let by = |counters: &IntCounterVec| {
            let mut counts = Map::new();
            for metric in counters.collect().iter().flat_map(prometheus::proto::MetricFamily::get_metric) {
                let label = metric.get_label().first().map(|label| label.value().to_owned());
                counts.insert(label.unwrap_or_default(), json!(metric.get_counter().get_value() as u64));
            }
            Value::Object(counts)
        };
        let oldest = self.oldest_ms.lock().map(|at| now_ms().saturating_sub(at) as f64 / 1000.0);
        let status = json!({
            "queued": self.queued_events.get(),
            "queued_bytes": self.queued_bytes.get(),
            "oldest_age_s": oldest,
            "in_flight": self.in_flight.get(),
            "accepted": by(&self.accepted),
            "sent": by(&self.sent),
            "dropped": by(&self.dropped),
            "disk_failures": self.disk_failures.get(),
            "replaced_queues": self.replaced.get(),
        });
        match status {
            Value::Object(status) => status,
            _ => Map::new(),
        }
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
