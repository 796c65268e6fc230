//! Where the pixels of a frame go: into shared memory, or as a JPEG into the event.

use std::{path::PathBuf, time::Duration};

use shunt_frames::{FrameError, FrameWriter};
use shunt_module::Health;
use shunt_vision::{EncodeError, Picture};
use shunt_wire::{Name, events::FramePixels};
use tokio::time::Instant;

use crate::latest::Frame;

/// Slots of the ring: at 30 frames a second a reader has a quarter of a second to take a frame.
const SLOTS: u32 = 8;
/// After a ring could not be made, it is tried again so much later; frames go as JPEG meanwhile.
const PAUSE: Duration = Duration::from_secs(5);
/// The part of the module's health that the ring is.
const PART: &str = "frames";

/// Where the pixels of a frame go.
#[derive(Debug)]
pub(crate) struct Outlet {
    folder: Option<PathBuf>,
    ring: Option<Ring>,
    try_again: Option<Instant>,
    health: Health,
}

#[derive(Debug)]
struct Ring {
    name: Name,
    max_frame: usize,
    writer: FrameWriter,
}

// === impl Outlet ===

impl Outlet {
    pub(crate) fn new(folder: Option<PathBuf>, health: Health) -> Self {
        Self { folder, ring: None, try_again: None, health }
    }

    /// Puts the frame's pixels where others can get them.
    pub(crate) fn put(&mut self, name: &Name, frame: &Frame) -> Result<FramePixels, EncodeError> {
        match self.put_in_ring(name, frame.picture()) {
            Some(pixels) => Ok(pixels),
            None => Ok(FramePixels::Jpeg(frame.jpeg()?)),
        }
    }

    fn put_in_ring(&mut self, name: &Name, picture: &Picture) -> Option<FramePixels> {
        let folder = self.folder.clone()?;
        let max_frame = picture.pixels.len();
        if self.ring.as_ref().is_none_or(|ring| ring.name != *name || ring.max_frame != max_frame) {
            if self.try_again.is_some_and(|moment| Instant::now() < moment) {
                return None;
            }
            // The old one first: two writers of one ring are not allowed.
            self.ring = None;
            match FrameWriter::create(&folder, name, SLOTS, max_frame) {
                Ok(writer) => {
                    self.ring = Some(Ring { name: name.clone(), max_frame, writer });
                    self.try_again = None;
                    self.health.set(PART, Ok(()));
                }
                Err(error) => return self.fail(&error),
            }
        }
        let ring = self.ring.as_mut()?;
        let written = ring.writer.write(picture.width, picture.height, picture.format, |slot| {
            slot.copy_from_slice(&picture.pixels);
        });
        match written {
            Ok(reference) => Some(FramePixels::Shared { format: picture.format, reference }),
            Err(error) => {
                self.ring = None;
                self.fail(&error)
            }
        }
    }

    /// The camera works without shared memory too, only slower: readiness is not at stake.
    fn fail(&mut self, error: &FrameError) -> Option<FramePixels> {
        if self.try_again.is_none() {
            tracing::warn!(%error, "Frames cannot go into shared memory: they go as JPEG in the events.");
        }
        self.health.note(PART, format!("frames go as JPEG in the events: {error}"));
        self.try_again = Some(Instant::now() + PAUSE);
        None
    }
}
