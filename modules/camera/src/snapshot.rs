//! The direct method `snapshot`: the newest frame, small enough for the answer of a direct method.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use shunt_vision::{EncodeError, Picture, encode_jpeg, resize};
use tokio::{sync::watch, task::spawn_blocking, time::timeout};

use crate::{
    control::SourceState,
    http::FIRST_FRAME,
    latest::{Frame, QUALITY},
};

/// The largest JPEG file in bytes: in base64, with what stands around it, it stays below the 128 KiB that edgeHub and
/// IoT Hub take of an answer.
const LIMIT: usize = 92 * 1024;
/// Qualities that are tried before the picture is made smaller.
const QUALITIES: [u8; 3] = [QUALITY, 70, 50];
/// Each step makes a picture that is still too large so much smaller, a side.
const STEP: f64 = 0.75;

/// Where the method takes its frame from.
#[derive(Debug, Clone)]
pub(crate) struct Snapshots {
    pub(crate) latest: watch::Receiver<Option<Arc<Frame>>>,
    pub(crate) state: Arc<SourceState>,
}

// === impl Snapshots ===

impl Snapshots {
    /// The newest frame as it left the camera, privacy areas black (law 8). Waits for one if there is none.
    pub(crate) async fn answer(mut self, payload: Value) -> (u16, Value) {
        let wanted = match payload.get("width") {
            None | Some(Value::Null) => None,
            Some(width) => {
                match width.as_u64().and_then(|width| u32::try_from(width).ok()).filter(|width| *width > 0) {
                    Some(width) => Some(width),
                    None => {
                        return (
                            400,
                            json!({"message": format!("width is {width}, but must be a number of pixels")}),
                        );
                    }
                }
            }
        };
        let frame = timeout(FIRST_FRAME, self.latest.wait_for(Option::is_some)).await;
        let Some(frame) = frame.ok().and_then(Result::ok).and_then(|frame| frame.clone()) else {
            let reason = self.state.problem();
            let reason = reason.unwrap_or_else(|| "the source has given no picture yet".to_owned());
            return (503, json!({"message": format!("there is no frame: {reason}")}));
        };
        let time = frame.time().to_owned();
        // Encoding is heavy work (law 6).
        match spawn_blocking(move || fit(frame.picture(), wanted, LIMIT)).await {
            Ok(Ok((jpeg, width, height, quality))) => {
                let answer = json!({
                    "content_type": "image/jpeg",
                    "width": width,
                    "height": height,
                    "quality": quality,
                    "time": time,
                    "jpeg": BASE64_STANDARD.encode(jpeg),
                });
                (200, answer)
            }
            Ok(Err(error)) => (500, json!({"message": error.to_string()})),
            Err(_) => (500, json!({"message": "the picture could not be encoded"})),
        }
    }
}

/// The picture as a JPEG file of no more than so many bytes, with its width, height and quality: first the quality is
/// lowered, then the size. No wider than `wanted`.
fn fit(picture: &Picture, wanted: Option<u32>, limit: usize) -> Result<(Vec<u8>, u32, u32, u8), EncodeError> {
    let mut scale = wanted.map_or(1.0, |width| (f64::from(width) / f64::from(picture.width)).min(1.0));
    loop {
        let side = |length: u32| ((f64::from(length) * scale).round() as u32).max(1);
        let (width, height) = (side(picture.width), side(picture.height));
        let small = resize(picture, width, height);
        for quality in QUALITIES {
            let jpeg = encode_jpeg(&small, quality)?;
            // A picture of a few pixels is below any limit that makes sense.
            if jpeg.len() <= limit || width.max(height) <= 16 {
                return Ok((jpeg, width, height, quality));
            }
        }
        scale *= STEP;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture that no JPEG file can hold in few bytes.
    fn noise(width: u32, height: u32) -> Picture {
        let mut picture = Picture::filled(width, height, [0; 3]);
        let mut seed = 1_u32;
        for byte in &mut picture.pixels {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (seed >> 24) as u8;
        }
        picture
    }

    #[test]
    fn a_picture_that_fits_is_left_as_it_is() {
        let (jpeg, width, height, quality) = fit(&Picture::filled(640, 480, [9; 3]), None, LIMIT).unwrap();
        assert!(jpeg.len() <= LIMIT);
        assert_eq!((width, height, quality), (640, 480, QUALITY));
    }

    #[test]
    fn quality_then_size_are_lowered_until_it_fits() {
        let (jpeg, width, height, quality) = fit(&noise(1280, 720), None, LIMIT).unwrap();
        assert!(jpeg.len() <= LIMIT && width < 1280 && quality <= 70, "{width} {quality}");
        assert!((f64::from(width) / f64::from(height) - 16.0 / 9.0).abs() < 0.02, "{width}x{height}");
        assert!(BASE64_STANDARD.encode(jpeg).len() + 512 < 128 * 1024);
    }

    #[test]
    fn it_is_no_wider_than_wanted() {
        let (_, width, height, _) = fit(&noise(1280, 720), Some(320), LIMIT).unwrap();
        assert_eq!((width, height), (320, 180));
        let (_, width, _, _) = fit(&Picture::filled(64, 48, [9; 3]), Some(320), LIMIT).unwrap();
        assert_eq!(width, 64);
    }
}
