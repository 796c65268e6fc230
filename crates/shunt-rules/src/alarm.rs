//! Raised or not: hysteresis, hold, repetition.

use serde::{Deserialize, Serialize};

use crate::spec::{On, RuleSpec};

/// Whether the alert of a group is raised. Times in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Alarm {
    #[default]
    Quiet,
    /// `when` holds, but not for long enough.
    Pending { since: i64 },
    /// Raised; told last at that time.
    Raised { since: i64, told: i64 },
    /// Raised; `until` holds, but not for long enough.
    Calming { since: i64, told: i64, calm: i64 },
}

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Raised,
    Repeated,
    Cleared { since: i64 },
}

// === impl Change ===

impl Change {
    /// Is an action of this kind done then?
    pub(crate) fn wants(self, on: On) -> bool {
        match self {
            Self::Raised => on != On::Cleared,
            Self::Repeated => on == On::Repeated,
            Self::Cleared { .. } => on == On::Cleared,
        }
    }
}

// === impl Alarm ===

impl Alarm {
    /// Is the alert raised? Then `until` is to be asked, else `when`.
    pub(crate) fn is_raised(self) -> bool {
        matches!(self, Self::Raised { .. } | Self::Calming { .. })
    }

    /// Since when; nothing if it is not.
    pub(crate) fn since(self) -> Option<i64> {
        match self {
            Self::Raised { since, .. } | Self::Calming { since, .. } => Some(since),
            _ => None,
        }
    }

    /// At this time, the condition that is asked (`until` if raised, else `when`) holds, or does not.
    pub(crate) fn judge(&mut self, spec: &RuleSpec, at: i64, holds: bool) -> Option<Change> {
        match *self {
            Self::Quiet if holds => {
                *self = Self::Pending { since: at };
                self.tick(spec, at)
            }
            Self::Pending { .. } if !holds => {
                *self = Self::Quiet;
                None
            }
            Self::Raised { since, told } if holds => {
                *self = Self::Calming { since, told, calm: at };
                self.tick(spec, at)
            }
            Self::Calming { since, told, .. } if !holds => {
                *self = Self::Raised { since, told };
                self.tick(spec, at)
            }
            Self::Quiet => None,
            Self::Pending { .. } | Self::Raised { .. } | Self::Calming { .. } => self.tick(spec, at),
        }
    }

    /// Time goes on, and nothing has changed.
    pub(crate) fn tick(&mut self, spec: &RuleSpec, now: i64) -> Option<Change> {
        match *self {
            Self::Pending { since } if now - since >= spec.hold.ms() => {
                let at = since + spec.hold.ms();
                *self = Self::Raised { since: at, told: at };
                Some(Change::Raised)
            }
            Self::Raised { since, told } => {
                let repeat = spec.repeat?.ms();
                if now - told < repeat {
                    return None;
                }
                // The last time that it should have been told: those that were missed are not told all at once.
                let told = told + (now - told) / repeat * repeat;
                *self = Self::Raised { since, told };
                Some(Change::Repeated)
            }
            Self::Calming { since, calm, .. } if now - calm >= spec.until_hold.ms() => {
                *self = Self::Quiet;
                Some(Change::Cleared { since })
            }
            _ => None,
        }
    }

    /// When a raised alert was told last.
    pub(crate) fn told(self) -> Option<i64> {
        match self {
            Self::Raised { told, .. } | Self::Calming { told, .. } => Some(told),
            _ => None,
        }
    }

    /// Clears it at once.
    pub(crate) fn clear(&mut self) -> Option<Change> {
        let since = self.since();
        *self = Self::Quiet;
        since.map(|since| Change::Cleared { since })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(more: &str) -> RuleSpec {
        serde_json::from_str(&format!(r#"{{"from": ["x"], "when": "true", {more} "about": ""}}"#)).unwrap()
    }

    /// What happens at each second, where the condition that is asked holds or not: `+` raised, `!` repeated, `-`
    /// cleared.
    fn told(more: &str, when: &str, until: Option<&str>) -> String {
        let (spec, mut alarm) = (spec(more), Alarm::default());
        let bit = |text: &str, index: usize| text.as_bytes()[index] == b'1';
        let mut told = String::new();
        for second in 0..when.len() {
            let when = bit(when, second);
            let holds =
                if alarm.is_raised() { until.map_or(!when, |until| bit(until, second)) } else { when };
            told.push(match alarm.judge(&spec, second as i64 * 1_000, holds) {
                None => '.',
                Some(Change::Raised) => '+',
                Some(Change::Repeated) => '!',
                Some(Change::Cleared { .. }) => '-',
            });
        }
        told
    }

    #[test]
    fn an_alert_is_raised_once_and_cleared_once() {
        assert_eq!(told("", "0011100110", None), "..+..-.+.-");
    }

    #[test]
    fn hysteresis_keeps_it_raised_between_the_two_conditions() {
        assert_eq!(told("", "0010000000", Some("1100011100")), "..+..-....");
        assert_eq!(told("", "0010011000", Some("0000000010")), "..+.....-.");
    }

    #[test]
    fn what_does_not_hold_for_long_enough_is_not_told() {
        assert_eq!(told(r#""hold": "3s","#, "0111011111", None), "........+.");
        assert_eq!(told(r#""until_hold": "2s","#, "0101001000", None), ".+.......-");
    }

    #[test]
    fn a_raised_alert_is_told_again() {
        assert_eq!(told(r#""repeat": "3s","#, "1111111111", None), "+..!..!..!");
    }
}
