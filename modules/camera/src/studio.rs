//! Makes frames of shots, and publishes them: one thread, in this order: read the pixels, turn, fit, black out,
//! hand out. Nothing leaves before the privacy areas are black (law 8).

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use shunt_bus::{Bus, Delivery};
use shunt_module::Events;
use shunt_vision::{Picture, fill, resize_region, rotate, to_rgb};
use shunt_wire::{Kind, Stamps, events};
use tokio::runtime::Handle;

use crate::{
    control::{Live, SourceState},
    intake::Intake,
    latest::{Frame, Latest},
    metrics::Metrics,
    outlet::Outlet,
    settings::CameraSettings,
    shot::{Content, DevelopError, Shot},
    view,
};

/// Makes frames of shots, and publishes them.
pub(crate) struct Studio {
    pub(crate) live: Arc<Live>,
    pub(crate) state: Arc<SourceState>,
    pub(crate) metrics: Metrics,
    pub(crate) outlet: Outlet,
    pub(crate) events: Events,
    pub(crate) bus: Bus,
    pub(crate) latest: Latest,
    pub(crate) runtime: Handle,
}

// === impl Studio ===

impl Studio {
    /// Works until the intake is closed.
    pub(crate) fn work(mut self, intake: &Intake) {
        while let Some((sequence, shot)) = intake.take() {
            let live = Arc::clone(&self.live);
            // Held until the frame is out: see `Live`.
            let settings = live.read();
            if catch_unwind(AssertUnwindSafe(|| self.make(&settings, sequence, shot))).is_err() {
                self.state.damaged(&"the decoder gave up");
            }
        }
    }

    fn make(&mut self, settings: &CameraSettings, sequence: u64, shot: Shot) {
        let picture = match picture(shot.content, settings) {
            Ok(picture) => picture,
            Err(error) => return self.state.damaged(&error),
        };
        let event = self
            .events
            .event(Kind::FRAME, settings.name.clone())
            .with_stamps(Stamps::captured(shot.captured));
        let frame = Frame::new(picture, event.time.clone());
        let pixels = match self.outlet.put(&settings.name, &frame) {
            Ok(pixels) => pixels,
            Err(error) => return self.state.damaged(&error),
        };
        let (width, height) = (frame.picture().width, frame.picture().height);
        let event = match (events::Frame { sequence, width, height, pixels }).write(event) {
            Ok(event) => event,
            Err(error) => return self.state.damaged(&error),
        };
        // Fast delivery is refused at once where the bus cannot take it, so this does not wait.
        match self.runtime.block_on(self.bus.publish(event, Delivery::Fast)) {
            Ok(()) => self.metrics.frames.inc(),
            Err(error) => {
                self.metrics.unpublished.inc();
                tracing::debug!(%error, sequence, "A frame was not published.");
            }
        }
        self.latest.send_replace(Some(Arc::new(frame)));
        self.state.works();
    }
}

/// The picture as it may leave the camera.
fn picture(content: Content, settings: &CameraSettings) -> Result<Picture, DevelopError> {
    let picture = to_rgb(content.develop()?);
    let mut picture = rotate(picture, (settings.rotation / 90) as u8);
    let (width, height) = (settings.width, settings.height);
    if (picture.width, picture.height) != (width, height) {
        picture = resize_region(&picture, view::whole(&picture, width, height), width, height);
    }
    for area in settings.privacy.values() {
        let (x, y, width, height) = area.pixels(picture.width, picture.height);
        fill(&mut picture, x, y, width, height, [0, 0, 0]);
    }
    Ok(picture)
}
