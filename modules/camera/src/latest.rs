//! The newest frame, for those who look at the camera over HTTP.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use shunt_vision::{EncodeError, Picture, encode_jpeg};
use tokio::sync::watch;

/// JPEG quality of frames, 1 to 100.
pub(crate) const QUALITY: u8 = 85;

/// The newest frame; nothing before the first one, and after a change of settings until the next one.
pub(crate) type Latest = watch::Sender<Option<Arc<Frame>>>;

/// A frame as it left the camera: privacy areas are black in it.
#[derive(Debug)]
pub(crate) struct Frame {
    picture: Picture,
    /// When it was made, RFC 3339.
    time: String,
    /// Made when somebody wants it, once.
    jpeg: OnceLock<Bytes>,
}

// === impl Frame ===

impl Frame {
    pub(crate) fn new(picture: Picture, time: String) -> Self {
        Self { picture, time, jpeg: OnceLock::new() }
    }

    pub(crate) fn picture(&self) -> &Picture {
        &self.picture
    }

    /// When it was made, RFC 3339.
    pub(crate) fn time(&self) -> &str {
        &self.time
    }

    /// The frame as a JPEG file. Heavy work the first time.
    pub(crate) fn jpeg(&self) -> Result<Bytes, EncodeError> {
        if let Some(jpeg) = self.jpeg.get() {
            return Ok(jpeg.clone());
        }
        let jpeg = Bytes::from(encode_jpeg(&self.picture, QUALITY)?);
        Ok(self.jpeg.get_or_init(|| jpeg).clone())
    }
}
