//! A model's golden answer: what it must say to a picture that every machine can draw.

use std::{collections::BTreeMap, f64::consts::PI};

use serde::{Deserialize, Serialize};

use crate::{Colour, Input, ModelError, Tensor};

/// What the catalog says of a model's golden answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// Which picture goes in: see [`pattern`]. There is one, `1`.
    pub pattern: u32,
    /// The largest difference that is allowed between a value and its golden one.
    pub tolerance: f32,
    /// Of each output, some of its places and the values there.
    pub outputs: BTreeMap<String, Vec<(usize, f32)>>,
}

/// What a comparison with the golden answer said.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Proof {
    /// The values compared.
    pub compared: usize,
    /// The largest difference found.
    pub difference: f32,
    /// The largest that is allowed.
    pub tolerance: f32,
}

// === impl Golden ===

impl Golden {
    /// Compares outputs, by name, with the golden ones.
    ///
    /// # Errors
    ///
    /// [`ModelError::Golden`]: an output or a place is missing, or a value is too far off or not a number.
    pub fn compare(&self, model: &str, outputs: &[(String, Tensor)]) -> Result<Proof, ModelError> {
        let wrong = |problem: String| ModelError::Golden { model: model.to_owned(), problem };
        let mut proof = Proof { compared: 0, difference: 0.0, tolerance: self.tolerance };
        for (name, places) in &self.outputs {
            let Some((_, tensor)) = outputs.iter().find(|(output, _)| output == name) else {
                return Err(wrong(format!("it has no output {name:?}")));
            };
            let values = tensor.clone().into_f32();
            for &(place, golden) in places {
                let Some(&value) = values.get(place) else {
                    return Err(wrong(format!("the output {name:?} has no value at {place}")));
                };
                let difference = (value - golden).abs();
                if difference.is_nan() || difference > self.tolerance {
                    let tolerance = self.tolerance;
                    return Err(wrong(format!(
                        "the output {name:?} says {value} at {place}, where {golden} is right (tolerance {tolerance})"
                    )));
                }
                proof.compared += 1;
                proof.difference = proof.difference.max(difference);
            }
        }
        Ok(proof)
    }
}

/// The golden picture of this input's size and colours, row by row, 8 bits a channel: waves whose length differs from
/// channel to channel. `models/tools/golden.py` draws the same.
pub fn pattern(input: &Input) -> Vec<u8> {
    let (width, height) = (f64::from(input.width()), f64::from(input.height()));
    let channels = if input.colour == Colour::Rgb { 3 } else { 1 };
    let mut pixels = Vec::with_capacity(input.width() as usize * input.height() as usize * channels);
    for y in 0..input.height() {
        for x in 0..input.width() {
            for channel in 0..channels {
                let channel = channel as f64;
                let across = (2.0 * PI * f64::from(x) * (channel + 2.0) / width).sin();
                let down = (2.0 * PI * f64::from(y) * (3.0 - channel) / height).cos();
                pixels.push((127.5 + 60.0 * across + 60.0 * down).floor().clamp(0.0, 255.0) as u8);
            }
        }
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Values;

    fn golden() -> Golden {
        let outputs = BTreeMap::from([("scores".to_owned(), vec![(0, 0.25), (2, 0.5)])]);
        Golden { pattern: 1, tolerance: 0.01, outputs }
    }

    fn answer(values: &[f32]) -> Vec<(String, Tensor)> {
        vec![(
            "scores".to_owned(),
            Tensor { shape: vec![values.len()], values: Values::F32(values.to_vec()) },
        )]
    }

    #[test]
    fn an_answer_within_the_tolerance_is_right() {
        let proof = golden().compare("m", &answer(&[0.255, 9.0, 0.5])).unwrap();
        assert_eq!(proof.compared, 2);
        assert!((proof.difference - 0.005).abs() < 1e-6);
    }

    #[test]
    fn an_answer_that_is_off_missing_or_not_a_number_is_wrong() {
        for (values, said) in [
            (&[0.3_f32, 0.0, 0.5][..], "says 0.3 at 0, where 0.25 is right"),
            (&[0.25, 0.0], "has no value at 2"),
            (&[f32::NAN, 0.0, 0.5], "says NaN at 0"),
        ] {
            let error = golden().compare("m", &answer(values)).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let error = golden().compare("m", &[]).unwrap_err().to_string();
        assert!(error.contains("no output \"scores\""), "{error}");
    }
}
