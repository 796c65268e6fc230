//! The newest frames of each camera in shared memory.
//!
//! A ring is a memory-mapped file `<folder>/<ring>.frames`, in a folder on a tmpfs that all containers share. It
//! has a few slots of a fixed size; one writer fills them in turn; any number of readers, in any process, copy
//! a frame out by the [`FrameRef`] that its event carries.
//!
//! It promises:
//! - The writer never waits for a reader, and no reader for another one.
//! - A reader never gets a torn frame: it copies, then checks that the slot was not written meanwhile, and says
//!   [`FrameError::Gone`] if it was. The newest frames win.
//! - Writer and readers may be killed at any moment. The next writer takes the ring over, and the readers that
//!   hold it open go on with it.
//! - The ring's whole memory is reserved when it is made: a full folder is an error then, not a crash later.
//!
//! It does not wake readers up (the bus brings the reference), does not queue frames, and does not defend
//! against another process of the same user that damages the file on purpose while a frame is being copied.
//! No frame is read outside its slot even then, but a file cut short in that very moment ends the process.
//!
//! ```
//! use shunt_frames::{FrameReader, FrameWriter, PixelBuffer};
//! use shunt_wire::{Name, events::PixelFormat};
//!
//! # let folder = tempfile::tempdir()?;
//! let folder = folder.path();
//! let ring: Name = "front-door".parse()?;
//! let mut writer = FrameWriter::create(folder, &ring, 8, 640 * 480 * 3)?;
//! let reference = writer.write(4, 2, PixelFormat::Grey8, |pixels| pixels.fill(7))?;
//!
//! let mut reader = FrameReader::new(folder);
//! let mut frame = PixelBuffer::default();
//! reader.read(&reference, &mut frame)?;
//! assert_eq!((frame.width, frame.height, frame.pixels.as_slice()), (4, 2, [7; 8].as_slice()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod layout;
mod reader;
mod slot;
mod writer;

use std::path::{Path, PathBuf};

use shunt_wire::{Name, events::PixelFormat};

#[cfg(doc)]
use shunt_wire::events::FrameRef;

pub use layout::{MAX_FRAME, MAX_SLOTS, MIN_SLOTS};
pub use reader::FrameReader;
pub use writer::FrameWriter;

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
    /// Another writer lives.
    #[error("the frame ring {path} has a living writer already: only one is allowed")]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// A ring that cannot be made.
    #[error(
        "a frame ring of {slots} slots for {max_frame} bytes cannot be made: {MIN_SLOTS} to {MAX_SLOTS} slots and 1 to {MAX_FRAME} bytes are allowed"
    )]
    Measures {
        /// Slots asked for.
        slots: u32,
        /// Bytes of a slot asked for.
        max_frame: usize,
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

// === impl FrameError ===

impl FrameError {
    fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        |source| Self::File { path: path.to_owned(), source }
    }
}

// === impl PixelBuffer ===

impl Default for PixelBuffer {
    /// A buffer without pixels, to be filled by [`FrameReader::read`].
    fn default() -> Self {
        Self { width: 0, height: 0, format: PixelFormat::Rgb8, pixels: Vec::new() }
    }
}

/// The file of a ring.
fn ring_path(folder: &Path, ring: &Name) -> PathBuf {
    folder.join(format!("{ring}.frames"))
}

/// Bytes of a frame; `usize::MAX`, which fits nowhere, where the number is too large.
fn frame_len(width: u32, height: u32, format: PixelFormat) -> usize {
    (width as usize)
        .checked_mul(height as usize)
        .and_then(|pixels| pixels.checked_mul(format.bytes_per_pixel()))
        .unwrap_or(usize::MAX)
}
