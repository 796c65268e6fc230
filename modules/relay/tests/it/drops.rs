//! Every drop has a reason and is counted.

use std::{process::Stdio, time::Duration};

use serde_json::json;
use shunt_bus::{Bus, Delivery};
use shunt_module::Events;
use shunt_testkit::Mosquitto;
use shunt_wire::{Envelope, Kind, Name, TopicFilter, events::DeadLetter};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use crate::rig::{
    PATIENCE, Relay, all_at_hub, at_hub, client, environment, memory, publish, sim, subscribed, total,
};

fn event(bytes: usize) -> Envelope {
    let data = json!({"number": 1_000_000, "even": true, "padding": "x".repeat(bytes)});
    Events::new().event(Kind::EMOTION, Name::from_static("front-door")).with_json(&data).unwrap()
}

async fn dead_letter(letters: &mut shunt_bus::Subscription) -> DeadLetter {
    let received = timeout(PATIENCE, letters.next()).await.unwrap().unwrap();
    let letter = received.envelope.as_ref().unwrap().json().unwrap();
    received.ack.ack();
    letter
}

async fn letters(bus: &Bus) -> shunt_bus::Subscription {
    bus.subscribe(&TopicFilter::kind(&Kind::DEAD_LETTER), Delivery::Assured).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_256_kb_is_refused_by_name_and_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let (sim, url) = (sim(folder.path()).await, memory(folder.path()));
    let relay = Relay::start(environment(folder.path(), &url, Some(&sim), &[])).await;
    let bus = client(&url, "camera");
    let mut letters = letters(&bus).await;
    subscribed(&bus, &relay).await;
    let (huge, tight) = (event(300 * 1024), event(256 * 1024 - 200));
    let ids = [huge.id.clone(), tight.id.clone()];
    // The first is over the limit by itself, the second only with its properties.
    bus.publish(huge, Delivery::Assured).await.unwrap();
    bus.publish(tight, Delivery::Assured).await.unwrap();
    publish(&bus, 1..=5).await;
    all_at_hub(&sim, 1..=5).await;
    for id in ids {
        let letter = dead_letter(&mut letters).await;
        assert!(letter.reason.contains(&id), "{letter:?}");
        assert_eq!(letter.topic, "shunt/emotion/front-door");
        assert!(letter.excerpt.len() <= 1024);
    }
    let status = relay.until(|status| status["queued"] == 0).await;
    assert_eq!(status["dropped"]["too_large"], 2);
    assert_eq!(total(&status["accepted"]), total(&status["sent"]) + 2);
    assert!(!at_hub(&sim).await.0.contains(&1_000_000));
    relay.stop().await;
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_no_event_becomes_a_dead_letter_and_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let sim = sim(folder.path()).await;
    let broker = Mosquitto::start().await.unwrap();
    let relay = Relay::start(environment(folder.path(), &broker.url(), Some(&sim), &[])).await;
    let bus = client(&broker.url(), "camera");
    let mut letters = letters(&bus).await;
    subscribed(&bus, &relay).await;
    // A real client that knows nothing of CloudEvents.
    let port = broker.addr().port().to_string();
    let mut stranger = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", "shunt/emotion/front-door", "-s"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = stranger.stdin.take().unwrap();
    input.write_all(b"\xff\xfe not an event").await.unwrap();
    drop(input);
    assert!(timeout(PATIENCE, stranger.wait()).await.unwrap().unwrap().success());
    let letter = dead_letter(&mut letters).await;
    assert_eq!(letter.topic, "shunt/emotion/front-door");
    assert!(letter.excerpt.contains("not an event"), "{letter:?}");
    assert!(letter.reason.contains("specversion"), "{letter:?}");
    publish(&bus, 1..=5).await;
    all_at_hub(&sim, 1..=5).await;
    relay.until(|status| status["dropped"]["malformed"] == 1 && status["queued"] == 0).await;
    relay.stop().await;
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_above_the_rate_is_dropped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (sim, url) = (sim(folder.path()).await, memory(folder.path()));
    let kinds = r#"{"emotion": {"max_per_s": 5}}"#;
    let relay =
        Relay::start(environment(folder.path(), &url, Some(&sim), &[("SHUNT_RELAY_KINDS", kinds)])).await;
    let bus = client(&url, "camera");
    subscribed(&bus, &relay).await;
    publish(&bus, 1..=200).await;
    let status = relay.until(|status| total(&status["accepted"]) >= 201 && status["queued"] == 0).await;
    let limited = status["dropped"]["rate_limited"].as_u64().unwrap();
    assert!(limited > 100, "{status}");
    assert_eq!(total(&status["accepted"]), total(&status["sent"]) + limited);
    relay.stop().await;
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_drops_the_oldest_events_and_counts_them() {
    let folder = tempfile::tempdir().unwrap();
    let url = memory(folder.path());
    let bounds = ("SHUNT_RELAY_MAX_QUEUE_EVENTS", "10");
    let relay = Relay::start(environment(folder.path(), &url, None, &[bounds])).await;
    let bus = client(&url, "camera");
    subscribed(&bus, &relay).await;
    publish(&bus, 1..=50).await;
    let status = relay.until(|status| total(&status["accepted"]) >= 51).await;
    assert_eq!(status["queued"], 10);
    assert_eq!(relay.dropped("queue_full").await + 10, total(&status["accepted"]));
    relay.stop().await;

    let sim = sim(folder.path()).await;
    let relay = Relay::start(environment(folder.path(), &url, Some(&sim), &[bounds])).await;
    all_at_hub(&sim, 41..=50).await;
    relay.until(|status| status["queued"] == 0).await;
    assert_eq!(at_hub(&sim).await.0, (41..=50).collect::<Vec<_>>());
    relay.stop().await;
    sim.stop().await;
}

/// A dead letter of a dead letter would go round for ever.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_can_be_relayed_and_make_no_circle() {
    let folder = tempfile::tempdir().unwrap();
    let (sim, url) = (sim(folder.path()).await, memory(folder.path()));
    let kinds = r#"{"emotion": {}, "dead-letter": {}}"#;
    let relay =
        Relay::start(environment(folder.path(), &url, Some(&sim), &[("SHUNT_RELAY_KINDS", kinds)])).await;
    let bus = client(&url, "camera");
    subscribed(&bus, &relay).await;
    bus.publish(event(300 * 1024), Delivery::Assured).await.unwrap();
    relay.until(|status| status["sent"]["dead-letter"] == 1).await;
    let records = sim.messages_from(1, Duration::ZERO).await;
    assert!(records.iter().any(|record| record.properties["kind"] == "dead-letter"));
    assert_eq!(relay.dropped("too_large").await, 1);
    relay.stop().await;
    sim.stop().await;
}
