//! What a user sees of rules.

use std::ops::ControlFlow;

use serde_json::{Value, json};
use shunt_rules::{Act, Engine, Limits, Output, dry_run_into};

use crate::support::{START, alerts, compile, degrees, engine, event, run, set, story, windows};

const MINUTE: i64 = 60_000;

fn hot(more: Value) -> Value {
    let mut rule = json!({"from": ["temperature"], "when": "data.celsius > 80"});
    rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    rule
}

#[test]
fn an_alert_says_what_happened_and_what_is_done() {
    let rule = hot(json!({
        "message": "${data.celsius} degrees at ${source}",
        "severity": "critical",
        "do": [
            {"snapshot": {}},
            {"set": {"module": "camera", "settings": {"fps": "${80.0 / data.celsius}", "note": "hot: ${data.celsius}"}}},
            {"call": {"module": "functions", "path": "/call/page?at=${source}", "on": "cleared"}},
        ],
    }));
    let run = run(&rule, [degrees(0, 75.0), degrees(1_000, 100.0), degrees(2_000, 75.0)], 0);
    let alert = alerts(&run.outputs)[0];
    assert_eq!(alert.message, "100 degrees at box");
    assert_eq!((alert.severity.as_str(), alert.upstream), ("critical", true));
    assert_eq!(alert.values, *json!({"source": "box", "event": "temperature-box-1000"}).as_object().unwrap());
    assert_eq!(story(&run.outputs), ["+09:00:01", "-09:00:02"]);
    let acts = |index: usize| match &run.outputs[index] {
        Output::Alert { acts, .. } => acts.clone(),
        Output::Window { .. } => Vec::new(),
    };
    let camera = || "camera".parse().unwrap();
    assert_eq!(
        acts(0),
        [
            Act::Method { module: camera(), name: "snapshot".to_owned(), payload: Value::Null },
            Act::Set { module: camera(), settings: json!({"fps": 0.8, "note": "hot: 100"}) },
        ]
    );
    let (verb, path) = ("POST".to_owned(), "/call/page?at=box".to_owned());
    assert_eq!(acts(1), [Act::Call { module: "functions".parse().unwrap(), path, verb, body: None }]);
}

#[test]
fn a_hold_is_over_without_another_event() {
    let events = || [degrees(0, 90.0), event("other", "x", 2 * MINUTE, Value::Null)];
    assert_eq!(story(&run(&hot(json!({"hold": "1m"})), events(), 0).outputs), ["+09:01:00"]);
    assert_eq!(story(&run(&hot(json!({"hold": "3m"})), events(), 0).outputs), [""; 0]);
    assert_eq!(story(&run(&hot(json!({"hold": "3m"})), events(), MINUTE).outputs), ["+09:03:00"]);
    let cooled = [degrees(0, 90.0), degrees(59_000, 70.0), degrees(59_500, 90.0)];
    assert_eq!(story(&run(&hot(json!({"hold": "1m"})), cooled, MINUTE).outputs), ["+09:01:59.500"]);
}

#[test]
fn hysteresis_and_repetition_work_on_events() {
    let rule = hot(json!({"until": "data.celsius < 70", "repeat": "10s"}));
    let heat = [85.0, 75.0, 85.0, 69.0, 75.0, 81.0];
    let events = heat.iter().enumerate().map(|(index, celsius)| degrees(index as i64 * 4_000, *celsius));
    assert_eq!(story(&run(&rule, events, 0).outputs), ["+09:00:00", "!09:00:10", "-09:00:12", "+09:00:20"]);
    let warm = (0..6).map(|index| degrees(index * 4_000, 90.0));
    assert_eq!(story(&run(&rule, warm, 0).outputs), ["+09:00:00", "!09:00:10", "!09:00:20"]);
}

