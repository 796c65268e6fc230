//! When a function is called without a caller, and what becomes of its answer.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer};
use shunt_module::Problems;
use shunt_wire::{Kind, Name, Topic, TopicError, TopicFilter};

use crate::name::FunctionName;

/// The shortest and the longest interval in seconds: a week.
const INTERVALS: std::ops::RangeInclusive<f64> = 0.1..=604_800.0;
/// Most filters of one function: each is a subscription on the bus.
const MOST_FILTERS: usize = 16;
/// What the filters of our events begin with: everything else on a bus is no event of ours.
const ROOT: &str = "shunt/";

/// When a function is called without a caller, and what becomes of its answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Trigger {
    /// Events that it is called with.
    pub(crate) on: Vec<TopicFilter>,
    /// It is called so often.
    pub(crate) every: Option<Duration>,
    /// Where its answer is published.
    pub(crate) publish: Option<AnswerTopic>,
}

/// Where answers are published: `shunt/<kind>/<source>`, or `shunt/<kind>/+` for the source of the event that the
/// function was called with (of an interval: the function's own name).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AnswerTopic {
    kind: Kind,
    source: Option<Name>,
}

// === impl Trigger ===

impl Trigger {
    /// Reads it from the settings, noting what is wrong at `functions.<name>.<field>`.
    pub(crate) fn read(
        name: &str,
        on: &[String],
        every_s: Option<f64>,
        publish: Option<&str>,
        problems: &mut Problems,
    ) -> Self {
        let mut note = |field: &str, problem: String| {
            problems.note(&format!("functions.{name}.{field}"), problem);
        };
        let mut trigger = Self::default();
        for filter in on {
            match read_filter(filter) {
                Ok(filter) => trigger.on.push(filter),
                Err(problem) => note("on", problem),
            }
        }
        if on.len() > MOST_FILTERS {
            note("on", format!("{} filters are more than the {MOST_FILTERS} allowed", on.len()));
        }
        if let Some((one, other)) = overlapping(&trigger.on) {
            note("on", format!("{one:?} and {other:?} overlap: an event would come twice"));
        }
        if let Some(seconds) = every_s {
            if INTERVALS.contains(&seconds) {
                trigger.every = Some(Duration::from_secs_f64(seconds));
            } else {
                let problem =
                    format!("it is {seconds}, but must be from {} to {}", INTERVALS.start(), INTERVALS.end());
                note("every_s", problem);
            }
        }
        if let Some(topic) = publish {
            match topic.parse::<AnswerTopic>() {
                Ok(topic) if topic.source.is_none() && every_s.is_some() && name.parse::<Name>().is_err() => {
                    note(
                        "publish",
                        format!("an interval has no source for '+', and {name:?} cannot be one: name it"),
                    );
                }
                Ok(topic) => trigger.publish = Some(topic),
                Err(problem) => note("publish", problem),
            }
            if on.is_empty() && every_s.is_none() {
                let problem = "only the answers to events and intervals are published: set on or every_s too";
                note("publish", problem.to_owned());
            }
        }
        trigger
    }

    /// Is it called by anything but callers?
    pub(crate) fn is_any(&self) -> bool {
        !self.on.is_empty() || self.every.is_some()
    }
}

/// Reads filters: a list of texts, or a single text.
pub(crate) fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a text or a list of texts")]
    enum Filters {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Filters::deserialize(deserializer)? {
        Filters::One(filter) => vec![filter],
        Filters::Many(filters) => filters,
    })
}

/// Notes each function whose answers would lead back to itself.
pub(crate) fn check(triggers: &BTreeMap<FunctionName, Trigger>, problems: &mut Problems) {
    for name in triggers.keys() {
        if let Some(way) = circle(triggers, name) {
            let problem = match way.as_slice() {
                [] => "its answers would call it again: the topic is one of those in on".to_owned(),
                others => format!("its answers would call it again, by way of {}", others.join(", ")),
            };
            problems.note(&format!("functions.{name}.publish"), problem);
        }
    }
}

