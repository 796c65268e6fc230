//! Windows equal those of a model that keeps every event.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;
use shunt_rules::{Engine, Limits};

use crate::support::{START, event, run, set, windows};

/// An event of the model: milliseconds after the start, group, value.
type Sample = (i64, u8, i32);

/// What is compared of a window: group, start, end, events, sum, greatest.
type Found = (u8, i64, i64, u64, i64, i32);

fn samples(late: i64) -> impl Strategy<Value = Vec<Sample>> {
    // Steps forward, each event a little late.
    prop::collection::vec((0..4_000_i64, 0..=late, 0..3_u8, -50..50_i32), 1..120).prop_map(|steps| {
        let mut now = 10_000;
        steps
            .into_iter()
            .map(|(step, late, group, value)| {
                now += step;
                (now - late, group, value)
            })
            .collect()
    })
}

fn rule(window: &serde_json::Value, lateness: &str) -> serde_json::Value {
    json!({
        "from": ["x"], "group_by": ["data.g"], "window": window, "lateness": lateness, "publish": true,
        "values": {"sum": "sum(data.v)", "most": "max(data.v)"},
    })
}

fn found(window: &serde_json::Value, lateness: &str, samples: &[Sample]) -> Vec<Found> {
    found_late(window, lateness, samples, 0)
}

/// The same, where so many events are late.
fn found_late(window: &serde_json::Value, lateness: &str, samples: &[Sample], late: u64) -> Vec<Found> {
    let events =
        samples.iter().map(|(at, group, value)| event("x", "a", *at, json!({"g": group, "v": value})));
    let run = run(&rule(window, lateness), events, 600_000);
    assert_eq!((run.rules[0].counters.late, run.rules[0].counters.failures), (late, 0));
    let time = |text: &str| {
        let line =
            json!({"specversion": "1.0", "id": "1", "type": "shunt.x.v1", "source": "shunt/a", "time": text});
        shunt_rules::Event::read_line(&line.to_string()).unwrap().time_ms - START
    };
    let mut found: Vec<_> = windows(&run.outputs)
        .into_iter()
        .map(|window| {
            let number = |name: &str| window.values[name].as_f64().unwrap();
            let group = window.group["g"].as_u64().unwrap() as u8;
            (
                group,
                time(&window.start),
                time(&window.end),
                window.events,
                number("sum") as i64,
                number("most") as i32,
            )
        })
        .collect();
    found.sort_unstable();
    found
}

/// The events of each group, by time.
fn by_group(samples: &[Sample]) -> BTreeMap<u8, Vec<(i64, i32)>> {
    let mut groups: BTreeMap<u8, Vec<_>> = BTreeMap::new();
    for (at, group, value) in samples {
        groups.entry(*group).or_default().push((*at, *value));
    }
    groups
}

fn summed(group: u8, start: i64, end: i64, events: &[(i64, i32)]) -> Found {
    let sum = events.iter().map(|(_, value)| i64::from(*value)).sum();
    let most = events.iter().map(|(_, value)| *value).max().unwrap();
    (group, start, end, events.len() as u64, sum, most)
}

fn model_sliding(length: i64, every: i64, samples: &[Sample]) -> Vec<Found> {
    let mut all = Vec::new();
    for (group, events) in by_group(samples) {
        let last = events.iter().map(|(at, _)| *at).max().unwrap() + length + every;
        let first = events.iter().map(|(at, _)| *at).min().unwrap();
        let mut end = (START + first).div_euclid(every) * every + every - START;
        while end <= last {
            let within: Vec<_> =
                events.iter().copied().filter(|(at, _)| (end - length..end).contains(at)).collect();
            if !within.is_empty() {
                all.push(summed(group, end - length, end, &within));
            }
            end += every;
        }
    }
    all.sort_unstable();
    all
}

fn model_sessions(gap: i64, samples: &[Sample]) -> Vec<Found> {
    let mut all = Vec::new();
    for (group, mut events) in by_group(samples) {
        events.sort_unstable();
        let mut session: Vec<(i64, i32)> = Vec::new();
        for event in events {
            if session.last().is_some_and(|last| event.0 > last.0 + gap) {
                all.push(summed(group, session[0].0, session.last().unwrap().0, &session));
                session.clear();
            }
            session.push(event);
        }
        all.push(summed(group, session[0].0, session.last().unwrap().0, &session));
    }
    all.sort_unstable();
    all
}

fn model_counted(count: usize, every: usize, samples: &[Sample]) -> Vec<Found> {
    let mut all = Vec::new();
    for (group, events) in by_group(samples) {
        let mut end = count;
        while end <= events.len() {
            let window = &events[end - count..end];
            let (start, stop) =
                (window.iter().map(|event| event.0).min(), window.iter().map(|event| event.0).max());
            all.push(summed(group, start.unwrap(), stop.unwrap(), window));
            end += every;
        }
    }
    all.sort_unstable();
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn tumbling_windows_equal_the_model(samples in samples(3_000)) {
        let window = json!({"tumbling": "10s"});
        prop_assert_eq!(found(&window, "3s", &samples), model_sliding(10_000, 10_000, &samples));
    }

    #[test]
    fn what_comes_after_its_window_was_over_is_late_and_all_else_counts(samples in samples(30_000)) {
        // One group, so that its watermark is that of its own events.
        let (length, lateness) = (5_000, 1_000);
        let (mut newest, mut late, mut kept) = (i64::MIN / 2, 0, Vec::new());
        for (at, _, value) in samples.iter().copied() {
            if (START + at).div_euclid(length) * length + length <= START + newest - lateness {
                late += 1;
            } else {
                newest = newest.max(at);
                kept.push((at, 0, value));
            }
        }
        let all: Vec<_> = samples.iter().map(|(at, _, value)| (*at, 0, *value)).collect();
        let window = json!({"tumbling": "5s"});
        prop_assert_eq!(found_late(&window, "1s", &all, late), model_sliding(length, length, &kept));
    }

    #[test]
    fn sliding_windows_equal_the_model(samples in samples(3_000)) {
        let window = json!({"sliding": "30s", "every": "5s"});
        prop_assert_eq!(found(&window, "3s", &samples), model_sliding(30_000, 5_000, &samples));
    }

    #[test]
    fn sessions_equal_the_model(samples in samples(1_000)) {
        let window = json!({"session": "5s"});
        prop_assert_eq!(found(&window, "1s", &samples), model_sessions(5_000, &samples));
    }

    #[test]
    fn windows_of_so_many_events_equal_the_model(samples in samples(3_000)) {
        let window = json!({"count": 9, "every": 3});
        prop_assert_eq!(found(&window, "3s", &samples), model_counted(9, 3, &samples));
    }

    #[test]
    fn a_restart_at_any_place_changes_nothing(samples in samples(3_000), at in 0..120_usize) {
        let rules = json!({"r": rule(&json!({"sliding": "20s", "every": "5s"}), "3s")});
        let go = |restart: Option<usize>| {
            let (mut engine, mut out) = (Engine::new(set(&rules), Limits::default(), START), Vec::new());
            for (index, (at, group, value)) in samples.iter().enumerate() {
                if restart == Some(index) {
                    let saved = engine.save().unwrap();
                    engine = Engine::new(set(&rules), Limits::default(), START);
                    engine.restore(&saved).unwrap();
                }
                engine.take(&event("x", "a", *at, json!({"g": group, "v": value})), START + at + 3_000, &mut out);
            }
            out
        };
        prop_assert_eq!(go(Some(at)), go(None));
    }
}
