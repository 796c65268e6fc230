//! What the module counts.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry, core::Collector};

use crate::judge::Fault;

/// What the module counts.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    texts: IntCounterVec,
    faults: IntCounterVec,
    pub(crate) refused: IntCounter,
    pub(crate) fallbacks: IntCounter,
    pub(crate) unusable: IntCounter,
    pub(crate) unpublished: IntCounter,
    pub(crate) inference: Histogram,
}

// === impl Tally ===

impl Tally {
    pub(crate) fn new() -> prometheus::Result<Self> {
        let by = |name: &str, help: &str, label: &str| IntCounterVec::new(Opts::new(name, help), &[label]);
        let inference = HistogramOpts::new(
            "shunt_sentiment_inference_seconds",
            "Seconds that judging the texts of one request or event took.",
        )
        .buckets(vec![0.000_01, 0.000_03, 0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 1.0]);
        let tally = Self {
            texts: by(
                "shunt_sentiment_texts_total",
                "Texts judged, by who did: local, cognitive.",
                "backend",
            )?,
            faults: by(
                "shunt_sentiment_refused_texts_total",
                "Texts that were not judged: id (missing), empty, too_long, language (not supported), container (it refused).",
                "reason",
            )?,
            refused: IntCounter::new(
                "shunt_sentiment_refused_requests_total",
                "Requests that were refused as a whole.",
            )?,
            fallbacks: IntCounter::new(
                "shunt_sentiment_fallbacks_total",
                "Requests and events that the local model judged because the container did not.",
            )?,
            unusable: IntCounter::new(
                "shunt_sentiment_unusable_events_total",
                "Events with no text that can be judged.",
            )?,
            unpublished: IntCounter::new(
                "shunt_sentiment_unpublished_events_total",
                "Sentiment events that the bus did not take.",
            )?,
            inference: Histogram::with_opts(inference)?,
        };
        for backend in ["local", "cognitive"] {
            tally.texts.with_label_values(&[backend]).inc_by(0);
        }
        for fault in Fault::ALL {
            tally.faults.with_label_values(&[fault.reason()]).inc_by(0);
        }
        Ok(tally)
    }

    pub(crate) fn judged(&self, backend: &str, texts: u64) {
        self.texts.with_label_values(&[backend]).inc_by(texts);
    }

    pub(crate) fn fault(&self, fault: Fault) {
        self.faults.with_label_values(&[fault.reason()]).inc();
    }

    pub(crate) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.fallbacks.clone()),
            Box::new(self.inference.clone()),
            Box::new(self.refused.clone()),
            Box::new(self.faults.clone()),
            Box::new(self.texts.clone()),
            Box::new(self.unpublished.clone()),
            Box::new(self.unusable.clone()),
        ]
    }

    pub(crate) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        self.collectors().into_iter().try_for_each(|collector| registry.register(collector))
    }
}
