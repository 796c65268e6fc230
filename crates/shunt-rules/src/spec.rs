//! A rule as it is written, in the twin or in a file.

use std::{collections::BTreeMap, fmt};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::{Map, Value};

/// A rule as it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field that people write")]
pub struct RuleSpec {
    /// What it is for, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// Is it at work?
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Which events: kinds (`emotion`), kinds of a source (`emotion/front-door`) or topic filters
    /// (`shunt/+/front-door`); 16 at most.
    pub from: Vec<String>,
    /// Which of them: an expression on the event; all where it is not given.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub where_: Option<String>,
    /// Expressions on the event; each different set of values is a group with windows and an alert of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub group_by: Vec<String>,
    /// Most groups; where there are more, the one that was quiet for longest is forgotten and counted.
    #[serde(default = "max_groups")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_groups: u32,
    /// How events are put together; each is judged alone where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<WindowSpec>,
    /// How much later than newer events of its group an event may come and still count.
    #[serde(default = "lateness")]
    #[schemars(with = "String")]
    pub lateness: Span,
    /// What is computed for each window: `count()`, `mean(data.score)`, `percentile(data.score, 95)` and so on, by
    /// name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, String>,
    /// When the alert is raised: an expression on the window's values (on the event, where there is no window).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// When it is cleared: an expression of the same kind; when `when` holds no more, where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// How long `when` must hold before the alert is raised.
    #[serde(default, skip_serializing_if = "Span::is_zero")]
    #[schemars(with = "String")]
    pub hold: Span,
    /// How long `until` must hold before it is cleared.
    #[serde(default, skip_serializing_if = "Span::is_zero")]
    #[schemars(with = "String")]
    pub until_hold: Span,
    /// A raised alert is told again after this time; never where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub repeat: Option<Span>,
    /// Publish an alert on `shunt/alert/<rule>`?
    #[serde(default = "yes")]
    pub alert: bool,
    /// How bad it is.
    #[serde(default)]
    pub severity: Severity,
    /// What the alert says; `${...}` holds an expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Does the alert ask to be sent upstream? It is said in the alert; the relay's setting decides.
    #[serde(default = "yes")]
    pub upstream: bool,
    /// Publish the result of each window on `shunt/window/<rule>`?
    #[serde(default)]
    pub publish: bool,
    /// What else is done; 8 at most.
    #[serde(default, rename = "do", skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<ActionSpec>,
}

/// How events are put together. Exactly one of `tumbling`, `sliding`, `session`, `count` and `silence` is given.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WindowSpec {
    /// Windows of this length, one after the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub tumbling: Option<Span>,
    /// Windows of this length, one `every` so often.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub sliding: Option<Span>,
    /// Windows that end when nothing has come for so long.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub session: Option<Span>,
    /// Windows of so many events, in the order of their arrival.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// No window: the alert is raised when no event has come for so long, and cleared by the next one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub silence: Option<Span>,
    /// Of sliding windows: a time that goes into the length. Of windows of so many events: a number of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<Value>,
    /// The longest session; 24 h where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub longest: Option<Span>,
}

/// How bad an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Somebody should look.
    #[default]
    Warning,
    /// Somebody must act.
    Critical,
}

/// When an action is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum On {
    /// When the alert is raised.
    #[default]
    Raised,
    /// When it is raised, and each time that it is told again.
    Repeated,
    /// When it is cleared.
    Cleared,
}

/// What is done beside the alert. Texts in payloads may hold `${...}` with an expression; a text that is nothing but
/// one becomes its value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ActionSpec {
    /// Calls the HTTP port of a module or function.
    Call(CallSpec),
    /// Calls a direct method of a module on this device.
    Method(MethodSpec),
    /// Has a camera take a picture: its direct method `snapshot`.
    Snapshot(SnapshotSpec),
    /// Changes settings of another module: its direct method `setSettings`, which it must have been granted.
    Set(SetSpec),
}

