//! What would rules do with these events? The direct method `test`, and `POST /rules/test`.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use shunt_rules::{Act, Event, Limits, Output, RuleSet, RuleState, Span, dry_run_into};

/// Most events of a trial.
const EVENTS: usize = 10_000;
/// Most outputs that are told; the others are counted.
const OUTPUTS: usize = 200;
/// What a trial may take. Then it ends, and says so: whoever asked gets no answer much later.
const LIMIT: Duration = Duration::from_secs(5);

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
    /// Events that were taken.
    taken: u64,
    /// Did it take too long, and was ended before all of it was run?
    stopped: bool,
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
    question: &Question,
    in_force: &BTreeMap<String, Value>,
    limits: &Limits,
) -> Result<Answer, String> {
    answer_within(LIMIT, question, in_force, limits)
}

fn answer_within(
    limit: Duration,
    question: &Question,
    in_force: &BTreeMap<String, Value>,
    limits: &Limits,
) -> Result<Answer, String> {
    let begun = Instant::now();
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
    let (mut outputs, mut more) = (Vec::new(), 0);
    let run = dry_run_into(set, events, question.after.map_or(0, Span::ms), |out| {
        for output in out {
            if outputs.len() < OUTPUTS {
                outputs.push(Told::from(output));
            } else {
                more += 1;
            }
        }
        if begun.elapsed() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    Ok(Answer { outputs, more, rules: run.rules, taken: run.events, stopped: run.stopped })
}

impl From<Output> for Told {
    fn from(output: Output) -> Self {
        match output {
            Output::Window { window, .. } => Self::Window(window),
            Output::Alert { alert, publish, acts, .. } => Self::Alert { alert, published: publish, acts },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A hot hour with an alert each second.
    fn hot() -> Question {
        let event = |id: u32| {
            json!({"specversion": "1.0", "id": id.to_string(), "type": "shunt.x.v1", "source": "shunt/a",
                "time": format!("2026-11-21T{:02}:00:00Z", id), "data": 1})
        };
        let rules = json!({"r": {"from": ["x"], "when": "true", "repeat": "1s"}});
        serde_json::from_value(json!({"rules": rules, "events": [event(0), event(1), event(2)]})).unwrap()
    }

    #[test]
    fn what_is_not_told_is_counted() {
        let answer = answer(&hot(), &BTreeMap::new(), &Limits::default()).unwrap();
        assert_eq!((answer.outputs.len(), answer.taken, answer.stopped), (OUTPUTS, 3, false));
        assert!(answer.more > 1_000, "{}", answer.more);
    }

    #[test]
    fn a_trial_that_takes_too_long_ends_and_says_so() {
        let answer = answer_within(Duration::ZERO, &hot(), &BTreeMap::new(), &Limits::default()).unwrap();
        assert_eq!((answer.taken, answer.stopped), (1, true));
    }
}
