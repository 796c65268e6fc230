//! Which events of a kind go on: conditions on their data, and a rate.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shunt_wire::{Envelope, Mono};

use crate::settings::KindSettings;

/// A condition on one field of an event's data; a field inside an object is written `bounds/width`.
///
/// - `"happiness"`, `3`, `true`: the field equals it.
/// - `{"min": 0.5}`, `{"max": 10}`, `{"min": 0.5, "max": 1}`: the field is a number within these bounds.
/// - `{"not": "neutral"}`: the field is there and is not that.
///
/// A field that is not there meets no condition. That is all: whoever needs more writes a rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Condition {
    /// Equality.
    Is(Scalar),
    /// Bounds and inequality; all that are given must hold.
    Bounds(Bounds),
}

/// Bounds and inequality.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// The least value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The greatest value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// The value that it must not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not: Option<Scalar>,
}

/// A plain JSON value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Scalar {
    /// true or false.
    Bool(bool),
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
}

/// What becomes of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It goes on.
    Keep,
    /// A condition is not met.
    Filtered,
    /// There were too many.
    RateLimited,
}

/// Decides about the events of one kind.
#[derive(Debug)]
pub(crate) struct Gate {
    conditions: BTreeMap<String, Condition>,
    rate: Option<Bucket>,
}

/// A bucket that fills with `per_s` drops a second and holds one second's worth, at least one.
#[derive(Debug)]
struct Bucket {
    per_s: f64,
    drops: f64,
    at: Option<Mono>,
}

// === impl Condition ===

impl Condition {
    pub(crate) fn check(&self) -> Result<(), String> {
        match self {
            Self::Bounds(Bounds { min: None, max: None, not: None }) => {
                Err("it has neither \"min\" nor \"max\" nor \"not\"".to_owned())
            }
            Self::Bounds(Bounds { min: Some(min), max: Some(max), .. }) if min > max => {
                Err(format!("\"min\" {min} is above \"max\" {max}"))
            }
            Self::Is(_) | Self::Bounds(_) => Ok(()),
        }
    }

    fn holds(&self, value: &Value) -> bool {
        match self {
            Self::Is(wanted) => wanted.equals(value),
            Self::Bounds(Bounds { min, max, not }) => {
                let number = value.as_f64();
                min.is_none_or(|min| number.is_some_and(|number| number >= min))
                    && max.is_none_or(|max| number.is_some_and(|number| number <= max))
                    && not.as_ref().is_none_or(|not| !not.equals(value))
            }
        }
    }
}

// === impl Scalar ===

impl Scalar {
    fn equals(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Bool(wanted), Value::Bool(found)) => wanted == found,
            (Self::Number(wanted), Value::Number(found)) => found.as_f64() == Some(*wanted),
            (Self::Text(wanted), Value::String(found)) => wanted == found,
            _ => false,
        }
    }
}

// === impl Gate ===

impl Gate {
    pub(crate) fn new(settings: &KindSettings) -> Self {
        Self {
            conditions: settings.r#where.clone().unwrap_or_default(),
            rate: settings.max_per_s.map(|per_s| Bucket { per_s, drops: per_s.max(1.0), at: None }),
        }
    }

    /// Decides about an event that came at this moment.
    pub(crate) fn decide(&mut self, envelope: &Envelope, now: Mono) -> Decision {
        if !self.conditions.is_empty() {
            // Data that is no JSON has no fields.
            let data: Value = envelope.json().unwrap_or_default();
            let met = self.conditions.iter().all(|(path, condition)| {
                let value = path.split('/').try_fold(&data, |value, name| value.get(name));
                value.is_some_and(|value| condition.holds(value))
            });
            if !met {
                return Decision::Filtered;
            }
        }
        let within = self.rate.as_mut().is_none_or(|bucket| bucket.take(now));
        if within { Decision::Keep } else { Decision::RateLimited }
    }
}

// === impl Bucket ===

impl Bucket {
    fn take(&mut self, now: Mono) -> bool {
        let passed = self.at.map_or(0.0, |at| now.since(at).as_secs_f64());
        self.at = Some(now);
        self.drops = (self.drops + passed * self.per_s).min(self.per_s.max(1.0));
        let enough = self.drops >= 1.0;
        if enough {
            self.drops -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shunt_wire::{Kind, Name};

    use super::*;

    fn check(conditions: &Value, data: &Value, expected: Decision) {
        let settings = json!({"where": conditions});
        let settings: KindSettings = serde_json::from_value(settings).unwrap();
        for condition in settings.r#where.iter().flatten().map(|(_, condition)| condition) {
            assert_eq!(condition.check(), Ok(()));
        }
        let event = Envelope::new("1", Kind::EMOTION, Name::from_static("door"), "2026-11-21T09:00:00Z");
        let event = event.with_json(data).unwrap();
        let decision = Gate::new(&settings).decide(&event, Mono::from_nanos(0));
        assert_eq!(decision, expected, "{conditions} {data}");
    }

    #[test]
    fn conditions_are_equality_bounds_and_inequality() {
        use Decision::{Filtered, Keep};
        let data = json!({"emotion": "happiness", "probability": 0.75, "bounds": {"width": 80}, "new": true});
        check(&json!({"emotion": "happiness"}), &data, Keep);
        check(&json!({"emotion": "anger"}), &data, Filtered);
        check(&json!({"emotion": {"not": "neutral"}}), &data, Keep);
        check(&json!({"emotion": {"not": "happiness"}}), &data, Filtered);
        check(&json!({"probability": {"min": 0.75}}), &data, Keep);
        check(&json!({"probability": {"min": 0.76}}), &data, Filtered);
        check(&json!({"probability": {"max": 0.5}}), &data, Filtered);
        check(&json!({"bounds/width": {"min": 10, "max": 80}}), &data, Keep);
        check(&json!({"bounds/width": 80}), &data, Keep);
        check(&json!({"new": true, "emotion": "happiness"}), &data, Keep);
        check(&json!({"new": true, "emotion": "anger"}), &data, Filtered);
        check(&json!({"missing": {"not": 1}}), &data, Filtered);
        check(&json!({"emotion": {"min": 0}}), &data, Filtered);
        check(&json!({}), &data, Keep);
    }

    #[test]
    fn the_rate_lets_one_second_s_worth_through_at_once_and_then_no_more_than_the_rate() {
        let settings = KindSettings { max_per_s: Some(2.0), ..KindSettings::default() };
        let mut gate = Gate::new(&settings);
        let event = Envelope::new("1", Kind::EMOTION, Name::from_static("door"), "2026-11-21T09:00:00Z");
        // Ten events a second for ten seconds.
        let kept = (0..100)
            .filter(|tenth| gate.decide(&event, Mono::from_nanos(tenth * 100_000_000)) == Decision::Keep)
            .count();
        assert!((20..=22).contains(&kept), "{kept}");
    }

    #[test]
    fn a_rate_below_one_still_lets_single_events_through() {
        let settings = KindSettings { max_per_s: Some(0.1), ..KindSettings::default() };
        let mut gate = Gate::new(&settings);
        let event = Envelope::new("1", Kind::EMOTION, Name::from_static("door"), "2026-11-21T09:00:00Z");
        let mut at = |seconds: u64| gate.decide(&event, Mono::from_nanos(seconds * 1_000_000_000));
        assert_eq!(at(1), Decision::Keep);
        assert_eq!(at(5), Decision::RateLimited);
        assert_eq!(at(12), Decision::Keep);
    }
}
