//! What the module counts of frames, shadows and swaps.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry, core::Collector};
use shunt_module::FrameTally;

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
    /// No model for classes is loaded.
    NoModel,
    /// More sources than can be served.
    Sources,
    /// Its source is switched off.
    Off,
    /// It came sooner after the one before than the source's rate allows.
    Rate,
    /// Nothing moved since the one before.
    Motion,
    /// The model's queue is full of requests.
    Busy,
}

/// What became of a frame that the second model was to judge too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shadowed {
    /// Both models say the same.
    Agreed,
    /// They do not.
    Differed,
    /// The second model was still at work.
    Skipped,
    /// The second model failed.
    Failed,
}

/// What the module counts of frames, shadows and swaps.
#[derive(Debug, Clone)]
pub(crate) struct FieldTally {
    pub(crate) frames: IntCounter,
    skipped: IntCounterVec,
    failed: IntCounterVec,
    pub(crate) unsure: IntCounter,
    pub(crate) unpublished: IntCounter,
    pub(crate) inference: Histogram,
    shadow: IntCounterVec,
    swaps: IntCounterVec,
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
    const ALL: [Self; 8] = [
        Self::Newer,
        Self::Gone,
        Self::NoModel,
        Self::Sources,
        Self::Off,
        Self::Rate,
        Self::Motion,
        Self::Busy,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Newer => "newer",
            Self::Gone => "gone",
            Self::NoModel => "no_model",
            Self::Sources => "sources",
            Self::Off => "off",
            Self::Rate => "rate",
            Self::Motion => "motion",
            Self::Busy => "busy",
        }
    }
}

// === impl Shadowed ===

impl Shadowed {
    const ALL: [Self; 4] = [Self::Agreed, Self::Differed, Self::Skipped, Self::Failed];

    fn as_str(self) -> &'static str {
        match self {
            Self::Agreed => "agreed",
            Self::Differed => "differed",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
        }
    }
}

// === impl FieldTally ===

impl FieldTally {
    pub(crate) fn new() -> prometheus::Result<Self> {
        let by = |name: &str, help: &str, label: &str| IntCounterVec::new(Opts::new(name, help), &[label]);
        let inference = HistogramOpts::new(
            "shunt_inference_frame_seconds",
            "Seconds from a frame's pixels to its classes, waiting for the model included.",
        )
        .buckets(vec![0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]);
        let tally = Self {
            frames: IntCounter::new("shunt_inference_frames_total", "Frames judged.")?,
            skipped: by(
                "shunt_inference_frames_skipped_total",
                "Frames passed over: newer (a newer one of the same source came first), gone (written over in shared memory), no_model (none for classes is loaded), sources (too many), off (the source is switched off), rate (sooner than the source's rate allows), motion (nothing moved), busy (the model's queue is full).",
                "reason",
            )?,
            failed: by(
                "shunt_inference_frames_failed_total",
                "Frames that could not be judged: malformed (no frame event), picture (unreadable), model (it failed).",
                "reason",
            )?,
            unsure: IntCounter::new(
                "shunt_inference_frames_unsure_total",
                "Frames judged of which no class was probable enough for an event.",
            )?,
            unpublished: IntCounter::new(
                "shunt_inference_unpublished_events_total",
                "Label events that the bus did not take: it refused them, or was away until the module ended.",
            )?,
            inference: Histogram::with_opts(inference)?,
            shadow: by(
                "shunt_inference_shadow_frames_total",
                "Frames for the second model: agreed (both models say the same), differed, skipped (it was still at work), failed.",
                "result",
            )?,
            swaps: by(
                "shunt_inference_swaps_total",
                "Changes of what serves: done, refused (what served before serves on).",
                "result",
            )?,
        };
        // Every label is there from the start, so that a rate can be taken of it.
        for reason in Skip::ALL {
            tally.skipped.with_label_values(&[reason.as_str()]);
        }
        for reason in Failure::ALL {
            tally.failed.with_label_values(&[reason.as_str()]);
        }
        for result in Shadowed::ALL {
            tally.shadow.with_label_values(&[result.as_str()]);
        }
        for done in [true, false] {
            tally.swaps.with_label_values(&[swapped(done)]);
        }
        Ok(tally)
    }

    /// All of them, for the registry and the reference.
    pub(crate) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.frames.clone()),
            Box::new(self.skipped.clone()),
            Box::new(self.failed.clone()),
            Box::new(self.unsure.clone()),
            Box::new(self.unpublished.clone()),
            Box::new(self.inference.clone()),
            Box::new(self.shadow.clone()),
            Box::new(self.swaps.clone()),
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

    pub(crate) fn shadow(&self, result: Shadowed) {
        self.shadow.with_label_values(&[result.as_str()]).inc();
    }

    pub(crate) fn swap(&self, done: bool) {
        self.swaps.with_label_values(&[swapped(done)]).inc();
    }
}

impl FrameTally for FieldTally {
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

fn swapped(done: bool) -> &'static str {
    if done { "done" } else { "refused" }
}