#[test]
fn silence_is_told_without_an_event_and_ended_by_the_next() {
    let rule = json!({"from": ["face"], "window": {"silence": "1h"}, "repeat": "1h"});
    let face = |minute: i64| event("face", "gate", minute * MINUTE, Value::Null);
    let other = |minute: i64| event("other", "gate", minute * MINUTE, Value::Null);
    let run = run(&rule, [face(0), face(30), other(91), other(152), face(160)], 0);
    assert_eq!(story(&run.outputs), ["+10:30:00", "!11:30:00", "-11:40:00"]);
    assert_eq!(alerts(&run.outputs)[0].values["silent_s"], 3_600);
    assert_eq!(alerts(&run.outputs)[0].message, "nothing has come for 1h");
}

#[test]
fn silence_begins_with_the_rules_where_no_event_ever_came() {
    let mut engine = engine(&json!({"r": {"from": ["face"], "window": {"silence": "1h"}}}));
    let mut out = Vec::new();
    engine.tick(START + 59 * MINUTE, &mut out);
    assert!(out.is_empty());
    engine.tick(START + 60 * MINUTE, &mut out);
    assert_eq!(story(&out), ["+10:00:00"]);
    engine.tick(START + 61 * MINUTE, &mut out);
    assert_eq!(out.len(), 1, "once is enough");
}

#[test]
fn tumbling_windows_compute_every_value() {
    let rule = json!({
        "from": ["sentiment"], "group_by": ["source"], "window": {"tumbling": "1m"}, "publish": true,
        "values": {
            "count": "count()", "good": "count(data.score > 0.5)", "rate": "rate()", "share": "share(data.score > 0.5)",
            "sum": "sum(data.score)", "mean": "mean(data.score)", "least": "min(data.score)", "most": "max(data.score)",
            "median": "percentile(data.score, 50)", "languages": "distinct(data.language)",
            "slope": "slope(data.score)", "last": "last(data.language)",
        },
    });
    let text = |at: i64, score: f64, language: &str| {
        event("sentiment", "shop", at, json!({"score": score, "language": language}))
    };
    let events = [
        text(0, 0.2, "en"),
        text(20_000, 0.4, "nl"),
        text(40_000, 0.6, "en"),
        text(MINUTE, 0.0, "de"),
        text(70_000, 1.0, "de"),
    ];
    let run = run(&rule, events, 0);
    let windows = windows(&run.outputs);
    assert_eq!(windows.len(), 1);
    let window = windows[0];
    assert_eq!(
        (window.start.as_str(), window.end.as_str()),
        ("2026-11-21T09:00:00.000Z", "2026-11-21T09:01:00.000Z")
    );
    assert_eq!((window.events, &window.group["source"]), (3, &json!("shop")));
    let number = |name: &str| window.values[name].as_f64().unwrap();
    for (name, expected) in [
        ("count", 3.0),
        ("good", 1.0),
        ("rate", 0.05),
        ("share", 1.0 / 3.0),
        ("sum", 1.2),
        ("mean", 0.4),
        ("least", 0.2),
        ("most", 0.6),
        ("languages", 2.0),
        ("slope", 0.6),
    ] {
        assert!((number(name) - expected).abs() < 1e-9, "{name}: {}", number(name));
    }
    assert!((number("median") / 0.4 - 1.0).abs() < 0.021);
    assert_eq!(window.values["last"], "en");
}

#[test]
fn late_events_count_within_the_lateness_and_are_counted_beyond() {
    let rule = json!({"from": ["x"], "window": {"tumbling": "10s"}, "lateness": "5s", "publish": true});
    let at = |at: i64| event("x", "a", at, Value::Null);
    let run = run(&rule, [at(1_000), at(12_000), at(2_000), at(16_000), at(3_000), at(40_000)], 0);
    let counts: Vec<_> = windows(&run.outputs).iter().map(|window| window.events).collect();
    assert_eq!(counts, [2, 2]);
    assert_eq!((run.rules[0].counters.late, run.rules[0].counters.counted), (1, 5));
}

