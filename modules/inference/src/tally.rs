//! What the module counts.

use prometheus::{
    Counter, CounterVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, core::Collector,
};

/// What the module counts.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    requests: IntCounterVec,
    refused: IntCounterVec,
    abandoned: IntCounterVec,
    waiting: IntGaugeVec,
    batch: HistogramVec,
    queue: HistogramVec,
    model: HistogramVec,
    /// For the protocol's statistics only: not on the page of metrics, which tells runs.
    spent: CounterVec,
    pub(crate) bad_requests: IntCounterVec,
}

/// What one engine counts.
#[derive(Debug, Clone)]
pub(crate) struct EngineTally {
    /// Requests answered.
    pub(crate) requests: IntCounter,
    /// Requests turned away because the queue was full.
    pub(crate) full: IntCounter,
    /// Requests whose run failed.
    pub(crate) failed: IntCounter,
    /// Requests whose client went away while they waited.
    pub(crate) abandoned: IntCounter,
    /// Requests that wait now.
    pub(crate) waiting: IntGauge,
    /// Requests that ran together.
    pub(crate) batch: Histogram,
    /// Seconds waited.
    pub(crate) queue: Histogram,
    /// Seconds of a run.
    pub(crate) model: Histogram,
    /// Seconds that answered requests spent in runs, each for itself.
    pub(crate) spent: Counter,
}

// === impl Tally ===

impl Tally {
    pub(crate) fn new() -> prometheus::Result<Self> {
        let by = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let seconds = |name: &str, help: &str| {
            let buckets =
                vec![0.000_1, 0.000_3, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0];
            HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), &["model"])
        };
        let batch = HistogramOpts::new(
            "shunt_inference_batch_requests",
            "Requests that ran together, by model; one observation a run.",
        )
        .buckets(vec![1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]);
        Ok(Self {
            requests: by(
                "shunt_inference_requests_total",
                "Requests that a model answered: of HTTP, gRPC and frames.",
                &["model"],
            )?,
            refused: by(
                "shunt_inference_refused_requests_total",
                "Requests that a model did not answer: full (too many waited), failed (the run failed).",
                &["model", "reason"],
            )?,
            abandoned: by(
                "shunt_inference_abandoned_requests_total",
                "Requests whose client went away while they waited.",
                &["model"],
            )?,
            waiting: IntGaugeVec::new(
                Opts::new("shunt_inference_waiting_requests", "Requests that wait for a model now."),
                &["model"],
            )?,
            batch: HistogramVec::new(batch, &["model"])?,
            queue: seconds("shunt_inference_queue_seconds", "Seconds that a request waited for a model.")?,
            model: seconds("shunt_inference_model_seconds", "Seconds that a run of a model took.")?,
            spent: CounterVec::new(
                Opts::new(
                    "shunt_inference_spent_seconds_total",
                    "Seconds that answered requests spent in runs.",
                ),
                &["model"],
            )?,
            bad_requests: by(
                "shunt_inference_bad_requests_total",
                "Requests that were refused for what is wrong with them (an answer 4xx), by route.",
                &["route"],
            )?,
        })
    }

    /// The counters of a model.
    pub(crate) fn of(&self, model: &str) -> EngineTally {
        EngineTally {
            requests: self.requests.with_label_values(&[model]),
            full: self.refused.with_label_values(&[model, "full"]),
            failed: self.refused.with_label_values(&[model, "failed"]),
            abandoned: self.abandoned.with_label_values(&[model]),
            waiting: self.waiting.with_label_values(&[model]),
            batch: self.batch.with_label_values(&[model]),
            queue: self.queue.with_label_values(&[model]),
            model: self.model.with_label_values(&[model]),
            spent: self.spent.with_label_values(&[model]),
        }
    }

    /// A request was refused for what is wrong with it.
    pub(crate) fn bad_request(&self, route: &str) {
        self.bad_requests.with_label_values(&[route]).inc();
    }

    /// All of them, for the registry and the reference.
    pub(crate) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.requests.clone()),
            Box::new(self.refused.clone()),
            Box::new(self.abandoned.clone()),
            Box::new(self.waiting.clone()),
            Box::new(self.batch.clone()),
            Box::new(self.queue.clone()),
            Box::new(self.model.clone()),
            Box::new(self.bad_requests.clone()),
        ]
    }

    pub(crate) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        self.collectors().into_iter().try_for_each(|collector| registry.register(collector))
    }
}
