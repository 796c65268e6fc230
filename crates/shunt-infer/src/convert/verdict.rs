//! The proof that a converted model answers as the one it was made from.

use std::fmt;

use crate::{BackendError, Loaded, Tensor, classify::best_classes};

/// An output without a scale may differ by this part of its largest value, or of one.
const TOLERANCE: f32 = 1e-3;
/// So many of the best classes must be the same.
const BEST: usize = 5;
/// What rounding to 32 bits adds to a step.
const ROUNDING: f32 = 1.0001;

/// What a comparison of two models said.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// How many inputs both were run on.
    pub inputs: usize,
    /// The largest difference of any value, as a part of what is allowed: at 1 it is just allowed.
    pub largest: f32,
    /// What was wrong first, as a sentence without its full stop; `None` if nothing was.
    pub wrong: Option<String>,
}

/// Runs both models on the same inputs and compares the outputs of the same names.
///
/// Each value must be within one step of its output's scale (`steps`, in the order of the other's outputs), or,
/// where there is none, within a thousandth of the output's largest value. And where an output is one row of more
/// than five values, its five best places must be the same; places whose values the reference holds for equal may
/// stand for each other.
///
/// # Errors
///
/// One of the two cannot be run.
pub fn compare(
    reference: &dyn Loaded,
    other: &dyn Loaded,
    steps: &[Option<f32>],
    inputs: &[(String, Vec<Tensor>)],
) -> Result<Verdict, BackendError> {
    let mut verdict = Verdict { inputs: 0, largest: 0.0, wrong: None };
    let names: Vec<&str> = reference.describe().outputs.iter().map(|port| port.name.as_str()).collect();
    for (what, input) in inputs {
        let found = other.run(input.clone())?;
        let expected = reference.run(input.clone())?;
        verdict.inputs += 1;
        for (name, expected) in names.iter().zip(expected) {
            let place = other.describe().outputs.iter().position(|port| port.name == *name);
            let Some((place, tensor)) = place.and_then(|place| Some((place, found.get(place)?))) else {
                verdict.say(format!("there is no output {name:?}"));
                continue;
            };
            if tensor.shape != expected.shape {
                verdict.say(format!("{name:?} has the shape {:?}, not {:?}", tensor.shape, expected.shape));
                continue;
            }
            let row = expected.shape.iter().filter(|length| **length > 1).count() == 1;
            let step = steps.get(place).copied().flatten();
            verdict.values(what, name, step, row, &expected.into_f32(), &tensor.clone().into_f32());
        }
    }
    Ok(verdict)
}

// === impl Verdict ===

impl Verdict {
    fn say(&mut self, wrong: String) {
        self.wrong.get_or_insert(wrong);
    }

    fn values(
        &mut self,
        what: &str,
        name: &str,
        step: Option<f32>,
        row: bool,
        expected: &[f32],
        found: &[f32],
    ) {
        let largest = expected.iter().fold(1.0_f32, |largest, value| largest.max(value.abs()));
        let allowed = step.map_or(TOLERANCE * largest, |step| step * ROUNDING);
        for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
            let part = (found - expected).abs() / allowed;
            if part > 1.0 || part.is_nan() {
                self.say(format!(
                    "on {what} {name:?} says {found} at {place}, where {expected} is right (within {allowed})"
                ));
            }
            self.largest = self.largest.max(part);
        }
        if row && expected.len() > BEST && !same_best(expected, found) {
            self.say(format!(
                "on {what} {name:?} has other places than the right ones among its best {BEST}"
            ));
        }
    }
}

/// Are the best places of both the same, where equal values may stand for each other?
fn same_best(expected: &[f32], found: &[f32]) -> bool {
    let right: Vec<f32> = best_classes(expected, BEST).into_iter().map(|(_, value)| value).collect();
    let places = best_classes(found, BEST).into_iter();
    let mut taken: Vec<f32> = places.filter_map(|(place, _)| expected.get(place).copied()).collect();
    taken.sort_by(|one, other| other.total_cmp(one));
    right == taken
}

/// For people: `the same best five, and every value within a step of its scale (0.48 of it) on 11 inputs`.
impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inputs, largest, wrong } = self;
        match wrong {
            Some(wrong) => formatter.write_str(wrong),
            None => write!(
                formatter,
                "the same best places and every value within what is allowed (at most {largest:.2} of it) on {inputs} \
                 inputs"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_the_reference_holds_for_equal_may_stand_for_each_other() {
        let expected = [0.5, 0.2, 0.1, 0.05, 0.01, 0.01, 0.0];
        assert!(same_best(&expected, &[0.5, 0.2, 0.1, 0.05, 0.009, 0.012, 0.0]));
        assert!(!same_best(&expected, &[0.5, 0.2, 0.1, 0.05, 0.009, 0.009, 0.012]));
    }

    #[test]
    fn a_value_more_than_a_step_away_or_not_a_number_is_wrong() {
        for (found, right) in [(0.53, true), (0.55, false), (f32::NAN, false)] {
            let mut verdict = Verdict { inputs: 1, largest: 0.0, wrong: None };
            verdict.values("a picture", "scores", Some(0.04), false, &[0.5], &[found]);
            assert_eq!(verdict.wrong.is_none(), right, "{found}: {:?}", verdict.wrong);
        }
    }
}