#[test]
fn a_quiet_group_is_closed_by_the_clock() {
    let rules =
        json!({"r": {"from": ["x"], "window": {"tumbling": "10s"}, "publish": true, "when": "n > 0"}});
    let (mut engine, mut out) = (engine(&rules), Vec::new());
    engine.take(&event("x", "a", 1_000, Value::Null), START + 1_000, &mut out);
    engine.tick(START + 11_000, &mut out);
    assert!(out.is_empty(), "an event may still be late");
    engine.tick(START + 12_000, &mut out);
    assert_eq!((windows(&out).len(), story(&out)), (1, vec!["+09:00:10".to_owned()]));
    out.clear();
    // The next window is empty: what was raised is over.
    engine.tick(START + 30_000, &mut out);
    assert_eq!(story(&out), ["-09:00:20"]);
    engine.tick(START + 200_000, &mut out);
    assert_eq!(engine.groups(), 0, "a group that keeps nothing is forgotten");
}

#[test]
fn sessions_end_after_a_gap_and_join_over_late_events() {
    let rule = json!({"from": ["x"], "window": {"session": "10s"}, "lateness": "30s", "publish": true});
    let at = |second: i64| event("x", "a", second * 1_000, Value::Null);
    let run = run(&rule, [at(0), at(15), at(8), at(40), at(90)], 0);
    let found: Vec<_> = windows(&run.outputs)
        .iter()
        .map(|window| (window.start[17..19].to_owned(), window.end[17..19].to_owned(), window.events))
        .collect();
    assert_eq!(found, [("00".to_owned(), "15".to_owned(), 3), ("40".to_owned(), "40".to_owned(), 1)]);
}

#[test]
fn a_session_that_never_pauses_ends_at_its_longest() {
    let rule = json!({"from": ["x"], "window": {"session": "10s", "longest": "1m"}, "publish": true});
    let run = run(&rule, (0..40).map(|index| event("x", "a", index * 5_000, Value::Null)), 0);
    assert!(windows(&run.outputs).len() >= 2, "{:?}", run.outputs);
}

#[test]
fn windows_of_so_many_events_come_by_arrival() {
    let rule = json!({"from": ["x"], "window": {"count": 4, "every": 2}, "publish": true, "values": {"sum": "sum(data)"}});
    let run = run(&rule, (1..=9).map(|number| event("x", "a", 1_000, json!(number))), 0);
    let sums: Vec<_> =
        windows(&run.outputs).iter().map(|window| window.values["sum"].as_f64().unwrap()).collect();
    assert_eq!(sums, [10.0, 18.0, 26.0]);
}

#[test]
fn a_rule_that_fails_is_told_and_the_others_go_on() {
    let rules = json!({
        "bad": {"from": ["x"], "when": "data.nothing > 1"},
        "worse": {"from": ["x"], "window": {"tumbling": "10s"}, "values": {"m": "mean(data.text)"}, "when": "m > 1"},
        "good": {"from": ["x"], "when": "data.number > 1"},
    });
    let (mut engine, mut out) = (engine(&rules), Vec::new());
    for at in 0..10 {
        let data = json!({"number": 5, "text": "five"});
        engine.take(&event("x", "a", at * 1_000, data), START + at * 1_000, &mut out);
    }
    let alerts = alerts(&out);
    let told: Vec<_> = alerts.iter().map(|alert| (alert.rule.as_str(), alert.message.as_str())).collect();
    assert_eq!(
        told,
        [
            ("bad", "when: there is no field \"nothing\"; has() asks for it (line 1, column 5)"),
            ("good", "data.number > 1"),
            ("worse", "values.m: it must be a number, but is a string"),
        ],
        "each once, and not for every event"
    );
    let states = engine.rules();
    assert_eq!(states.iter().map(|rule| rule.counters.failures).collect::<Vec<_>>(), [10, 0, 10]);
    assert_eq!(states[0].last_failure.as_ref().unwrap().part, "when");
}

