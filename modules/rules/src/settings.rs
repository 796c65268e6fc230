//! What can be set, by environment (`SHUNT_RULES_...`) and by twin.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shunt_module::{Problems, Settings};
use shunt_rules::{Limits, RuleSet};

/// What can be set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RulesSettings {
    /// The rules, by name; what a rule may say is in docs/rules.md. Setting this field replaces the whole map.
    pub rules: BTreeMap<String, Value>,
    /// A file with more rules, TOML (`.toml`) or JSON. A rule of the same name in `rules` goes before. It is read at the
    /// start, when settings change, and by the direct method reload. Empty: none.
    pub file: String,
    /// Seconds between two writings of the windows to disk. So much of what was counted is lost at most when the
    /// module is killed; nothing when it ends in order.
    #[schemars(range(min = 1, max = 3_600))]
    pub save_every_s: u64,
    /// Most megabytes that the windows of all rules together may need. Rules that may need more are refused.
    #[schemars(range(min = 1, max = 4_096))]
    pub max_memory_mb: u32,
    /// An event whose time is so many seconds ahead of the clock is not counted.
    #[schemars(range(min = 1, max = 86_400))]
    pub max_ahead_s: u64,
    /// Seconds between two readings of the device's temperatures, where a rule looks at the kind `temperature`. 0:
    /// none; the events of others still count.
    #[schemars(range(min = 0, max = 3_600))]
    pub temperature_every_s: u64,
    /// Where the temperatures are: a folder as of Linux, with `thermal_zone*/temp` in thousandths of a degree.
    pub thermal_dir: String,
}

// === impl RulesSettings ===

impl RulesSettings {
    /// The bounds of the rules.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            bytes: self.max_memory_mb as usize * 1024 * 1024,
            ahead_ms: self.max_ahead_s as i64 * 1_000,
            ..Limits::default()
        }
    }

    /// The file with rules, if there is one.
    pub(crate) fn rule_file(&self) -> Option<PathBuf> {
        (!self.file.is_empty()).then(|| PathBuf::from(&self.file))
    }
}

impl Default for RulesSettings {
    fn default() -> Self {
        Self {
            rules: BTreeMap::new(),
            file: String::new(),
            save_every_s: 10,
            max_memory_mb: 128,
            max_ahead_s: 60,
            temperature_every_s: 10,
            thermal_dir: "/sys/class/thermal".to_owned(),
        }
    }
}

impl Settings for RulesSettings {
    const MODULE: &'static str = "rules";

    fn check(&self, problems: &mut Problems) {
        let mut range = |field: &str, value: u64, least: u64, most: u64| {
            if !(least..=most).contains(&value) {
                problems.note(field, format!("it is {value}, but must be from {least} to {most}"));
            }
        };
        range("save_every_s", self.save_every_s, 1, 3_600);
        range("max_memory_mb", self.max_memory_mb.into(), 1, 4_096);
        range("max_ahead_s", self.max_ahead_s, 1, 86_400);
        range("temperature_every_s", self.temperature_every_s, 0, 3_600);
        let rules = self.rules.iter().map(|(name, rule)| (name.as_str(), rule));
        for (rule, problem) in RuleSet::compile(rules, &self.limits()).err().unwrap_or_default() {
            let field = if rule.is_empty() { "rules".to_owned() } else { format!("rules.{rule}") };
            problems.note(&field, problem.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_bad_rule_is_named_with_what_is_wrong_in_it() {
        let mut settings = RulesSettings::default();
        settings.rules.insert("good".to_owned(), json!({"from": ["emotion"], "when": "data.x > 1"}));
        settings.rules.insert("broken".to_owned(), json!({"from": ["emotion"], "when": "data.x >"}));
        settings
            .rules
            .insert("lost".to_owned(), json!({"from": ["emotion"], "when": "wrong == 1", "hold": "1 year"}));
        settings.save_every_s = 0;
        let mut problems = Problems::default();
        settings.check(&mut problems);
        let fields: Vec<_> = problems.iter().map(|(field, problem)| format!("{field}: {problem}")).collect();
        assert_eq!(fields.len(), 3, "{fields:?}");
        assert!(fields[0].starts_with("save_every_s: it is 0"), "{fields:?}");
        assert!(fields[1].starts_with("rules.broken: when (column 9): "), "{fields:?}");
        assert!(fields[2].starts_with("rules.lost: hold: \"1 year\" is no time"), "{fields:?}");
    }
}
