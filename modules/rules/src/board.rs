//! What has failed lately, by rule, for whoever asks.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::json;
use shunt_module::{Facts, Health};
use shunt_rules::RuleState;

use crate::clock;

/// A rule whose failure is older than this is not named any more.
const LATELY_MS: i64 = 600_000;
/// A rule whose actions go on failing tells it again after this time.
const TELL_MS: i64 = 300_000;
/// Most rules that the reported twin names.
const NAMED: usize = 20;
/// Most rules with failed actions; the set of rules is smaller.
const MOST: usize = 1_000;

/// The last failed action of each rule. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Board {
    actions: Arc<Mutex<BTreeMap<String, FailedAction>>>,
    health: Health,
    facts: Facts,
}

/// An action that failed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FailedAction {
    /// What and why.
    message: String,
    /// When, in milliseconds since 1970.
    at_ms: i64,
    /// How many of the rule's have failed since the module's start.
    count: u64,
    /// When it was told by an alert.
    #[serde(skip)]
    told_ms: i64,
}

// === impl Board ===

impl Board {
    pub(crate) fn new(health: Health, facts: Facts) -> Self {
        Self { actions: Arc::default(), health, facts }
    }

    /// Notes it; is it to be told by an alert? Once in five minutes.
    pub(crate) fn failed(&self, rule: &str, message: String) -> bool {
        let mut actions = self.actions.lock();
        if actions.len() >= MOST && !actions.contains_key(rule) {
            actions.clear();
        }
        let (at_ms, old) = (clock::now_ms(), actions.get(rule));
        let count = old.map_or(0, |old| old.count) + 1;
        let told = old.map(|old| old.told_ms).filter(|told| (0..TELL_MS).contains(&(at_ms - told)));
        let told_ms = told.unwrap_or(at_ms);
        actions.insert(rule.to_owned(), FailedAction { message, at_ms, count, told_ms });
        told.is_none()
    }

    pub(crate) fn action(&self, rule: &str) -> Option<FailedAction> {
        self.actions.lock().get(rule).cloned()
    }

    /// Tells of the rules that fail, on the health page and in the reported twin.
    pub(crate) fn tell(&self, rules: &[RuleState]) {
        let (mut failing, now) = (Vec::new(), clock::now_ms());
        for rule in rules {
            let action = self.action(&rule.name).filter(|action| now - action.at_ms < LATELY_MS);
            let failure = rule.last_failure.as_ref().filter(|failure| failure.is_since(now - LATELY_MS));
            if rule.broken || failure.is_some() {
                let failure = rule.last_failure.as_ref();
                let why = failure
                    .map_or_else(String::new, |failure| format!("{}: {}", failure.part, failure.message));
                failing.push(format!("{}: {why}", rule.name));
            } else if let Some(action) = action {
                failing.push(format!("{}: {}", rule.name, action.message));
            }
        }
        let names: Vec<_> = failing.iter().filter_map(|text| text.split(':').next()).take(NAMED).collect();
        self.facts.set("failing_rules", json!(names.join(", ")));
        let text = if failing.is_empty() {
            format!("{} rules", rules.len())
        } else {
            // One is enough to begin with; GET /rules has all.
            format!(
                "{} of {} rules have failed, first {}",
                failing.len(),
                rules.len(),
                failing.swap_remove(0)
            )
        };
        self.health.note("rules", text);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use shunt_rules::{Engine, Event, Limits, RuleSet};

    use super::*;

    /// The state of a rule that failed at this time.
    fn failed_at(now: i64) -> Vec<RuleState> {
        let rule = json!({"from": ["x"], "when": "data.nothing"});
        let set = RuleSet::compile([("r", &rule)], &Limits::default()).unwrap();
        let mut engine = Engine::new(set, Limits::default(), now);
        let line = r#"{"specversion": "1.0", "id": "1", "type": "shunt.x.v1", "source": "shunt/a",
            "time": "2026-11-21T09:00:00Z", "data": {}}"#;
        engine.take(&Event { time_ms: now, ..Event::read_line(line).unwrap() }, now, &mut Vec::new());
        engine.rules()
    }

    #[test]
    fn a_failure_of_long_ago_is_not_named_any_more() {
        let facts = Facts::default();
        let board = Board::new(Health::new(), facts.clone());
        let named = || facts.get().get("failing_rules").cloned().unwrap_or(Value::Null);
        board.tell(&failed_at(clock::now_ms() - 1_000));
        assert_eq!(named(), "r");
        board.tell(&failed_at(clock::now_ms() - LATELY_MS - 1_000));
        assert_eq!(named(), "");
    }

    #[test]
    fn an_action_that_goes_on_failing_is_told_once_in_a_while() {
        let board = Board::new(Health::new(), Facts::default());
        let told = [("a", true), ("a", false), ("b", true), ("a", false)];
        for (rule, expected) in told {
            assert_eq!(board.failed(rule, "no".to_owned()), expected, "{rule}");
        }
        board.actions.lock().get_mut("a").unwrap().told_ms -= TELL_MS;
        assert!(board.failed("a", "no".to_owned()));
        assert_eq!(board.action("a").unwrap().count, 4);
    }
}