#[test]
fn an_event_of_the_future_counts_nowhere() {
    let (mut engine, mut out) = (engine(&json!({"r": hot(json!({}))})), Vec::new());
    engine.take(&degrees(3_600_000, 90.0), START, &mut out);
    assert!(out.is_empty());
    assert_eq!(engine.rules()[0].counters.ahead, 1);
}

#[test]
fn groups_are_bounded_and_the_one_quiet_for_longest_goes() {
    let rule = json!({
        "from": ["x"], "group_by": ["data.who"], "max_groups": 10, "window": {"tumbling": "10s"}, "when": "n > 0"
    });
    let (mut engine, mut out) = (engine(&json!({ "r": rule })), Vec::new());
    for number in 0..1_000 {
        engine.take(&event("x", "a", number, json!({"who": number})), START + number, &mut out);
    }
    assert_eq!((engine.groups(), engine.rules()[0].counters.evicted), (10, 990));
}

#[test]
fn groups_are_told_apart_by_value_and_type() {
    let rule =
        json!({"from": ["x"], "group_by": ["data.who", "source"], "window": {"count": 1}, "publish": true});
    let values = [json!("1"), json!(1), json!(true), json!(null), json!("1")];
    let run = run(&rule, values.iter().map(|who| event("x", "a", 0, json!({"who": who}))), 0);
    assert_eq!(run.rules[0].groups, 4);
    assert_eq!(windows(&run.outputs)[1].group, *json!({"who": 1, "source": "a"}).as_object().unwrap());
}

#[test]
fn windows_and_alerts_survive_a_restart() {
    let rules = json!({
        "mean": {"from": ["temperature"], "window": {"sliding": "1m", "every": "10s"}, "publish": true,
            "values": {"m": "mean(data.celsius)", "p": "percentile(data.celsius, 90)", "s": "slope(data.celsius)",
                "d": "distinct(data.celsius)", "l": "last(data.celsius)", "x": "max(data.celsius)"},
            "when": "m > 50.0", "hold": "30s"},
        "hot": hot(json!({"hold": "45s"})),
        "quiet": {"from": ["face"], "window": {"silence": "90s"}},
        "sessions": {"from": ["temperature"], "window": {"session": "7s"}, "publish": true},
        "counted": {"from": ["temperature"], "window": {"count": 6, "every": 3}, "publish": true},
    });
    let events: Vec<_> =
        (0..40).map(|index| degrees(index * 3_000, 40.0 + (index * 7 % 60) as f64 + 0.1)).collect();
    let go = |restarts: &[usize]| {
        let (mut engine, mut out) = (engine(&rules), Vec::new());
        for (index, event) in events.iter().enumerate() {
            if restarts.contains(&index) {
                let saved = engine.save().unwrap();
                // The clock was on while the process was not.
                engine = Engine::new(set(&rules), Limits::default(), event.time_ms);
                assert_eq!(engine.restore(&saved).unwrap(), Vec::<String>::new());
            }
            engine.tick(event.time_ms, &mut out);
            engine.take(event, event.time_ms, &mut out);
        }
        (out, engine.rules())
    };
    let (whole, states) = go(&[]);
    assert!(windows(&whole).len() > 20 && story(&whole).len() >= 2, "{:?}", story(&whole));
    let (parted, parted_states) = go(&[1, 5, 6, 17, 33]);
    assert_eq!(whole, parted);
    assert_eq!(states, parted_states);
}

#[test]
fn only_rules_that_say_the_same_take_their_old_windows() {
    let rules =
        |hold: &str| json!({"changed": hot(json!({"hold": hold})), "same": hot(json!({"hold": "1m"}))});
    let (mut old, mut out) = (engine(&rules("1m")), Vec::new());
    old.take(&degrees(0, 90.0), START, &mut out);
    let mut new = Engine::new(set(&rules("2m")), Limits::default(), START);
    assert_eq!(new.restore(&old.save().unwrap()).unwrap(), ["changed"]);
    new.tick(START + MINUTE, &mut out);
    let told: Vec<_> = alerts(&out).iter().map(|alert| alert.rule.as_str()).collect();
    assert_eq!(told, ["same"]);
    // The same where rules are set anew while the module runs.
    let mut out = Vec::new();
    old.replace(set(&rules("2m")));
    old.tick(START + MINUTE, &mut out);
    assert_eq!(alerts(&out).iter().map(|alert| alert.rule.as_str()).collect::<Vec<_>>(), ["same"]);
}

