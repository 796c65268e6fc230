//! Video files and RTSP, through `OpenCV`'s capture.

use std::{path::Path, time::Duration};

use opencv::{
    core::{Mat, MatTraitConst, MatTraitConstManual, Vector},
    videoio::{
        CAP_FFMPEG, CAP_PROP_FPS, CAP_PROP_OPEN_TIMEOUT_MSEC, CAP_PROP_POS_FRAMES,
        CAP_PROP_READ_TIMEOUT_MSEC, VideoCapture, VideoCaptureTrait, VideoCaptureTraitConst,
    },
};
use shunt_vision::{Picture, PixelFormat};
use tokio::time::Instant;

use super::{Source, SourceError};
use crate::{
    control::Control,
    shot::{Content, Shot},
};

/// How long `OpenCV` may try to open a stream, and wait for its next picture, in milliseconds.
const LIMIT_MS: i32 = 5000;

/// A video file or an RTSP stream.
pub(super) struct Video {
    capture: VideoCapture,
    /// Time between the pictures of a file; a stream comes in its own rhythm.
    interval: Option<Duration>,
    due: Option<Instant>,
    /// Was there a picture since the beginning?
    any: bool,
    frame: Mat,
}

// === impl Video ===

impl Video {
    pub(super) fn open(address: &str) -> Result<Self, SourceError> {
        let is_file = !address.contains("://");
        if is_file {
            super::open_file(Path::new(address))?;
        }
        let parameters = if is_file {
            Vector::new()
        } else {
            Vector::from_slice(&[CAP_PROP_OPEN_TIMEOUT_MSEC, LIMIT_MS, CAP_PROP_READ_TIMEOUT_MSEC, LIMIT_MS])
        };
        let capture =
            VideoCapture::from_file_with_params(address, CAP_FFMPEG, &parameters).map_err(failure)?;
        if !capture.is_opened().map_err(failure)? {
            let reason = if is_file { "it is no video that FFmpeg knows" } else { "no answer, or no video" };
            return Err(SourceError::Video(reason.to_owned()));
        }
        let fps = capture.get(CAP_PROP_FPS).map_err(failure)?;
        let fps = if fps.is_finite() && fps > 0.1 { fps.min(240.0) } else { 25.0 };
        let interval = is_file.then(|| Duration::from_secs_f64(1.0 / fps));
        Ok(Self { capture, interval, due: None, any: false, frame: Mat::default() })
    }
}

impl Source for Video {
    fn next(&mut self, control: &Control) -> Result<Option<Shot>, SourceError> {
        if let Some(interval) = self.interval {
            let now = Instant::now();
            let due = self.due.unwrap_or(now);
            control.wait_until(due)?;
            // Time that was lost is not made up for.
            self.due = Some((due + interval).max(now));
        }
        loop {
            if control.stop.is_cancelled() {
                return Err(SourceError::Stopped);
            }
            if self.capture.read(&mut self.frame).map_err(failure)? {
                break;
            }
            if self.interval.is_none() {
                return Err(SourceError::StreamEnded);
            }
            if !self.any {
                return Err(SourceError::Video("it has no picture".to_owned()));
            }
            if !control.settings().r#loop {
                return Ok(None);
            }
            self.any = false;
            self.capture.set(CAP_PROP_POS_FRAMES, 0.0).map_err(failure)?;
        }
        self.any = true;
        let captured = shunt_bus::clock::now();
        let content = Content::Picture(picture(&self.frame)?.into());
        Ok(Some(Shot { captured, content }))
    }
}

/// `OpenCV`'s picture in our order: it has blue first.
fn picture(frame: &Mat) -> Result<Picture, SourceError> {
    let size = frame.size().map_err(failure)?;
    let bytes = frame.data_bytes().map_err(failure)?;
    let (pixels, _) = bytes.as_chunks::<3>();
    let pixels = pixels.iter().flat_map(|&[blue, green, red]| [red, green, blue]).collect();
    Picture::new(size.width as u32, size.height as u32, PixelFormat::Rgb8, pixels)
        .map_err(|error| SourceError::Video(error.to_string()))
}

fn failure(error: opencv::Error) -> SourceError {
    SourceError::Video(error.message)
}
