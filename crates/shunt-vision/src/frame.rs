//! From a frame on the bus to a picture.

use std::path::Path;

use shunt_frames::{FrameError, FrameReader, PixelBuffer};
use shunt_wire::events::FramePixels;

use crate::{DecodeError, DecodeLimits, Picture, PictureError, decode};

/// Makes pictures of the pixels of frame events: copied once from shared memory, or decoded from the JPEG in the
/// event. Heavy: not on an async thread (law 6).
///
/// ```
/// use shunt_vision::{FramePictures, Picture, encode_jpeg};
/// use shunt_wire::events::FramePixels;
///
/// let jpeg = encode_jpeg(&Picture::filled(64, 48, [200, 30, 30]), 90)?;
/// let mut pictures = FramePictures::new(None);
/// let picture = pictures.get(&FramePixels::Jpeg(jpeg.into()))?;
/// assert_eq!((picture.width, picture.height), (64, 48));
/// pictures.give_back(picture);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FramePictures {
    frames: Option<FrameReader>,
    buffer: PixelBuffer,
    /// Did the last picture come from shared memory?
    shared: bool,
}

/// Why a frame's picture is not to be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoPicture {
    /// It was written over in shared memory by a newer one. Nothing is wrong: the reader was too slow.
    #[error("the frame is gone: a newer one is in its slot")]
    Gone,
    /// Its pixels are in shared memory, which is not mounted here.
    #[error("its pixels are in shared memory, but SHUNT_FRAMES_DIR is not set here")]
    NotMounted,
    /// Shared memory cannot be read.
    #[error(transparent)]
    Frame(FrameError),
    /// The JPEG in the event cannot be decoded.
    #[error(transparent)]
    Decode(DecodeError),
    /// What is in shared memory is no picture.
    #[error(transparent)]
    Picture(PictureError),
}

// === impl FramePictures ===

impl FramePictures {
    /// For the rings of this folder; `None` where no shared memory is mounted.
    pub fn new(frames_dir: Option<&Path>) -> Self {
        Self { frames: frames_dir.map(FrameReader::new), buffer: PixelBuffer::default(), shared: false }
    }

    /// The picture of these pixels.
    pub fn get(&mut self, pixels: &FramePixels) -> Result<Picture, NoPicture> {
        self.shared = matches!(pixels, FramePixels::Shared { .. });
        let reference = match pixels {
            FramePixels::Jpeg(jpeg) => {
                return decode(jpeg, &DecodeLimits::default()).map_err(NoPicture::Decode);
            }
            FramePixels::Shared { reference, .. } => reference,
        };
        let frames = self.frames.as_mut().ok_or(NoPicture::NotMounted)?;
        frames.read(reference, &mut self.buffer).map_err(|error| match error {
            FrameError::Gone => NoPicture::Gone,
            error => NoPicture::Frame(error),
        })?;
        let pixels = std::mem::take(&mut self.buffer.pixels);
        Picture::new(self.buffer.width, self.buffer.height, self.buffer.format, pixels)
            .map_err(NoPicture::Picture)
    }

    /// Takes the last picture back when it is not needed any more: its memory serves for the next frame from shared
    /// memory. That of a JPEG, which a decoder makes anew each time, is let go.
    pub fn give_back(&mut self, picture: Picture) {
        if self.shared && picture.pixels.capacity() > self.buffer.pixels.capacity() {
            self.buffer.pixels = picture.pixels;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode_jpeg;

    #[test]
    fn a_large_jpeg_leaves_no_memory_behind() {
        let jpeg = encode_jpeg(&Picture::filled(640, 480, [1, 2, 3]), 90).unwrap();
        let mut pictures = FramePictures::new(None);
        let picture = pictures.get(&FramePixels::Jpeg(jpeg.into())).unwrap();
        pictures.give_back(picture);
        assert_eq!(pictures.buffer.pixels.capacity(), 0);
    }
}
