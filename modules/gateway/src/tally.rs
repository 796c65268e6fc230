//! What the gateway counts.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::http::StatusCode;
use parking_lot::RwLock;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts, Registry, core::Collector};

/// What the gateway counts.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    calls: IntCounterVec,
    call_seconds: Histogram,
    /// The app ids that have a label of their own. Bounded by [`APPS`]: callers choose the ids.
    apps: Arc<RwLock<BTreeSet<String>>>,
}

/// Most apps with a label of their own; the others are counted as `other`.
const APPS: usize = 64;

// === impl Tally ===

impl Tally {
    pub(crate) fn new() -> prometheus::Result<Self> {
        let calls = Opts::new(
            "shunt_gateway_calls_total",
            "Calls of apps, by app (those that answered; others are other) and by what came of it: the class of the app's status (2xx, ...), or refused (unknown, not there, too large), timeout, broken.",
        );
        let seconds = HistogramOpts::new(
            "shunt_gateway_call_seconds",
            "Seconds from a call's arrival to the head of the app's answer.",
        );
        let buckets = vec![0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];
        Ok(Self {
            calls: IntCounterVec::new(calls, &["app", "outcome"])?,
            call_seconds: Histogram::with_opts(seconds.buckets(buckets))?,
            apps: Arc::default(),
        })
    }

    /// All of them, for the registry and the reference.
    pub(crate) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![Box::new(self.calls.clone()), Box::new(self.call_seconds.clone())]
    }

    pub(crate) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        self.collectors().into_iter().try_for_each(|collector| registry.register(collector))
    }

    /// An app answered.
    pub(crate) fn answered(&self, app: &str, status: StatusCode, after: Duration) {
        let class = match status.as_u16() / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        let app = if self.has_label(app) { app } else { "other" };
        self.calls.with_label_values(&[app, class]).inc();
        self.call_seconds.observe(after.as_secs_f64());
    }

    /// An app did not.
    pub(crate) fn failed(&self, app: &str, outcome: &'static str) {
        let app = if self.apps.read().contains(app) { app } else { "other" };
        self.calls.with_label_values(&[app, outcome]).inc();
    }

    fn has_label(&self, app: &str) -> bool {
        if self.apps.read().contains(app) {
            return true;
        }
        let mut apps = self.apps.write();
        apps.len() < APPS && apps.insert(app.to_owned())
    }
}
