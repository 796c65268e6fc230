//! What the module counts.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry, core::Collector};
use shunt_module::FrameTally;
use shunt_wire::events::Expression;

/// Why a frame was not judged although it was its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The event is none, or no frame.
    Malformed,
    /// Its picture cannot be read.
    Picture,
    /// The model failed.
    Model,
}

/// Why a frame was passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Skip {
    /// A newer one of the same source came before its turn.
    Newer,
    /// Its place in shared memory was written over before its turn.
    Gone,
    /// No models are loaded.
    NoModels,
    /// More sources than can be served.
    Sources,
}

/// What the module counts.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    pub(crate) frames: IntCounter,
    skipped: IntCounterVec,
    failed: IntCounterVec,
    pub(crate) faces: IntCounter,
    emotions: IntCounterVec,
    pub(crate) unpublished: IntCounter,
    pub(crate) inference: Histogram,
}

// === impl Failure ===

impl Failure {
    const ALL: [Self; 3] = [Self::Malformed, Self::Picture, Self::Model];

    fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Picture => "picture",
            Self::Model => "model",
        }
    }
}

// === impl Skip ===

impl Skip {
    const ALL: [Self; 4] = [Self::Newer, Self::Gone, Self::NoModels, Self::Sources];

    fn as_str(self) -> &'static str {
        match self {
            Self::Newer => "newer",
            Self::Gone => "gone",
            Self::NoModels => "no_models",
            Self::Sources => "sources",
        }
    }
}

// === impl Tally ===

impl Tally {
    pub(crate) fn new() -> prometheus::Result<Self> {
        let by = |name: &str, help: &str, label: &str| IntCounterVec::new(Opts::new(name, help), &[label]);
        let inference = HistogramOpts::new(
            "shunt_emotion_inference_seconds",
            "Seconds from a frame's pixels to the expressions of all its faces.",
        )
        .buckets(vec![0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]);
        let tally = Self {
            frames: IntCounter::new("shunt_emotion_frames_total", "Frames judged.")?,
            skipped: by(
                "shunt_emotion_frames_skipped_total",
                "Frames passed over: newer (a newer one of the same source came first), gone (written over in shared memory), no_models (none loaded), sources (too many).",
                "reason",
            )?,
            failed: by(
                "shunt_emotion_frames_failed_total",
                "Frames that could not be judged: malformed (no frame event), picture (unreadable), model (it failed).",
                "reason",
            )?,
            faces: IntCounter::new("shunt_emotion_faces_total", "Faces found.")?,
            emotions: by("shunt_emotion_emotions_total", "Expressions recognised.", "emotion")?,
            unpublished: IntCounter::new(
                "shunt_emotion_unpublished_events_total",
                "Emotion events that the bus did not take: it refused them, or was away until the module ended.",
            )?,
            inference: Histogram::with_opts(inference)?,
        };
        // Every label is there from the start, so that a rate can be taken of it.
        for reason in Skip::ALL {
            tally.skipped.with_label_values(&[reason.as_str()]);
        }
        for reason in Failure::ALL {
            tally.failed.with_label_values(&[reason.as_str()]);
        }
        for expression in Expression::ALL {
            tally.emotions.with_label_values(&[expression.as_str()]);
        }
        Ok(tally)
    }

    /// All of them, for the registry and the reference.
    pub(crate) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.frames.clone()),
            Box::new(self.skipped.clone()),
            Box::new(self.failed.clone()),
            Box::new(self.faces.clone()),
            Box::new(self.emotions.clone()),
            Box::new(self.unpublished.clone()),
            Box::new(self.inference.clone()),
        ]
    }

    pub(crate) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        self.collectors().into_iter().try_for_each(|collector| registry.register(collector))
    }

    pub(crate) fn skip(&self, reason: Skip) {
        self.skipped.with_label_values(&[reason.as_str()]).inc();
    }

    pub(crate) fn fail(&self, reason: Failure) {
        self.failed.with_label_values(&[reason.as_str()]).inc();
    }

    pub(crate) fn emotion(&self, expression: Expression) {
        self.emotions.with_label_values(&[expression.as_str()]).inc();
    }
}

impl FrameTally for Tally {
    fn newer(&self) {
        self.skip(Skip::Newer);
    }

    fn too_many_sources(&self) {
        self.skip(Skip::Sources);
    }

    fn malformed(&self) {
        self.fail(Failure::Malformed);
    }
}