/// A call of an HTTP port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CallSpec {
    /// When.
    #[serde(default)]
    pub on: On,
    /// Whom.
    pub module: String,
    /// The path, with its query.
    pub path: String,
    /// GET or POST; POST where it is not given.
    #[serde(default = "post")]
    pub verb: String,
    /// What is sent, as JSON; the alert, where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
}

/// A call of a direct method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MethodSpec {
    /// When.
    #[serde(default)]
    pub on: On,
    /// Whose.
    pub module: String,
    /// Its name.
    pub name: String,
    /// Its argument.
    #[serde(default)]
    pub payload: Value,
}

/// A picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotSpec {
    /// When.
    #[serde(default)]
    pub on: On,
    /// Which module takes it.
    #[serde(default = "camera")]
    pub module: String,
}

/// A change of settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetSpec {
    /// When.
    #[serde(default)]
    pub on: On,
    /// Whose.
    pub module: String,
    /// Which, and their values; null takes a change back.
    pub settings: Map<String, Value>,
}

/// A length of time as rules write it: `250ms`, `30s`, `5m`, `1h`, `1h30m`, `2d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Span(i64);

fn yes() -> bool {
    true
}

fn max_groups() -> u32 {
    100
}

fn lateness() -> Span {
    Span(2_000)
}

fn post() -> String {
    "POST".to_owned()
}

fn camera() -> String {
    "camera".to_owned()
}

// === impl ActionSpec ===

impl ActionSpec {
    /// When it is done.
    pub fn on(&self) -> On {
        match self {
            Self::Call(call) => call.on,
            Self::Method(method) => method.on,
            Self::Snapshot(snapshot) => snapshot.on,
            Self::Set(set) => set.on,
        }
    }
}

// === impl Severity ===

impl Severity {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

// === impl Span ===

impl Span {
    /// The longest: 100 days.
    pub const LONGEST: Self = Self(100 * 86_400_000);

    /// Of so many milliseconds.
    pub const fn from_ms(ms: i64) -> Self {
        Self(ms)
    }

    /// Milliseconds.
    pub const fn ms(self) -> i64 {
        self.0
    }

    /// Is it no time at all?
    pub fn is_zero(&self) -> bool {
        self.0 == 0
    }

    /// Reads `1h30m`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no time; it is written as in 250ms, 30s, 5m, 1h30m, 2d");
        let mut rest = text.trim();
        let mut total = 0_i64;
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.find(|sign: char| !sign.is_ascii_digit()).ok_or_else(wrong)?;
            let (number, after) = rest.split_at(digits);
            let end = after.find(|sign: char| sign.is_ascii_digit()).unwrap_or(after.len());
            let (unit, after) = after.split_at(end);
            let unit = match unit {
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(wrong()),
            };
            let number: i64 = number.parse().map_err(|_| wrong())?;
            total = number.checked_mul(unit).and_then(|part| part.checked_add(total)).ok_or_else(wrong)?;
            rest = after;
        }
        if total > Self::LONGEST.0 {
            return Err(format!("{text:?} is longer than the 100 days allowed"));
        }
        Ok(Self(total))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        if rest == 0 {
            return formatter.write_str("0s");
        }
        for (unit, ms) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
            if rest >= ms {
                write!(formatter, "{}{unit}", rest / ms)?;
                rest %= ms;
            }
        }
        Ok(())
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written_as_people_write_them() {
        for (text, ms) in
            [("250ms", 250), ("30s", 30_000), ("5m", 300_000), ("1h30m", 5_400_000), ("2d", 172_800_000)]
        {
            assert_eq!(Span::parse(text).unwrap().ms(), ms, "{text}");
            assert_eq!(Span::from_ms(ms).to_string(), text);
        }
        assert_eq!(Span::parse("90m").unwrap().to_string(), "1h30m");
        for text in ["", "5", "m", "5 m", "5x", "-5s", "1.5h", "99999999999999999999s", "101d"] {
            assert!(Span::parse(text).is_err(), "{text}");
        }
    }
}
