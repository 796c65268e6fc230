//! What can be set.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shunt_module::{Problems, Settings};
use shunt_wire::Name;

use crate::address::Address;

/// Settings of the camera.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CameraSettings {
    /// Where pictures come from: a folder or file of pictures, a Motion JPEG file (`.mjpeg`) or stream (`http://`,
    /// `https://`), a webcam (`/dev/video0`), a video file or `rtsp://` (these two need `OpenCV`).
    pub source: String,
    /// The source's name in topics: letters, digits, `-`, `_`, `.`.
    #[schemars(with = "String")]
    pub name: Name,
    /// Most frames a second.
    #[schemars(range(min = 0.1, max = 120.0))]
    pub fps: f64,
    /// Width of the frames in pixels.
    #[schemars(range(min = 16, max = 4096))]
    pub width: u32,
    /// Height of the frames in pixels.
    #[schemars(range(min = 16, max = 4096))]
    pub height: u32,
    /// Degrees to turn the picture clockwise: 0, 90, 180 or 270.
    pub rotation: u16,
    /// Seconds that each picture of a folder is shown.
    #[schemars(range(min = 0.1, max = 86_400.0))]
    pub hold_s: f64,
    /// How still pictures move.
    pub motion: Motion,
    /// Begin again at the end of a folder or file.
    pub r#loop: bool,
    /// Areas that are blacked out before any pixel leaves the camera, by name; 64 at most.
    pub privacy: BTreeMap<String, Area>,
}

/// How still pictures move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Motion {
    /// Not at all.
    #[default]
    None,
    /// A slow pan and zoom, as if somebody held the camera.
    PanZoom,
}

/// A part of the frame, in fractions of its width and height, as it is after rotation; origin at the upper left.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Area {
    /// Left edge, 0 to 1.
    pub x: f64,
    /// Upper edge, 0 to 1.
    pub y: f64,
    /// Width, 0 to 1.
    pub width: f64,
    /// Height, 0 to 1.
    pub height: f64,
}

/// Most privacy areas.
const MAX_AREAS: usize = 64;

// === impl CameraSettings ===

impl Default for CameraSettings {
    fn default() -> Self {
        Self {
            source: "/pictures".to_owned(),
            name: Name::from_static("front-door"),
            fps: 10.0,
            width: 640,
            height: 480,
            rotation: 0,
            hold_s: 5.0,
            motion: Motion::None,
            r#loop: true,
            privacy: BTreeMap::new(),
        }
    }
}

impl Settings for CameraSettings {
    const MODULE: &'static str = "camera";

    fn check(&self, problems: &mut Problems) {
        if let Err(problem) = self.source.parse::<Address>() {
            problems.note("source", problem.to_string());
        }
        if !(0.1..=120.0).contains(&self.fps) {
            problems.note("fps", format!("it is {}, but must be from 0.1 to 120", self.fps));
        }
        for (field, pixels) in [("width", self.width), ("height", self.height)] {
            if !(16..=4096).contains(&pixels) {
                problems.note(field, format!("it is {pixels}, but must be from 16 to 4096"));
            }
        }
        if ![0, 90, 180, 270].contains(&self.rotation) {
            problems.note("rotation", format!("it is {}, but must be 0, 90, 180 or 270", self.rotation));
        }
        if !(0.1..=86_400.0).contains(&self.hold_s) {
            problems.note("hold_s", format!("it is {}, but must be from 0.1 to 86400", self.hold_s));
        }
        if self.privacy.len() > MAX_AREAS {
            let count = self.privacy.len();
            problems.note("privacy", format!("it has {count} areas, but {MAX_AREAS} are allowed"));
        }
        for (name, area) in &self.privacy {
            if !area.is_inside() {
                let rule = "it must lie inside the frame: x, y, width and height from 0 to 1, x + width and y + height at most 1";
                problems.note(&format!("privacy.{name}"), rule);
            }
        }
    }
}

// === impl Area ===

impl Area {
    fn is_inside(self) -> bool {
        let along = |begin: f64, length: f64| {
            (0.0..=1.0).contains(&begin) && (0.0..=1.0).contains(&length) && begin + length <= 1.0 + 1e-9
        };
        along(self.x, self.width) && along(self.y, self.height)
    }

    /// The area in pixels of a frame (left, upper, width, height); every pixel that it touches belongs to it.
    pub(crate) fn pixels(self, width: u32, height: u32) -> (u32, u32, u32, u32) {
        let along = |begin: f64, length: f64, pixels: u32| {
            let first = (begin * f64::from(pixels)).floor() as u32;
            let end = ((begin + length) * f64::from(pixels)).ceil() as u32;
            (first, end.min(pixels).saturating_sub(first))
        };
        let ((x, width), (y, height)) =
            (along(self.x, self.width, width), along(self.y, self.height, height));
        (x, y, width, height)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(settings: &CameraSettings) -> Vec<String> {
        let mut problems = Problems::default();
        settings.check(&mut problems);
        problems.iter().map(|(field, problem)| format!("{field}: {problem}")).collect()
    }

    #[test]
    fn the_defaults_are_sound() {
        assert_eq!(problems(&CameraSettings::default()), [""; 0]);
    }

    #[test]
    fn every_bad_value_is_named_at_once() {
        let area = Area { x: 0.5, y: 0.0, width: 0.6, height: 1.0 };
        let settings = CameraSettings {
            source: String::new(),
            fps: f64::NAN,
            width: 15,
            height: 4097,
            rotation: 45,
            hold_s: 0.0,
            privacy: [("till".to_owned(), area)].into(),
            ..CameraSettings::default()
        };
        let found = problems(&settings);
        let fields: Vec<_> = found.iter().filter_map(|text| text.split(':').next()).collect();
        assert_eq!(fields, ["source", "fps", "width", "height", "rotation", "hold_s", "privacy.till"]);
        assert!(found[4].ends_with("it is 45, but must be 0, 90, 180 or 270"));
    }

    #[test]
    fn unknown_fields_and_wrong_types_are_refused() {
        for text in [r#"{"sauce":"x"}"#, r#"{"fps":"fast"}"#, r#"{"motion":"wild"}"#, r#"{"name":"a/b"}"#] {
            assert!(serde_json::from_str::<CameraSettings>(text).is_err(), "{text}");
        }
        let pan: CameraSettings = serde_json::from_str(r#"{"motion":"pan-zoom","loop":false}"#).unwrap();
        assert_eq!((pan.motion, pan.r#loop), (Motion::PanZoom, false));
    }

    #[test]
    fn an_area_takes_every_pixel_that_it_touches() {
        let area = Area { x: 0.1, y: 0.0, width: 0.25, height: 1.0 };
        assert_eq!(area.pixels(16, 10), (1, 0, 5, 10));
        assert_eq!(Area { x: 1.0, y: 1.0, width: 0.0, height: 0.0 }.pixels(16, 10), (16, 10, 0, 0));
    }
}