#[test]
fn a_state_that_is_none_is_refused() {
    let mut engine = engine(&json!({"r": hot(json!({}))}));
    assert!(engine.restore(b"{\"version\": 1, \"rul").is_err());
    assert!(engine.restore(b"{\"version\": 7}").unwrap_err().to_string().contains("version 7"));
    assert!(engine.restore(b"[]").is_err());
}

#[test]
fn a_topic_leads_to_the_rules_that_name_it() {
    let rules = json!({
        "kind": {"from": ["x"], "when": "true"},
        "source": {"from": ["x/a"], "when": "true"},
        "filter": {"from": ["shunt/+/a"], "when": "true"},
        "off": {"from": ["x"], "when": "true", "enabled": false},
    });
    let mut engine = engine(&rules);
    for (kind, source) in [("x", "a"), ("x", "b"), ("y", "a"), ("y", "b")] {
        engine.take(&event(kind, source, 0, Value::Null), START, &mut Vec::new());
    }
    let counted: Vec<_> =
        engine.rules().iter().map(|rule| (rule.name.clone(), rule.counters.events)).collect();
    let counted: Vec<_> = counted.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_eq!(counted, [("filter", 2), ("kind", 2), ("off", 0), ("source", 1)]);
    assert!(engine.wants("shunt/x/b") && !engine.wants("shunt/y/b"));
}

