//! What is counted about deliveries. Apps are those that settings name, so the labels are bounded.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, core::Collector};

/// What became of an event for an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Delivered,
    DroppedByApp,
    DeadLetter,
    Loop,
    Expired,
    NoRoute,
    QueueFull,
    Unsubscribed,
    Malformed,
    NotTaken,
}

/// What is counted.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    published: IntCounterVec,
    ended: IntCounterVec,
    retries: IntCounterVec,
    queued: IntGaugeVec,
    disk_failures: IntCounter,
}

// === impl Outcome ===

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::DroppedByApp => "dropped_by_app",
            Self::DeadLetter => "dead_letter",
            Self::Loop => "loop",
            Self::Expired => "expired",
            Self::NoRoute => "no_route",
            Self::QueueFull => "queue_full",
            Self::Unsubscribed => "unsubscribed",
            Self::Malformed => "malformed",
            Self::NotTaken => "not_taken",
        }
    }
}

// === impl Tally ===

impl Tally {
    pub(crate) fn new() -> prometheus::Result<Self> {
        let by = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        Ok(Self {
            published: by(
                "shunt_gateway_published_events_total",
                "Events that callers published: accepted (the bus has them), refused (their request is not right) or failed (the bus did not take them).",
                &["outcome"],
            )?,
            ended: by(
                "shunt_gateway_delivered_events_total",
                "Events for apps and what became of them: delivered, dropped_by_app (DROP or 404), dead_letter (given up after the last attempt), loop (given up too often), expired, no_route (no rule matched), queue_full (the oldest go), unsubscribed, malformed, not_taken (fast ones have one attempt).",
                &["app", "outcome"],
            )?,
            retries: by(
                "shunt_gateway_retried_deliveries_total",
                "Attempts to deliver that failed and are made again, by app.",
                &["app"],
            )?,
            queued: IntGaugeVec::new(
                Opts::new("shunt_gateway_queued_events", "Events on disk that wait for an app, by app."),
                &["app"],
            )?,
            disk_failures: IntCounter::new(
                "shunt_gateway_disk_failures_total",
                "Times the disk did not take a change of the queue; events are not acknowledged meanwhile.",
            )?,
        })
    }

    pub(crate) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.published.clone()),
            Box::new(self.ended.clone()),
            Box::new(self.retries.clone()),
            Box::new(self.queued.clone()),
            Box::new(self.disk_failures.clone()),
        ]
    }

    pub(crate) fn published(&self, outcome: &'static str) {
        self.published.with_label_values(&[outcome]).inc();
    }

    pub(crate) fn ended(&self, app: &str, outcome: Outcome, events: u64) {
        self.ended.with_label_values(&[app, outcome.as_str()]).inc_by(events);
    }

    pub(crate) fn retried(&self, app: &str) {
        self.retries.with_label_values(&[app]).inc();
    }

    pub(crate) fn queued(&self, app: &str, events: u64) {
        self.queued.with_label_values(&[app]).set(events as i64);
    }

    pub(crate) fn disk_failure(&self) {
        self.disk_failures.inc();
    }
}
