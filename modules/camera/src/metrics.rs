//! What the camera counts.

use prometheus::{IntCounter, Registry};

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
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
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
}
