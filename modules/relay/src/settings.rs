//! What can be set, by environment (`SHUNT_RELAY_...`) and by twin.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shunt_module::{Problems, Settings};
use shunt_wire::{Kind, Name};

use crate::filter::Condition;

/// What can be set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RelaySettings {
    /// Which kinds of events go to the hub, by name; a kind that is not named stays on the device. Setting this
    /// field replaces the whole map.
    pub kinds: BTreeMap<String, KindSettings>,
    /// Most events kept on disk. When it is reached, the oldest are dropped and counted.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_queue_events: u64,
    /// Most bytes of events kept on disk. When it is reached, the oldest are dropped and counted. The file needs
    /// up to about twice as much.
    #[schemars(range(min = 1_048_576, max = 1_099_511_627_776_u64))]
    pub max_queue_bytes: u64,
    /// The output of edgeHub that the events are sent to, as routes name it.
    pub output: String,
}

/// What goes to the hub of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KindSettings {
    /// Send this kind?
    pub enabled: bool,
    /// Most events a second; those above are dropped and counted as `rate_limited`. Null: no limit.
    pub max_per_s: Option<f64>,
    /// Send only events whose data meets all these conditions, by field; the others are dropped and counted as
    /// `filtered`. Null: all.
    pub r#where: Option<BTreeMap<String, Condition>>,
}

/// Most kinds: each is a subscription on the bus.
const MAX_KINDS: usize = 64;

// === impl RelaySettings ===

impl RelaySettings {
    /// The kinds that are enabled.
    pub(crate) fn enabled(&self) -> BTreeMap<Kind, KindSettings> {
        let enabled = self.kinds.iter().filter(|(_, settings)| settings.enabled);
        // The names were checked.
        enabled.filter_map(|(kind, settings)| Some((kind.parse().ok()?, settings.clone()))).collect()
    }
}

impl Default for RelaySettings {
    fn default() -> Self {
        let kind = |name: &Kind, enabled| {
            (name.as_str().to_owned(), KindSettings { enabled, ..KindSettings::default() })
        };
        Self {
            kinds: BTreeMap::from([
                kind(&Kind::EMOTION, true),
                kind(&Kind::LABEL, true),
                kind(&Kind::SENTIMENT, true),
                kind(&Kind::WINDOW, true),
                kind(&Kind::ALERT, true),
                // Every face of every frame; an emotion event tells the same and more.
                kind(&Kind::FACE, false),
            ]),
            max_queue_events: 100_000,
            max_queue_bytes: 256 * 1024 * 1024,
            output: "telemetry".to_owned(),
        }
    }
}

impl Settings for RelaySettings {
    const MODULE: &'static str = "relay";

    fn check(&self, problems: &mut Problems) {
        if self.kinds.len() > MAX_KINDS {
            problems
                .note("kinds", format!("{} kinds are more than the {MAX_KINDS} allowed", self.kinds.len()));
        }
        for (kind, settings) in &self.kinds {
            let mut note = |part: &str, problem: String| {
                problems.note(&format!("kinds.{kind}{part}"), problem);
            };
            if let Err(error) = kind.parse::<Kind>() {
                note("", error.to_string());
            }
            if let Some(rate) = settings.max_per_s
                && !(rate.is_finite() && rate > 0.0)
            {
                note(".max_per_s", format!("it is {rate}, but must be more than 0, or null for no limit"));
            }
            for (field, condition) in settings.r#where.iter().flatten() {
                if let Err(problem) = condition.check() {
                    note(&format!(".where.{field}"), problem);
                }
            }
        }
        if !(1..=1_000_000).contains(&self.max_queue_events) {
            let problem = format!("it is {}, but must be from 1 to 1000000", self.max_queue_events);
            problems.note("max_queue_events", problem);
        }
        if !(1 << 20..=1 << 40).contains(&self.max_queue_bytes) {
            let problem = format!("it is {}, but must be from 1048576 to 2^40", self.max_queue_bytes);
            problems.note("max_queue_bytes", problem);
        }
        if let Err(error) = self.output.parse::<Name>() {
            problems.note("output", error.to_string());
        }
    }
}

// === impl KindSettings ===

impl Default for KindSettings {
    fn default() -> Self {
        Self { enabled: true, max_per_s: None, r#where: None }
    }
}
