//! Windows and alerts outlive the process.

use serde_json::{Value, json};
use shunt_testkit::eventually;
use shunt_wire::events::{AlertState, Expression};

use crate::stage::{LIMIT, Square, Stage, emotion, settings};

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_middle_of_a_window_and_of_a_hold_keeps_both() {
    let mut square = Square::open().await;
    let folder = tempfile::tempdir().unwrap();
    let rules = json!({
        "window": {"from": ["emotion"], "window": {"tumbling": "10s"}, "when": "n >= 6"},
        "hold": {"from": ["emotion"], "when": "data.emotion == 'anger'", "hold": "8s", "lateness": "0s"},
    });
    let stage = Stage::start(&square, folder.path(), settings(rules.clone())).await;
    for number in 0..3 {
        square.send(emotion(number, "gate", number * 1_000, Expression::Anger)).await;
    }
    stage.seen("hold", 3).await;
    stage.seen("window", 3).await;
    stage.stop().await;
    // What comes meanwhile waits at the broker.
    for number in 3..6 {
        square.send(emotion(number, "gate", number * 1_000, Expression::Anger)).await;
    }
    let stage = Stage::start(&square, folder.path(), settings(rules)).await;
    square.send(emotion(9, "gate", 9_000, Expression::Anger)).await;
    square.send(emotion(10, "gate", 15_000, Expression::Anger)).await;
    let (_, hold) = square.alert().await;
    assert_eq!((hold.rule.as_str(), hold.at.as_str()), ("hold", "2026-11-21T09:00:08.000Z"));
    let (_, window) = square.alert().await;
    assert_eq!((window.rule.as_str(), window.at.as_str()), ("window", "2026-11-21T09:00:10.000Z"));
    assert_eq!(stage.rule("window").await["counters"]["counted"], 8);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_loses_no_more_than_what_came_after_the_last_writing() {
    let mut square = Square::open().await;
    let folder = tempfile::tempdir().unwrap();
    let rules = json!({"r": {"from": ["emotion"], "window": {"count": 4}, "when": "n == 4"}});
    let every_second = || rules::RulesSettings { save_every_s: 1, ..settings(rules.clone()) };
    let stage = Stage::start(&square, folder.path(), every_second()).await;
    for number in 0..3 {
        square.send(emotion(number, "gate", number * 1_000, Expression::Anger)).await;
    }
    stage.seen("r", 3).await;
    let file = folder.path().join("data/rules/windows.json");
    let written =
        || async { std::fs::read_to_string(&file).is_ok_and(|text| text.contains("\"counted\":3")) };
    eventually(LIMIT, written).await;
    stage.kill().await;
    let stage = Stage::start(&square, folder.path(), every_second()).await;
    square.send(emotion(4, "gate", 4_000, Expression::Anger)).await;
    let (_, raised) = square.alert().await;
    assert_eq!((raised.rule.as_str(), raised.state), ("r", AlertState::Raised));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_state_is_moved_aside_and_the_rules_work() {
    let mut square = Square::open().await;
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("data/rules");
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(place.join("windows.json"), "{\"version\": 1, \"rules\": {").unwrap();
    let rules = json!({"r": {"from": ["emotion"], "when": "data.emotion == 'fear'"}});
    let stage = Stage::start(&square, folder.path(), settings(rules)).await;
    square.send(emotion(1, "gate", 0, Expression::Fear)).await;
    assert_eq!(square.alert().await.1.rule, "r");
    assert!(place.join("windows.json.bad").exists());
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_that_comes_again_has_the_same_id() {
    let mut square = Square::open().await;
    let folder = tempfile::tempdir().unwrap();
    let rules = json!({"r": {"from": ["emotion"], "when": "data.emotion == 'fear'"}});
    let mut ids = Vec::new();
    for _ in 0..2 {
        // Nothing was written between: a fresh folder.
        let data = tempfile::tempdir_in(folder.path()).unwrap();
        let stage = Stage::start(&square, data.path(), settings(rules.clone())).await;
        square.send(emotion(1, "gate", 0, Expression::Fear)).await;
        ids.push(square.alert().await.0);
        stage.stop().await;
    }
    assert_eq!(ids[0], ids[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_without_the_broker_loses_no_window() {
    let mut square = Square::open().await;
    let folder = tempfile::tempdir().unwrap();
    let zone = folder.path().join("thermal/thermal_zone1");
    std::fs::create_dir_all(&zone).unwrap();
    std::fs::write(zone.join("temp"), "90000").unwrap();
    let rules = json!({"r": {"from": ["temperature/thermal_zone1"], "when": "true", "repeat": "1s"}});
    let thermal_dir = folder.path().join("thermal").display().to_string();
    let settings = rules::RulesSettings { temperature_every_s: 1, thermal_dir, ..settings(rules) };
    let stage = Stage::start(&square, folder.path(), settings).await;
    stage.seen("r", 1).await;
    square.broker.stop().await.unwrap();
    // What it tells from here on, nobody takes.
    let so_far = stage.rule("r").await["counters"]["events"].as_u64().unwrap();
    stage.seen("r", so_far + 2).await;
    stage.begin_to_end();
    let file = folder.path().join("data/rules/windows.json");
    eventually(LIMIT, || async {
        let state = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
        state.is_some_and(|state| state["rules"]["r"]["counters"]["events"].as_u64() >= Some(so_far + 2))
    })
    .await;
    stage.kill().await;
}