#[test]
fn what_makes_no_rule_is_refused_with_the_reason() {
    let check = |rule: Value, expected: &str| {
        let problems = compile(&json!({"r": rule})).err().unwrap_or_default();
        assert!(
            problems.iter().any(|problem| problem.contains(expected)),
            "{expected:?} is not in {problems:?}"
        );
    };
    check(json!({"when": "true"}), "missing field `from`");
    check(json!({"from": [], "when": "true"}), "from: it must name 1 to 16");
    check(json!({"from": ["x"]}), "when: it is missing");
    check(json!({"from": ["x y"], "when": "true"}), "from.0: the name");
    check(json!({"from": ["a/b/c"], "when": "true"}), "no kind, no kind/source and no filter");
    check(json!({"from": ["shunt/#"], "when": "true"}), "alerts and windows of all rules");
    check(json!({"from": ["alert/r"], "when": "true"}), "its own alerts");
    check(json!({"from": ["x"], "when": "true", "wen": 1}), "unknown field `wen`");
    check(json!({"from": ["x"], "when": "data.x >"}), "when (column 9): Syntax error");
    check(json!({"from": ["x"], "when": "dat.x > 1"}), "there is no \"dat\" here");
    check(json!({"from": ["x"], "when": "data.s.matches('a')"}), "there is no function \"matches\"");
    check(json!({"from": ["x"], "when": "{'a': 1}.a == 1"}), "a map cannot be written");
    check(json!({"from": ["x"], "when": "x".repeat(2_001)}), "2000 are allowed");
    check(
        json!({"from": ["x"], "when": format!("{}true{}", "(".repeat(60), ")".repeat(60))}),
        "nested deeper",
    );
    check(json!({"from": ["x"], "when": format!("{}true", "!".repeat(1_000))}), "nested deeper");
    check(
        json!({"from": ["x"], "when": format!("{}true{}", "!!!(".repeat(13), ")".repeat(13))}),
        "nested deeper",
    );
    check(json!({"from": ["x"], "when": format!("{}true", "true ? 1 : ".repeat(49))}), "nested deeper");
    let panes = json!({"tumbling": "1s"});
    check(
        json!({"from": ["x"], "window": panes, "lateness": "1h", "group_by": ["data.g"], "publish": true, "values": {"p": "percentile(data.v, 95)"}}),
        "MB are allowed",
    );
    check(json!({"from": ["x"], "when": "true", "hold": "5"}), "hold: \"5\" is no time");
    check(json!({"from": ["x"], "when": "true", "until": "x"}), "until (column 1): there is no \"x\"");
    check(json!({"from": ["x"], "when": "n > 1", "window": {}}), "window: exactly one of");
    check(
        json!({"from": ["x"], "when": "n > 1", "window": {"tumbling": "1m", "count": 3}}),
        "window: exactly one of",
    );
    check(json!({"from": ["x"], "when": "n > 1", "window": {"sliding": "1m"}}), "sliding needs every");
    check(
        json!({"from": ["x"], "when": "n > 1", "window": {"sliding": "1m", "every": "7s"}}),
        "window.every: the length",
    );
    check(
        json!({"from": ["x"], "when": "n > 1", "window": {"tumbling": "1m", "every": "7s"}}),
        "only sliding and count",
    );
    check(
        json!({"from": ["x"], "when": "m > 1", "window": {"tumbling": "1m"}, "values": {"m": "median(data.x)"}}),
        "a value must be one of",
    );
    check(
        json!({"from": ["x"], "when": "m > 1", "window": {"tumbling": "1m"}, "values": {"m": "percentile(data.x, 101)"}}),
        "percentage",
    );
    check(
        json!({"from": ["x"], "when": "n > 1", "window": {"tumbling": "1m"}, "values": {"n": "count()"}}),
        "cannot be a value's name",
    );
    check(
        json!({"from": ["x"], "when": "n > 1", "window": {"tumbling": "1m"}, "values": {"a b": "count()"}}),
        "cannot be a value's name",
    );
    check(json!({"from": ["x"], "when": "true", "values": {"m": "count()"}}), "there is none");
    check(json!({"from": ["x"], "when": "true", "window": {"silence": "1h"}}), "a rule of silence has none");
    check(json!({"from": ["x"], "when": "true", "message": "${data.x"}), "this ${ has no }");
    check(json!({"from": ["x"], "when": "true", "message": "now ${data.x + }"}), "message (column 16)");
    check(json!({"from": ["x"], "when": "true", "do": [{"snap": {}}]}), "unknown variant `snap`");
    check(
        json!({"from": ["x"], "when": "true", "do": [{"method": {"module": "camera", "name": "a b"}}]}),
        "do.0.method.name",
    );
    check(
        json!({"from": ["x"], "when": "true", "do": [{"call": {"module": "f", "path": "x"}}]}),
        "do.0.call.path: it must begin with /",
    );
    check(
        json!({"from": ["x"], "when": "true", "do": [{"set": {"module": "camera", "settings": {"fps": "${nothing}"}}}]}),
        "do.0.set.settings.fps (column 3): there is no \"nothing\"",
    );
    check(json!({"from": ["x"], "when": "true", "max_groups": 0}), "max_groups: it is 0");
    let heavy = json!({"from": ["x"], "when": "p > 1.0", "window": {"sliding": "10m", "every": "1s"},
        "values": {"p": "percentile(data.x, 99)"}, "group_by": ["data.y"], "max_groups": 1000});
    check(heavy, "128 MB are allowed");
}

#[test]
fn an_expression_that_takes_too_long_is_stopped() {
    let list: Vec<i64> = (0..400).collect();
    let rule = json!({"from": ["x"], "when": "data.all(x, data.all(y, data.all(z, x + y + z >= 0)))"});
    let run = run(&rule, [event("x", "a", 0, json!(list))], 0);
    let failure = run.rules[0].last_failure.clone().unwrap();
    assert!(failure.message.contains("more than 20000 steps"), "{failure:?}");
}

