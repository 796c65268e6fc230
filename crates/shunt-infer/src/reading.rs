//! A face together with its expression.

use serde::{Serialize, Serializer, ser::SerializeStruct};
use shunt_vision::Rect;
use shunt_wire::events::Probabilities;

/// A face and its expression, as the `shunt` command and the `emotion` module print it:
/// `{"bounds":..,"score":..,"emotion":..,"probability":..,"probabilities":..}`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaceReading {
    /// Where the face is, in pixels of the picture.
    pub bounds: Rect,
    /// How sure the face finder is, 0 to 1.
    pub score: f32,
    /// The expressions.
    pub probabilities: Probabilities,
}

impl Serialize for FaceReading {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (emotion, probability) = self.probabilities.best();
        let mut reading = serializer.serialize_struct("FaceReading", 5)?;
        reading.serialize_field("bounds", &self.bounds)?;
        reading.serialize_field("score", &self.score)?;
        reading.serialize_field("emotion", &emotion)?;
        reading.serialize_field("probability", &probability)?;
        reading.serialize_field("probabilities", &self.probabilities)?;
        reading.end()
    }
}
