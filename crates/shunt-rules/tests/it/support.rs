//! Events and rules in few words.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shunt_rules::{DryRun, Engine, Event, Limits, Output, RuleSet, dry_run};
use shunt_wire::events::{Alert, AlertState, Window};

/// 2026-11-21T09:00:00Z.
pub(crate) const START: i64 = 1_795_251_600_000;

/// An event so many milliseconds after the start.
pub(crate) fn event(kind: &str, source: &str, at: i64, data: Value) -> Event {
    Event {
        topic: format!("shunt/{kind}/{source}"),
        kind: kind.to_owned(),
        source: source.to_owned(),
        id: format!("{kind}-{source}-{at}"),
        subject: None,
        time_ms: START + at,
        data,
        extensions: json!({}),
    }
}

/// A temperature so many milliseconds after the start.
pub(crate) fn degrees(at: i64, celsius: f64) -> Event {
    event("temperature", "box", at, json!({ "celsius": celsius }))
}

pub(crate) fn set(rules: &Value) -> RuleSet {
    compile(rules).unwrap_or_else(|problems| panic!("{problems:?}"))
}

pub(crate) fn compile(rules: &Value) -> Result<RuleSet, Vec<String>> {
    let rules: BTreeMap<String, Value> = serde_json::from_value(rules.clone()).unwrap();
    let rules = rules.iter().map(|(name, rule)| (name.as_str(), rule));
    RuleSet::compile(rules, &Limits::default())
        .map_err(|problems| problems.iter().map(|(rule, problem)| format!("{rule}: {problem}")).collect())
}

pub(crate) fn engine(rules: &Value) -> Engine {
    Engine::new(set(rules), Limits::default(), START)
}

/// One rule over events; the clock stands at the last one, and then goes on for so long.
pub(crate) fn run(rule: &Value, events: impl IntoIterator<Item = Event>, after: i64) -> DryRun {
    dry_run(set(&json!({ "r": rule })), events, after)
}

pub(crate) fn windows(outputs: &[Output]) -> Vec<&Window> {
    let window = |output| match output {
        &Output::Window { ref window, .. } => Some(window),
        &Output::Alert { .. } => None,
    };
    outputs.iter().filter_map(window).collect()
}

pub(crate) fn alerts(outputs: &[Output]) -> Vec<&Alert> {
    let alert = |output| match output {
        &Output::Alert { ref alert, .. } => Some(alert),
        &Output::Window { .. } => None,
    };
    outputs.iter().filter_map(alert).collect()
}

/// Alerts in short: `+9:00:30` raised, `!` repeated, `-` cleared, `x` failed; with the group where there is one.
pub(crate) fn story(outputs: &[Output]) -> Vec<String> {
    let tell = |alert: &Alert| {
        let sign = match alert.state {
            AlertState::Raised => '+',
            AlertState::Repeated => '!',
            AlertState::Cleared => '-',
            AlertState::Failed => 'x',
        };
        let at = alert.at[11..].trim_end_matches('Z').trim_end_matches(".000");
        let group: Vec<_> =
            alert.group.values().map(|value| format!(" {}", value.as_str().unwrap_or("?"))).collect();
        format!("{sign}{at}{}", group.concat())
    };
    alerts(outputs).into_iter().map(tell).collect()
}