#[test]
fn what_only_looks_nested_is_allowed() {
    let names = vec!["'front-door (a-b) ??'"; 49].join(", ");
    let minus = "1 - -(2) - ".repeat(20);
    for when in [
        format!("source in [{names}]"),
        format!("{minus}1 < 0"),
        "source == r'\\' || kind == '(('".to_owned(),
    ] {
        let run = run(&json!({"from": ["x"], "when": when}), [event("x", "a", 0, json!(1))], 0);
        assert_eq!(run.rules[0].counters.failures, 0, "{:?}", run.rules[0].last_failure);
    }
}

#[test]
fn what_shares_its_parts_costs_what_it_is_written_out() {
    let large = format!("[1]{}", ".map(a, [a, a])".repeat(30));
    let stopped = |rule: Value, data: Value| {
        let run = run(&rule, [event("x", "a", 0, data)], 20_000);
        let failure = run.rules[0].last_failure.clone().unwrap();
        assert!(failure.message.contains("more than 20000 steps"), "{failure:?}");
    };
    stopped(json!({"from": ["x"], "when": format!("{large} == {large}")}), json!(1));
    stopped(json!({"from": ["x"], "when": "true", "message": format!("${{{large}}}")}), json!(1));
    for value in ["last", "distinct"] {
        let values = json!({"v": format!("{value}({large})")});
        stopped(json!({"from": ["x"], "window": {"count": 1}, "publish": true, "values": values}), json!(1));
    }
    let long = json!({"list": vec![1; 1_000], "text": "x".repeat(50_000), "map": {"a": vec![1; 5_000]}});
    stopped(
        json!({"from": ["x"], "when": "true", "message": "${data.list.map(x, data.text)}"}),
        long.clone(),
    );
    stopped(json!({"from": ["x"], "when": "data.list.exists(x, data.map != data.map)"}), long.clone());
    // What nothing else is made of costs little.
    let cheap = json!({"from": ["x"], "when": "data.list.all(x, size(data.map) == 1 && data.map != x)"});
    assert_eq!(story(&run(&cheap, [event("x", "a", 0, long.clone())], 0).outputs), ["+09:00:00"]);
    let twice = json!({"from": ["x"], "when": "true", "do": [{"call": {"module": "functions", "path": "/", "body": ["${data.text}", "${data.text}"]}}]});
    let failed = run(&twice, [event("x", "a", 0, long)], 0).rules[0].last_failure.clone().unwrap();
    assert!(failed.message.contains("65536 bytes"), "{failed:?}");
}

