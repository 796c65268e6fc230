//! What would rules do with these events? The direct method `test`, and `POST /rules/test`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use shunt_rules::{Act, Event, Limits, Output, RuleSet, RuleState, Span, dry_run};

/// Most events of a trial.
const EVENTS: usize = 10_000;
/// Most outputs that are told; the others are counted.
const OUTPUTS: usize = 200;

/// What is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    /// Rules; those in force, where none are given.
    #[serde(default)]
    rules: Option<BTreeMap<String, Value>>,
    /// Only this one of them.
    #[serde(default)]
    rule: Option<String>,
    /// Events in structured mode, in the order in which they come.
    events: Vec<Box<RawValue>>,
    /// How long time goes on after the last one.
    #[serde(default)]
    after: Option<Span>,
}

/// What would have happened.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    /// In order; 200 at most.
    outputs: Vec<Told>,
    /// How many more there would have been.
    more: usize,
    rules: Vec<RuleState>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Told {
    Window(shunt_wire::events::Window),
    Alert {
        #[serde(flatten)]
        alert: shunt_wire::events::Alert,
        published: bool,
        acts: Vec<Act>,
    },
}

/// Answers. Heavy: not for the async threads.
pub(crate) fn answer(
    question: Question,
    in_force: &BTreeMap<String, Value>,
    limits: &Limits,
) -> Result<Answer, String> {
    if question.events.len() > EVENTS {
        return Err(format!("there are {} events, {EVENTS} are allowed", question.events.len()));
    }
    let rules = question.rules.as_ref().unwrap_or(in_force);
    if let Some(only) = &question.rule
        && !rules.contains_key(only)
    {
        let known: Vec<_> = rules.keys().map(String::as_str).collect();
        return Err(format!("there is no rule {only:?}; there are {}", known.join(", ")));
    }
    let wanted = rules.iter().filter(|(name, _)| question.rule.as_ref().is_none_or(|only| only == *name));
    let set = RuleSet::compile(wanted.map(|(name, rule)| (name.as_str(), rule)), limits);
    let set = set.map_err(|problems| {
        let lines: Vec<_> = problems.iter().map(|(rule, problem)| format!("{rule}: {problem}")).collect();
        lines.join("; ")
    })?;
    let mut events = Vec::with_capacity(question.events.len());
    for (index, event) in question.events.iter().enumerate() {
        events.push(Event::read_line(event.get()).map_err(|error| format!("event {index}: {error}"))?);
    }
    let run = dry_run(set, events, question.after.map_or(0, Span::ms));
    let more = run.outputs.len().saturating_sub(OUTPUTS);
    let outputs = run.outputs.into_iter().take(OUTPUTS).map(Told::from).collect();
    Ok(Answer { outputs, more, rules: run.rules })
}

impl From<Output> for Told {
    fn from(output: Output) -> Self {
        match output {
            Output::Window { window, .. } => Self::Window(window),
            Output::Alert { alert, publish, acts, .. } => Self::Alert { alert, published: publish, acts },
        }
    }
}
