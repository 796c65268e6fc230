//! The rules that are shipped, each on an event file.

use std::path::{Path, PathBuf};

use shunt_rules::{DryRun, Event, Format, Limits, check_file, dry_run};
use shunt_wire::events::AlertState;

use crate::support::{alerts, story, windows};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/rules")
}

/// The rule over its event file, and then for so many minutes more.
fn run(name: &str, after_minutes: i64) -> DryRun {
    run_until(name, "23:59", after_minutes)
}

/// The same with the events before this time of the day.
fn run_until(name: &str, until: &str, after_minutes: i64) -> DryRun {
    let text = std::fs::read_to_string(folder().join(format!("{name}.toml"))).unwrap();
    let set = check_file(&text, Format::Toml, &Limits::default()).unwrap();
    let events = std::fs::read_to_string(folder().join(format!("{name}.events.jsonl"))).unwrap();
    let until = format!("2026-11-21T{until}:00Z");
    let before = |line: &&str| {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        event["time"].as_str().unwrap() < until.as_str()
    };
    let events: Vec<_> = events.lines().filter(before).map(|line| Event::read_line(line).unwrap()).collect();
    dry_run(set, events, after_minutes * 60_000)
}

#[test]
fn unhappy_faces_are_told_when_many_and_forgotten_when_few() {
    let run = run("unhappy-faces", 10);
    assert_eq!(
        story(&run.outputs),
        ["+09:05:30 front-door", "-09:09:30 front-door"],
        "{:#?}",
        windows(&run.outputs)
    );
    let raised = alerts(&run.outputs)[0];
    assert!(raised.message.contains("faces at front-door were unhappy"), "{raised:?}");
    assert_eq!(run.rules[0].counters.failures, 0, "{:?}", run.rules);
    assert!(raised.values["unhappy"].as_f64().unwrap() > 0.4);
}

#[test]
fn when_nothing_comes_any_more_raised_alerts_end_without_a_failure() {
    for (name, until) in [("unhappy-faces", "09:06"), ("sentiment-falling", "23:59"), ("too-hot", "09:02")] {
        let run = run_until(name, until, 60);
        let told: String = story(&run.outputs).iter().map(|told| told[..1].to_owned()).collect();
        assert_eq!(told, "+-", "{name}: {:?}", run.outputs);
        assert_eq!(run.rules[0].counters.failures, 0, "{name}: {:?}", run.rules);
    }
}

#[test]
fn nobody_in_view_is_told_after_an_hour_and_over_with_the_next_face() {
    let run = run("nobody-in-view", 0);
    assert_eq!(story(&run.outputs), ["+10:10:00", "-10:25:00"]);
}

#[test]
fn falling_sentiment_is_told_and_a_single_bad_text_is_not() {
    let run = run("sentiment-falling", 30);
    assert_eq!(story(&run.outputs), ["+09:50:00 support", "-10:25:00 support"], "{:?}", run.rules);
    assert_eq!(run.rules[0].counters.failures, 0, "{:?}", run.rules);
    assert!(alerts(&run.outputs)[0].message.starts_with("support: from "), "{:?}", alerts(&run.outputs));
}

#[test]
fn a_hot_device_throttles_the_camera_until_it_has_cooled() {
    let run = run("too-hot", 1);
    assert_eq!(story(&run.outputs), ["+09:01:30 thermal_zone0", "-09:04:30 thermal_zone0"]);
    let acts = run.outputs.iter().map(|output| output.describe()).collect::<Vec<_>>();
    assert!(acts[0].contains(r#"set {"fps":2.0} of camera"#), "{acts:?}");
    assert!(acts[1].contains(r#"set {"fps":null} of camera"#), "{acts:?}");
    assert_eq!(alerts(&run.outputs)[0].state, AlertState::Raised);
}

#[test]
fn every_rule_that_is_shipped_has_an_event_file() {
    for file in std::fs::read_dir(folder()).unwrap().flatten() {
        let path = file.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            assert!(path.with_extension("events.jsonl").exists(), "{}", path.display());
        }
    }
}