#[test]
fn an_alert_whose_window_becomes_empty_is_cleared_with_its_last_values() {
    let rule = json!({
        "from": ["temperature"], "window": {"tumbling": "10s"}, "values": {"mean": "mean(data.celsius)"},
        "when": "mean > 80.0", "message": "${math.round(mean)} degrees",
        "do": [
            {"set": {"module": "camera", "settings": {"fps": "${mean - 80.0}"}, "on": "cleared"}},
            {"set": {"module": "camera", "settings": {"fps": "${1 / (n - 1)}"}}},
        ],
    });
    let run = run(&rule, [degrees(0, 81.0), degrees(1_000, 91.0)], 10 * MINUTE);
    assert_eq!(story(&run.outputs), ["+09:00:10", "-09:00:20"], "{:?}", run.rules);
    assert_eq!(run.rules[0].counters.failures, 0, "{:?}", run.rules);
    let cleared = alerts(&run.outputs)[1];
    assert_eq!((cleared.message.as_str(), &cleared.values["mean"]), ("no events any more", &json!(86.0)));
    assert!(run.outputs[1].describe().contains(r#"set {"fps":6.0} of camera"#), "{:?}", run.outputs[1]);
}

#[test]
fn a_run_stops_where_nobody_wants_more() {
    let rules = set(&json!({"r": hot(json!({"repeat": "1s"}))}));
    let (mut told, mut asked) = (0, 0);
    let run = dry_run_into(rules, [degrees(0, 90.0), degrees(1_000_000, 90.0)], 0, |out| {
        (told, asked) = (told + out.len(), asked + 1);
        if told < 200 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    assert_eq!((told, run.stopped, run.events), (200, true, 1));
    assert!(asked < 300, "{asked}");
}

#[test]
fn rules_that_would_wake_one_another_for_ever_are_refused() {
    let of = |from: &str| json!({"from": [from], "window": {"count": 1}, "publish": true});
    let problems =
        compile(&json!({"a": of("window/b"), "b": of("window/c"), "c": of("shunt/+/a"), "d": of("alert/a")}));
    let problems = problems.unwrap_err();
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems.iter().all(|problem| problem.contains("by way of other rules")), "{problems:?}");
    assert!(compile(&json!({"a": of("window/b"), "b": of("window/c"), "c": of("x")})).is_ok());
}

#[test]
fn silence_is_counted_anew_when_events_can_come_again() {
    let mut engine = engine(&json!({"r": {"from": ["face"], "window": {"silence": "1h"}}}));
    let mut out = Vec::new();
    engine.listen_anew(START + 70 * MINUTE);
    engine.tick(START + 71 * MINUTE, &mut out);
    assert_eq!(story(&out), [""; 0]);
    engine.tick(START + 131 * MINUTE, &mut out);
    assert_eq!(story(&out), ["+11:10:00"]);
}

#[test]
fn a_clock_that_was_a_day_ahead_and_is_put_right_leaves_no_trace() {
    let rules = json!({"r": {"from": ["temperature"], "window": {"tumbling": "10s"}, "lateness": "0s", "when": "n > 0"}});
    let day = 24 * 60 * MINUTE;
    let (mut engine, mut out) = (engine(&rules), Vec::new());
    for at in [day, day + 11_000, 1_000, 12_000] {
        engine.take(&degrees(at, 90.0), START + at, &mut out);
    }
    let told: Vec<_> = alerts(&out).iter().map(|alert| (alert.at.as_str(), alert.message.as_str())).collect();
    assert_eq!(
        told,
        [
            ("2026-11-22T09:00:10.000Z", "n > 0"),
            ("2026-11-21T09:00:01.000Z", "the clock was set back"),
            ("2026-11-21T09:00:10.000Z", "n > 0"),
        ]
    );
    let state = engine.rules().remove(0);
    assert_eq!((state.counters.late, state.counters.ahead, state.counters.counted), (0, 0, 4));
}

#[test]
fn events_within_the_allowed_time_ahead_keep_their_group() {
    let rules = json!({"r": {"from": ["temperature"], "window": {"count": 3}, "when": "true"}});
    let limits = Limits { ahead_ms: 24 * 60 * MINUTE, ..Limits::default() };
    let (mut engine, mut out) = (Engine::new(set(&rules), limits, START), Vec::new());
    for second in 0..3 {
        engine.take(&degrees(60 * MINUTE + second, 90.0), START + second, &mut out);
    }
    assert_eq!(alerts(&out).len(), 1);
}

#[test]
fn an_event_whose_window_was_over_before_the_first_one_closed_is_late() {
    let rule = json!({"from": ["temperature"], "window": {"tumbling": "5m"}, "publish": true});
    let run = run(&rule, [degrees(0, 1.0), degrees(-60 * MINUTE, 1.0)], 10 * MINUTE);
    assert_eq!((windows(&run.outputs).len(), run.rules[0].counters.late), (1, 1));
}

#[test]
fn the_same_events_have_the_same_results() {
    let rule = json!({"from": ["x"], "group_by": ["data.who"], "window": {"tumbling": "10s"}, "publish": true, "when": "n > 2"});
    let events = || (0..500).map(|index| event("x", "a", index * 97, json!({"who": index * 31 % 17})));
    assert_eq!(run(&rule, events(), 60_000), run(&rule, events(), 60_000));
}
