//! What the camera counts.

use prometheus::{IntCounter, Registry, core::Collector};

/// What the camera counts.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) frames: IntCounter,
    pub(crate) skipped: IntCounter,
    pub(crate) damaged: IntCounter,
    pub(crate) unpublished: IntCounter,
    pub(crate) source_errors: IntCounter,
}

// === impl Metrics ===

impl Metrics {
    /// Counters that nobody sees yet.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| IntCounter::new(name, help);
        Ok(Self {
            frames: counter("shunt_camera_frames_total", "Frames published.")?,
            skipped: counter(
                "shunt_camera_frames_skipped_total",
                "Pictures of the source that made no frame: a newer one came first, or the rate did not want them.",
            )?,
            damaged: counter(
                "shunt_camera_frames_damaged_total",
                "Pictures of the source that could not be read.",
            )?,
            unpublished: counter(
                "shunt_camera_frames_unpublished_total",
                "Frames that the bus did not take, as when the broker is away.",
            )?,
            source_errors: counter(
                "shunt_camera_source_errors_total",
                "Times that the source failed and was tried again.",
            )?,
        })
    }

    /// Puts them on the page.
    pub(crate) fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        self.counters().iter().try_for_each(|counter| registry.register(Box::new((*counter).clone())))
    }

    /// Their table, in Markdown.
    pub(crate) fn table(&self) -> String {
        let counters = self.counters();
        let collectors: Vec<_> = counters.iter().map(|counter| *counter as &dyn Collector).collect();
        shunt_module::docs::metrics_table(&collectors)
    }

    fn counters(&self) -> [&IntCounter; 5] {
        let Self { frames, skipped, damaged, unpublished, source_errors } = self;
        [frames, skipped, damaged, unpublished, source_errors]
    }
}