/// The functions between this one and itself, where its answers lead back to it; the shortest way.
fn circle(triggers: &BTreeMap<FunctionName, Trigger>, name: &FunctionName) -> Option<Vec<String>> {
    let called_by = |caller: &FunctionName| {
        let topic =
            triggers.get(caller).and_then(|trigger| trigger.publish.as_ref()).map(ToString::to_string);
        triggers.iter().filter_map(move |(other, trigger)| {
            let topic = topic.as_deref()?;
            trigger.on.iter().any(|filter| overlap(filter.as_str(), topic)).then_some(other)
        })
    };
    let mut ways: BTreeMap<&FunctionName, Vec<String>> = BTreeMap::new();
    let mut next = std::collections::VecDeque::from([(name, Vec::new())]);
    while let Some((at, way)) = next.pop_front() {
        for called in called_by(at) {
            if called == name {
                return Some(way);
            }
            if !ways.contains_key(called) {
                let way = [way.as_slice(), &[called.to_string()]].concat();
                ways.insert(called, way.clone());
                next.push_back((called, way));
            }
        }
    }
    None
}

fn read_filter(text: &str) -> Result<TopicFilter, String> {
    if !text.starts_with(ROOT) {
        return Err(format!(
            "{text:?} is no filter of events: those begin with {ROOT}, as in shunt/emotion/+"
        ));
    }
    text.parse().map_err(|error: TopicError| error.to_string())
}

fn overlapping(filters: &[TopicFilter]) -> Option<(&str, &str)> {
    filters.iter().enumerate().find_map(|(index, one)| {
        let other = filters.iter().skip(index + 1).find(|other| overlap(one.as_str(), other.as_str()))?;
        Some((one.as_str(), other.as_str()))
    })
}

/// Is there a topic that both filters match?
fn overlap(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    loop {
        match (one.next(), other.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(level), Some(same)) if level == same => {}
            _ => return false,
        }
    }
}

// === impl AnswerTopic ===

impl AnswerTopic {
    /// The topic of an answer, to an event from this source or of a function with this name.
    pub(crate) fn of(&self, source: &Name) -> Topic {
        Topic::new(self.kind.clone(), self.source.as_ref().unwrap_or(source).clone())
    }
}

impl FromStr for AnswerTopic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (topic, any) = match text.strip_suffix("/+") {
            // Any name will do in its place.
            Some(kind) => (format!("{kind}/any"), true),
            None => (text.to_owned(), false),
        };
        let topic = topic.parse::<Topic>().map_err(|error| error.to_string())?;
        if [Kind::PRESENCE, Kind::DEAD_LETTER].contains(topic.kind()) {
            return Err(format!(
                "{text:?} is of a kind that modules tell of themselves; answers are of other kinds"
            ));
        }
        let source = (!any).then(|| topic.source().clone());
        Ok(Self { kind: topic.kind().clone(), source })
    }
}

