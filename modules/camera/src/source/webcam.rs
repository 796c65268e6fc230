//! A webcam: a V4L2 device that gives MJPG or YUYV pictures.

use std::{io, path::Path, time::Duration};

use bytes::Bytes;
use shunt_wire::Mono;
use v4l::{
    Device, Format, FourCC,
    buffer::{Flags, Metadata, Type},
    io::{mmap::Stream, traits::CaptureStream},
    video::{Capture, capture::Parameters},
};

use super::{Source, SourceError};
use crate::{
    control::Control,
    settings::CameraSettings,
    shot::{Content, Shot},
};

/// The longest wait for a picture. Also how long a stop may take.
const SILENCE: Duration = Duration::from_secs(3);
/// The driver's buffers: one that it fills, one that waits, one that we read.
const BUFFERS: u32 = 3;
/// Up to this size cameras give raw pictures at full rate over USB 2; they need no decoding and lose nothing.
const RAW_PIXELS: u32 = 640 * 480;

/// A webcam.
pub(super) struct Webcam {
    stream: Stream<'static>,
    format: Format,
}

// === impl Webcam ===

impl Webcam {
    pub(super) fn open(path: &Path, settings: &CameraSettings) -> Result<Self, SourceError> {
        let device = Device::with_path(path)?;
        let format = choose(&device, settings)?;
        // The rate is a wish: the driver takes the nearest that it can, and the intake thins the rest out.
        let rate = Parameters::with_fps(settings.fps.ceil().max(1.0) as u32);
        if let Err(error) = device.set_params(&rate) {
            tracing::debug!(%error, "The webcam does not let its rate be set.");
        }
        let mut stream = Stream::with_buffers(&device, Type::VideoCapture, BUFFERS)?;
        stream.set_timeout(SILENCE);
        tracing::info!(path = %path.display(), %format, "The webcam is open.");
        Ok(Self { stream, format })
    }
}

impl Source for Webcam {
    fn next(&mut self, control: &Control) -> Result<Option<Shot>, SourceError> {
        if control.stop.is_cancelled() {
            return Err(SourceError::Stopped);
        }
        let (bytes, metadata) = self.stream.next().map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => SourceError::TimedOut { seconds: SILENCE.as_secs() },
            _ => SourceError::Read(error),
        })?;
        let captured = captured(metadata, shunt_bus::clock::now());
        let bytes = bytes.get(..metadata.bytesused as usize).unwrap_or(bytes);
        let content = content(bytes, &self.format)?;
        Ok(Some(Shot { captured, content }))
    }
}

/// The format nearest to what the settings want: raw for small pictures, MJPG for large ones, or what there is.
fn choose(device: &Device, settings: &CameraSettings) -> Result<Format, SourceError> {
    let (raw, mjpg) = (FourCC::new(b"YUYV"), FourCC::new(b"MJPG"));
    let (width, height) = if settings.rotation.is_multiple_of(180) {
        (settings.width, settings.height)
    } else {
        (settings.height, settings.width)
    };
    let order = if width * height <= RAW_PIXELS { [raw, mjpg] } else { [mjpg, raw] };
    let offered = device.enum_formats()?;
    for fourcc in order {
        if offered.iter().any(|format| format.fourcc == fourcc) {
            let format = device.set_format(&Format::new(width, height, fourcc))?;
            if format.fourcc == fourcc {
                return Ok(format);
            }
        }
    }
    Err(SourceError::Formats)
}

/// When the driver says that the picture was taken, if it says so on our clock and believably, else now.
fn captured(metadata: &Metadata, now: Mono) -> Mono {
    let (seconds, micros) = (metadata.timestamp.sec, metadata.timestamp.usec);
    let at =
        Mono::from_nanos((seconds as u64).saturating_mul(1_000_000_000).saturating_add(micros as u64 * 1000));
    let believable = metadata.flags.contains(Flags::TIMESTAMP_MONOTONIC)
        && at <= now
        && now.since(at) < Duration::from_secs(2);
    if believable { at } else { now }
}

/// The picture in the driver's buffer, copied out.
fn content(bytes: &[u8], format: &Format) -> Result<Content, SourceError> {
    if format.fourcc == FourCC::new(b"MJPG") {
        return Ok(Content::Jpeg(Bytes::copy_from_slice(bytes)));
    }
    let row = format.width as usize * 2;
    let stride = (format.stride as usize).max(row);
    let pixels: Vec<u8> = bytes
        .chunks(stride)
        .take(format.height as usize)
        .filter_map(|line| line.get(..row))
        .flatten()
        .copied()
        .collect();
    if pixels.len() != row * format.height as usize {
        return Err(SourceError::ShortPicture(bytes.len(), format.width, format.height));
    }
    Ok(Content::Yuyv { bytes: pixels, width: format.width, height: format.height })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(stride: u32) -> Format {
        let mut format = Format::new(4, 2, FourCC::new(b"YUYV"));
        format.stride = stride;
        format
    }

    #[test]
    fn padding_at_the_end_of_rows_is_left_out() {
        let bytes: Vec<u8> = (0..24).collect();
        for (stride, second) in [(8, 8), (12, 12), (0, 8)] {
            let Content::Yuyv { bytes, .. } = content(&bytes, &format(stride)).unwrap() else { panic!() };
            assert_eq!(bytes.len(), 16);
            assert_eq!((bytes[0], bytes[8]), (0, second));
        }
    }

    #[test]
    fn too_few_bytes_are_refused() {
        let message = content(&[0; 10], &format(8)).unwrap_err().to_string();
        assert_eq!(message, "the driver gives 10 bytes for a picture of 4x2");
    }

    #[test]
    fn the_drivers_time_is_taken_only_if_it_is_on_our_clock() {
        let now = Mono::from_nanos(10_000_000_000);
        let at = |sec, flags| {
            let timestamp = v4l::timestamp::Timestamp::new(sec, 0);
            captured(&Metadata { timestamp, flags, ..Metadata::default() }, now).as_nanos()
        };
        assert_eq!(at(9, Flags::TIMESTAMP_MONOTONIC), 9_000_000_000);
        assert_eq!(at(9, Flags::empty()), 10_000_000_000);
        assert_eq!(at(11, Flags::TIMESTAMP_MONOTONIC), 10_000_000_000);
        assert_eq!(at(1, Flags::TIMESTAMP_MONOTONIC), 10_000_000_000);
        assert_eq!(at(-5, Flags::TIMESTAMP_MONOTONIC), 10_000_000_000);
    }
}
