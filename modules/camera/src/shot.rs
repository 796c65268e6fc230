//! What a source gives: a picture as it came, not yet decoded where that is left to the studio.

use std::sync::Arc;

use bytes::Bytes;
use shunt_vision::{DecodeError, DecodeLimits, Picture, PictureError, yuyv_to_rgb};
use shunt_wire::Mono;

/// A picture and when it was taken.
#[derive(Debug, Clone)]
pub(crate) struct Shot {
    /// When the picture was there, on the machine's monotonic clock.
    pub(crate) captured: Mono,
    pub(crate) content: Content,
}

/// The picture as the source has it.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// Pixels. Shared with the source, which may give the same picture again.
    Picture(Arc<Picture>),
    /// A JPEG file.
    Jpeg(Bytes),
    /// YUYV 4:2:2 of a webcam, rows without padding.
    Yuyv {
        /// The pixels, two bytes each.
        bytes: Vec<u8>,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
}

/// Why a shot is no picture.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DevelopError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Picture(#[from] PictureError),
}

// === impl Shot ===

impl Shot {
    /// A shot taken now.
    pub(crate) fn now(content: Content) -> Self {
        Self { captured: shunt_bus::clock::now(), content }
    }
}

// === impl Content ===

impl Content {
    /// The picture's pixels. Heavy work.
    pub(crate) fn develop(self) -> Result<Picture, DevelopError> {
        match self {
            Self::Picture(picture) => Ok(Arc::unwrap_or_clone(picture)),
            Self::Jpeg(bytes) => Ok(shunt_vision::decode(&bytes, &DecodeLimits::default())?),
            Self::Yuyv { bytes, width, height } => Ok(yuyv_to_rgb(&bytes, width, height)?),
        }
    }
}