impl fmt::Display for AnswerTopic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.source.as_ref().map_or("+", Name::as_str);
        write!(formatter, "{ROOT}{}/{source}", self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The problems of one function with these triggers.
    fn problems(name: &str, on: &[&str], every_s: Option<f64>, publish: Option<&str>) -> Vec<String> {
        let on: Vec<_> = on.iter().map(|filter| (*filter).to_owned()).collect();
        let mut problems = Problems::default();
        let trigger = Trigger::read(name, &on, every_s, publish, &mut problems);
        if problems.is_empty() {
            check(&BTreeMap::from([(name.parse().unwrap(), trigger)]), &mut problems);
        }
        problems.iter().map(|(field, problem)| format!("{field}: {problem}")).collect()
    }

    #[test]
    fn triggers_that_make_sense_are_taken() {
        let none = Vec::<String>::new();
        assert_eq!(problems("mood", &["shunt/emotion/#"], None, None), none);
        assert_eq!(
            problems("mood", &["shunt/emotion/+", "shunt/face/+"], Some(0.5), Some("shunt/mood/+")),
            none
        );
        assert_eq!(problems("mood", &["shunt/mood/gate"], None, Some("shunt/mood/door")), none);
        assert_eq!(problems("mood", &[], Some(60.0), Some("shunt/mood/all")), none);
        assert_eq!(problems("mood", &[], None, None), none);
    }

    #[test]
    fn each_bad_trigger_is_told_with_its_field() {
        let check = |on: &[&str], every_s, publish, expected: &str| {
            let found = problems("mood", on, every_s, publish);
            assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:?}");
        };
        check(&["airq/#"], None, None, "functions.mood.on: \"airq/#\" is no filter of events");
        check(&["shunt/#/x"], None, None, "functions.mood.on: the filter");
        check(&["shunt/emotion/+", "shunt/+/gate"], None, None, "overlap: an event would come twice");
        check(&["shunt/emotion/+", "shunt/emotion/+"], None, None, "overlap");
        check(&[], Some(0.0), None, "functions.mood.every_s: it is 0, but must be from 0.1 to 604800");
        check(&[], Some(f64::NAN), None, "functions.mood.every_s");
        check(&[], Some(5.0), Some("mood"), "functions.mood.publish: the topic");
        check(&[], Some(5.0), Some("shunt/presence/functions"), "a kind that modules tell");
        check(&[], None, Some("shunt/mood/x"), "set on or every_s too");
        check(
            &["shunt/mood/#"],
            None,
            Some("shunt/mood/x"),
            "functions.mood.publish: its answers would call it again: ",
        );
        check(&["shunt/+/gate"], None, Some("shunt/mood/+"), "its answers would call it again");
        let many: Vec<_> = (0..17).map(|number| format!("shunt/emotion/{number}")).collect();
        check(&many.iter().map(String::as_str).collect::<Vec<_>>(), None, None, "17 filters");
        let found = problems("_own", &[], Some(5.0), Some("shunt/mood/+"));
        assert!(found[0].contains("an interval has no source"), "{found:?}");
    }

    #[test]
    fn filters_are_a_list_or_a_single_text() {
        let read = |text: &str| one_or_many(&mut serde_json::Deserializer::from_str(text));
        assert_eq!(read(r#""shunt/emotion/#""#).unwrap(), ["shunt/emotion/#"]);
        assert_eq!(read(r#"["a", "b"]"#).unwrap(), ["a", "b"]);
        assert_eq!(read("7").unwrap_err().to_string(), "a text or a list of texts");
    }

    #[test]
    fn a_circle_of_several_functions_is_found_and_told() {
        let trigger = |on: &str, publish: &str| Trigger {
            on: vec![on.parse().unwrap()],
            every: None,
            publish: Some(publish.parse().unwrap()),
        };
        let name = |text: &str| text.parse::<FunctionName>().unwrap();
        let mut triggers = BTreeMap::from([
            (name("a"), trigger("shunt/one/+", "shunt/two/+")),
            (name("b"), trigger("shunt/two/+", "shunt/three/x")),
            (name("c"), trigger("shunt/three/#", "shunt/four/x")),
        ]);
        let mut problems = Problems::default();
        check(&triggers, &mut problems);
        assert!(problems.is_empty(), "{problems}");
        triggers.insert(name("c"), trigger("shunt/three/#", "shunt/one/gate"));
        check(&triggers, &mut problems);
        let told: Vec<_> = problems.iter().collect();
        assert_eq!(told.len(), 3, "{problems}");
        assert_eq!(told[0], ("functions.a.publish", "its answers would call it again, by way of b, c"));
    }

    #[test]
    fn filters_overlap_where_a_topic_matches_both() {
        let check = |one: &str, other: &str, expected: bool| {
            assert_eq!((overlap(one, other), overlap(other, one)), (expected, expected), "{one} {other}");
        };
        check("shunt/emotion/+", "shunt/+/gate", true);
        check("shunt/#", "shunt/emotion/gate", true);
        check("shunt/emotion/#", "shunt/emotion", true);
        check("shunt/emotion/+", "shunt/face/+", false);
        check("shunt/emotion/a", "shunt/emotion/b", false);
        check("shunt/+", "shunt/emotion/gate", false);
    }

    #[test]
    fn an_answer_goes_to_the_source_of_its_event_where_nobody_names_another() {
        let gate = Name::from_static("gate");
        let topic = |text: &str| text.parse::<AnswerTopic>().unwrap();
        assert_eq!(topic("shunt/mood/+").of(&gate).to_string(), "shunt/mood/gate");
        assert_eq!(topic("shunt/mood/all").of(&gate).to_string(), "shunt/mood/all");
        assert_eq!(topic("shunt/mood/+").to_string(), "shunt/mood/+");
    }
}
