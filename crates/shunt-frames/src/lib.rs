//! The newest frames of each camera in shared memory.
//!
//! SKELETON: signatures are the contract; bodies are to be written.

use std::path::{Path, PathBuf};

use shunt_wire::{
    Name,
    events::{FrameRef, PixelFormat},
};

/// Why a ring cannot be made, opened or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The folder or file cannot be used.
    #[error("cannot use the frame ring {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is there but is not a ring of this version.
    #[error("{path} is not a frame ring: {reason}")]
    NotARing {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// The slot holds a newer frame by now: the reader was too slow.
    #[error("the frame is gone: a newer one is in its slot")]
    Gone,
    /// A frame larger than the ring's slots.
    #[error("a frame of {size} bytes does not fit the ring's slots of {max} bytes")]
    TooLarge {
        /// Bytes of the frame.
        size: usize,
        /// Bytes of a slot.
        max: usize,
    },
}

/// The one writer of a ring. Never waits for a reader. A second writer on the same ring is refused while the
/// first lives; a killed writer's ring is taken over.
#[derive(Debug)]
pub struct FrameWriter(());

/// A reader of a ring; any number, in any process, read-only.
#[derive(Debug)]
pub struct FrameReader(());

/// A frame read from the ring, copied out and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PixelBuffer {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// How the pixels lie.
    pub format: PixelFormat,
    /// The pixels: rows from the top, no padding.
    pub pixels: Vec<u8>,
}

impl FrameWriter {
    /// Makes the ring `<folder>/<ring>.frames` with this many slots for frames of up to `max_frame` bytes.
    /// An existing ring with other measures is replaced; its readers notice and open the new one.
    pub fn create(folder: &Path, ring: &Name, slots: u32, max_frame: usize) -> Result<Self, FrameError> {
        let _ = (folder, ring, slots, max_frame);
        todo!()
    }

    /// Writes a frame over the oldest one; `fill` gets exactly `width * height * bytes_per_pixel` bytes to fill.
    pub fn write(
        &mut self,
        width: u32,
        height: u32,
        format: PixelFormat,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<FrameRef, FrameError> {
        let _ = (width, height, format, fill);
        todo!()
    }
}

impl FrameReader {
    /// A reader for the rings of this folder; opens each ring when a reference first names it, and again when
    /// its writer has replaced it.
    pub fn new(folder: &Path) -> Self {
        let _ = folder;
        todo!()
    }

    /// Copies the frame out into the buffer (its memory is used again).
    pub fn read(&mut self, reference: &FrameRef, buffer: &mut PixelBuffer) -> Result<(), FrameError> {
        let _ = (reference, buffer);
        todo!()
    }
}
