//! Events in, alerts and windows out.

use serde_json::json;
use shunt_bus::Delivery;
use shunt_wire::{
    Kind, TopicFilter,
    events::{AlertState, Expression, Window},
};
use tokio::time::timeout;

use crate::stage::{LIMIT, Square, Stage, emotion, settings};

#[tokio::test(flavor = "multi_thread")]
async fn unhappy_faces_raise_an_alert_and_happy_ones_clear_it() {
    let mut square = Square::open().await;
    let mut windows =
        square.bus.subscribe(&TopicFilter::kind(&Kind::WINDOW), Delivery::Assured).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let rules = json!({"unhappy": {
        "from": ["emotion"], "group_by": ["source"], "window": {"tumbling": "10s"}, "publish": true,
        "values": {"share": "share(data.emotion == 'anger')"},
        "when": "share > 0.5", "until": "share < 0.2", "message": "${math.round(share * 100)} % at ${group.source}",
    }});
    let stage = Stage::start(&square, folder.path(), settings(rules)).await;
    // Ten seconds of anger, ten of some anger, ten of joy, and one event that ends the last window.
    for number in 0..31 {
        let angry = number < 10 || (10..20).contains(&number) && number % 3 == 0;
        let mood = if angry { Expression::Anger } else { Expression::Happiness };
        square.send(emotion(number, "front-door", number * 1_000, mood)).await;
    }
    square.send(emotion(99, "front-door", 40_000, Expression::Neutral)).await;
    let (_, raised) = square.alert().await;
    assert_eq!((raised.state, raised.message.as_str()), (AlertState::Raised, "100 % at front-door"));
    assert_eq!(
        (raised.at.as_str(), &raised.group["source"]),
        ("2026-11-21T09:00:10.000Z", &json!("front-door"))
    );
    let (_, cleared) = square.alert().await;
    assert_eq!((cleared.state, cleared.at.as_str()), (AlertState::Cleared, "2026-11-21T09:00:30.000Z"));
    assert_eq!(cleared.since, raised.at);
    let received = timeout(LIMIT, windows.next()).await.unwrap().unwrap();
    received.ack.ack();
    assert_eq!(received.topic, "shunt/window/unhappy");
    let window: Window = received.envelope.unwrap().json().unwrap();
    assert_eq!((window.events, &window.values["share"]), (10, &json!(1.0)));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_event_is_counted_and_changes_nothing() {
    let square = Square::open().await;
    let folder = tempfile::tempdir().unwrap();
    let rules = json!({"r": {"from": ["emotion"], "window": {"tumbling": "10s"}, "lateness": "1s", "when": "n > 100"}});
    let stage = Stage::start(&square, folder.path(), settings(rules)).await;
    for (number, at) in [(0, 1_000), (1, 30_000), (2, 2_000), (3, 31_000)] {
        square.send(emotion(number, "gate", at, Expression::Fear)).await;
    }
    stage.seen("r", 4).await;
    let counters = stage.rule("r").await["counters"].clone();
    assert_eq!((&counters["late"], &counters["counted"]), (&json!(1), &json!(3)));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_fails_is_told_and_the_others_go_on() {
    let mut square = Square::open().await;
    let folder = tempfile::tempdir().unwrap();
    let rules = json!({
        "bad": {"from": ["emotion"], "when": "data.nothing > 1"},
        "good": {"from": ["emotion"], "when": "data.emotion == 'fear'"},
    });
    let stage = Stage::start(&square, folder.path(), settings(rules)).await;
    square.send(emotion(1, "gate", 0, Expression::Fear)).await;
    let (_, failed) = square.alert().await;
    assert_eq!((failed.rule.as_str(), failed.state), ("bad", AlertState::Failed));
    assert!(failed.message.contains("there is no field \"nothing\""), "{failed:?}");
    assert_eq!(square.alert().await.1.rule, "good");
    let told = shunt_testkit::found(LIMIT, || async {
        let (_, page) = stage.get("/readyz").await;
        page.contains("1 of 2 rules have failed, first bad: when: there is no field").then_some(())
    });
    assert!(told.await.is_some());
    let (_, metrics) = stage.get("/metrics").await;
    assert!(metrics.contains("shunt_rules_events{outcome=\"failed\",rule=\"bad\"} 1"), "{metrics}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_in_view_is_told_without_an_event() {
    let mut square = Square::open().await;
    let folder = tempfile::tempdir().unwrap();
    let rules = json!({"nobody": {"from": ["face"], "window": {"silence": "1s"}}});
    let stage = Stage::start(&square, folder.path(), settings(rules)).await;
    let (_, raised) = square.alert().await;
    assert_eq!((raised.rule.as_str(), raised.state), ("nobody", AlertState::Raised));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_no_event_goes_to_the_dead_letters() {
    let square = Square::open().await;
    let mut letters =
        square.bus.subscribe(&TopicFilter::kind(&Kind::DEAD_LETTER), Delivery::Assured).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let rules = json!({"r": {"from": ["emotion"], "when": "data.emotion == 'fear'"}});
    let stage = Stage::start(&square, folder.path(), settings(rules)).await;
    let broken = emotion(1, "gate", 0, Expression::Fear).with_body("application/json", "{\"emotion\": ");
    square.send(broken).await;
    let letter = timeout(LIMIT, letters.next()).await.unwrap().unwrap();
    letter.ack.ack();
    let letter: shunt_wire::events::DeadLetter = letter.envelope.unwrap().json().unwrap();
    assert!(letter.topic == "shunt/emotion/gate" && letter.reason.contains("not JSON"), "{letter:?}");
    square.send(emotion(2, "gate", 0, Expression::Fear)).await;
    stage.seen("r", 1).await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_comes_with_two_topic_filters_counts_once() {
    let mut square = Square::open().await;
    let folder = tempfile::tempdir().unwrap();
    let rule = |from: &str| json!({"from": [from], "window": {"count": 6}, "when": "true"});
    let rules = json!({"kind": rule("emotion"), "source": rule("shunt/+/gate")});
    let stage = Stage::start(&square, folder.path(), settings(rules)).await;
    for number in 0..5 {
        square.send(emotion(number, "gate", number * 1_000, Expression::Fear)).await;
    }
    for rule in ["kind", "source"] {
        stage.seen(rule, 5).await;
    }
    square.no_alert().await;
    for rule in ["kind", "source"] {
        assert_eq!(stage.rule(rule).await["counters"]["events"], 5);
    }
    stage.stop().await;
}
