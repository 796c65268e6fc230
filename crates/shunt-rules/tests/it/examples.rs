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
    let text = std::fs::read_to_string(folder().join(format!("{name}.toml"))).unwrap();
    let set = check_file(&text, Format::Toml, &Limits::default()).unwrap();
    let events = std::fs::read_to_string(folder().join(format!("{name}.events.jsonl"))).unwrap();
    let events: Vec<_> = events.lines().map(|line| Event::read_line(line).unwrap()).collect();
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
fn nobody_in_view_is_told_after_an_hour_and_over_with_the_next_face() {
    let run = run("nobody-in-view", 0);
    assert_eq!(story(&run.outputs), ["+10:10:00", "-10:25:00"]);
}

#[test]
fn falling_sentiment_is_told_and_a_single_bad_text_is_not() {
    let run = run("sentiment-falling", 30);
    assert_eq!(story(&run.outputs), ["+09:50:00 support"], "{:?}", run.rules);
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
