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
}

// === impl Board ===

impl Board {
    pub(crate) fn new(health: Health, facts: Facts) -> Self {
        Self { actions: Arc::default(), health, facts }
    }

    pub(crate) fn failed(&self, rule: &str, message: String) {
        let mut actions = self.actions.lock();
        if actions.len() >= MOST && !actions.contains_key(rule) {
            actions.clear();
        }
        let count = actions.get(rule).map_or(0, |old| old.count) + 1;
        actions.insert(rule.to_owned(), FailedAction { message, at_ms: clock::now_ms(), count });
    }

    pub(crate) fn action(&self, rule: &str) -> Option<FailedAction> {
        self.actions.lock().get(rule).cloned()
    }

    /// Tells of the rules that fail, on the health page and in the reported twin.
    pub(crate) fn tell(&self, rules: &[RuleState]) {
        let (mut failing, now) = (Vec::new(), clock::now_ms());
        for rule in rules {
            let action = self.action(&rule.name).filter(|action| now - action.at_ms < LATELY_MS);
            if rule.broken || rule.counters.failures > 0 && rule.last_failure.is_some() {
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
