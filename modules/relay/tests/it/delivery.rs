//! Nothing is lost between bus and hub.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;
use shunt_module::check_page;
use shunt_sim::Fault;
use shunt_testkit::{Line, Mosquitto, eventually, found};

use crate::rig::{
    PATIENCE, Relay, all_at_hub, at_hub, client, environment, memory, page, publish, sim, subscribed, total,
};

#[tokio::test(flavor = "multi_thread")]
async fn events_reach_the_hub_in_order_with_their_attributes() {
    let folder = tempfile::tempdir().unwrap();
    let (sim, url) = (sim(folder.path()).await, memory(folder.path()));
    let relay = Relay::start(environment(folder.path(), &url, Some(&sim), &[])).await;
    let bus = client(&url, "camera");
    subscribed(&bus, &relay).await;
    publish(&bus, 1..=300).await;
    all_at_hub(&sim, 1..=300).await;
    let (numbers, _) = at_hub(&sim).await;
    assert_eq!(numbers, (1..=300).collect::<Vec<_>>());

    let records = sim.messages_from(1, Duration::ZERO).await;
    let record = records.iter().find(|record| record.body["number"] == json!(7)).unwrap();
    assert_eq!(record.output.as_deref(), Some("telemetry"));
    assert_eq!(record.body, json!({"number": 7, "even": false}));
    assert_eq!(record.properties["kind"], "emotion");
    assert_eq!(record.properties["source"], "shunt/front-door");
    assert_eq!(record.properties["type"], "shunt.emotion.v1");
    assert_eq!(record.system["messageId"], record.properties["id"]);
    assert_eq!(record.system["contentType"], "application/json");
    assert_eq!(record.system["contentEncoding"], "utf-8");

    let status = relay.until(|status| status["queued"] == 0).await;
    assert_eq!(total(&status["accepted"]), total(&status["sent"]));
    assert_eq!(total(&status["dropped"]), 0);
    let metrics = page(relay.http, "/metrics").await.unwrap();
    assert_eq!(check_page(&metrics), Ok(()), "{metrics}");
    assert!(metrics.contains("shunt_relay_sent_events_total{kind=\"emotion\"}"), "{metrics}");
    relay.stop().await;
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_keeps_records_until_the_hub_acknowledges() {
    let folder = tempfile::tempdir().unwrap();
    let (sim, url) = (sim(folder.path()).await, memory(folder.path()));
    let relay = Relay::start(environment(folder.path(), &url, Some(&sim), &[])).await;
    let bus = client(&url, "camera");
    subscribed(&bus, &relay).await;
    relay.until(|status| status["queued"] == 0).await;

    sim.fault(&Fault::WithholdAcknowledgements { module: None, count: 1_000, stored: true });
    publish(&bus, 1..=50).await;
    relay.until(|status| status["queued"] == 50 && status["in_flight"] == 16).await;
    sim.fault(&Fault::Clear);
    sim.fault(&Fault::DropConnection { module: None });
    all_at_hub(&sim, 1..=50).await;
    relay.until(|status| status["queued"] == 0).await;
    relay.stop().await;
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_away_for_a_while_misses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (sim, url) = (sim(folder.path()).await, memory(folder.path()));
    let relay = Relay::start(environment(folder.path(), &url, Some(&sim), &[])).await;
    let bus = client(&url, "camera");
    subscribed(&bus, &relay).await;
    publish(&bus, 1..=40).await;
    sim.fault(&Fault::Restart { pause_ms: 1_000 });
    publish(&bus, 41..=120).await;
    all_at_hub(&sim, 1..=120).await;
    relay.stop().await;
    sim.stop().await;
}

/// The law of the relay under everything at once: the line to the broker is cut in the middle of things, PUBACKs are
/// withheld, the hub restarts. The same with a killed process: `process.rs`.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_line_and_hub_fail_together() {
    let folder = tempfile::tempdir().unwrap();
    let sim = sim(folder.path()).await;
    let broker = Mosquitto::start().await.unwrap();
    let line = Line::to(broker.addr()).await.unwrap();
    let url = format!("mqtt://{}", line.addr());
    let relay = Relay::start(environment(folder.path(), &url, Some(&sim), &[])).await;
    let bus = client(&broker.url(), "camera");
    subscribed(&bus, &relay).await;
    let publisher = tokio::spawn(async move { publish(&bus, 1..=1_000).await });

    sim.fault(&Fault::WithholdAcknowledgements { module: None, count: 30, stored: false });
    relay.until(|status| total(&status["accepted"]) > 100).await;
    line.cut_after(500);
    relay.until(|_| line.is_cut()).await;
    line.heal();
    relay.until(|status| total(&status["accepted"]) > 300).await;
    line.drop_connections();
    publisher.await.unwrap();
    sim.fault(&Fault::Clear);
    sim.fault(&Fault::Restart { pause_ms: 300 });
    all_at_hub(&sim, 1..=1_000).await;
    relay.until(|status| status["queued"] == 0).await;
    relay.stop().await;
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_identity_events_are_kept_and_sent_when_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let url = memory(folder.path());
    let relay = Relay::start(environment(folder.path(), &url, None, &[])).await;
    let bus = client(&url, "camera");
    subscribed(&bus, &relay).await;
    publish(&bus, 1..=20).await;
    let status = relay.until(|status| status["queued"].as_u64().unwrap() >= 21).await;
    assert_eq!(status["hub"], "no identity");
    let health = page(relay.http, "/readyz").await.unwrap();
    assert!(health.contains("no identity for a hub"), "{health}");
    relay.stop().await;

    let sim = sim(folder.path()).await;
    let relay = Relay::start(environment(folder.path(), &url, Some(&sim), &[])).await;
    all_at_hub(&sim, 1..=20).await;
    relay.until(|status| status["queued"] == 0).await;
    relay.stop().await;
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_are_switched_by_twin_while_the_relay_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (sim, url) = (sim(folder.path()).await, memory(folder.path()));
    let relay = Relay::start(environment(folder.path(), &url, Some(&sim), &[])).await;
    let bus = client(&url, "camera");
    subscribed(&bus, &relay).await;
    publish(&bus, 1..=3).await;
    all_at_hub(&sim, 1..=3).await;

    let answered = |version: u64| {
        let sim = &sim;
        async move {
            let answer = found(PATIENCE, || async {
                let twin = sim.twin("relay").unwrap();
                twin.pointer("/properties/reported/kinds")
                    .filter(|kinds| kinds["av"] == json!(version))
                    .cloned()
            });
            answer.await.unwrap()
        }
    };
    // Only even numbers, then nothing but alerts, then a mistake that changes nothing.
    let even = json!({"kinds": {"emotion": {"where": {"even": true}}}});
    assert_eq!(answered(sim.patch_desired("relay", &even).unwrap()).await["ac"], 200);
    publish(&bus, 4..=9).await;
    relay.until(|status| status["dropped"]["filtered"] == 3).await;
    let alerts = json!({"kinds": {"emotion": {"enabled": false}, "alert": {"enabled": true}}});
    assert_eq!(answered(sim.patch_desired("relay", &alerts).unwrap()).await["ac"], 200);
    publish(&bus, 10..=12).await;
    let wrong = json!({"kinds": {"emotion": {"enabled": "yes"}}});
    let answer = answered(sim.patch_desired("relay", &wrong).unwrap()).await;
    assert_eq!(answer["ac"], 400);
    assert!(answer["ad"].as_str().unwrap().contains("invalid type: string \"yes\""), "{answer}");
    let on = json!({"kinds": {"emotion": {"enabled": true, "where": null}}});
    assert_eq!(answered(sim.patch_desired("relay", &on).unwrap()).await["ac"], 200);
    // The kind is subscribed to again a moment after the answer: what is published before reaches nobody.
    let mut last = 100;
    eventually(PATIENCE, || {
        last += 1;
        let (bus, sim, number) = (&bus, &sim, last);
        async move {
            publish(bus, number..=number).await;
            at_hub(sim).await.0.iter().any(|number| *number > 100)
        }
    })
    .await;
    let seen: BTreeSet<u64> =
        at_hub(&sim).await.0.into_iter().filter(|number| (1..100).contains(number)).collect();
    assert_eq!(seen, BTreeSet::from([1, 2, 3, 4, 6, 8]));
    relay.stop().await;
    sim.stop().await;
}

/// How many events a second pass from the broker over the disk to the hub. Takes a while, so it runs only where
/// `SHUNT_SLOW_TESTS` is set; `--nocapture` shows the figure.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_passes_with_few_writes_to_the_disk() {
    const EVENTS: u64 = 10_000;
    if std::env::var_os("SHUNT_SLOW_TESTS").is_none() {
        println!("skipped: SHUNT_SLOW_TESTS is not set");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (sim, broker) = (sim(folder.path()).await, Mosquitto::start().await.unwrap());
    let relay = Relay::start(environment(folder.path(), &broker.url(), Some(&sim), &[])).await;
    let bus = client(&broker.url(), "camera");
    subscribed(&bus, &relay).await;
    let begun = tokio::time::Instant::now();
    let publishers: Vec<_> = (0..32)
        .map(|lane| {
            let bus = bus.clone();
            let each = EVENTS / 32;
            tokio::spawn(async move { publish(&bus, lane * each + 1..=(lane + 1) * each).await })
        })
        .collect();
    for publisher in publishers {
        publisher.await.unwrap();
    }
    let published = begun.elapsed();
    relay.until(|status| total(&status["accepted"]) > EVENTS / 32 * 32).await;
    let accepted = begun.elapsed();
    relay.until(|status| status["queued"] == 0).await;
    let sent = begun.elapsed();
    println!(
        "{EVENTS} events: published after {published:.2?}, accepted {accepted:.2?}, at the hub {sent:.2?}: {:.0} a second",
        EVENTS as f64 / sent.as_secs_f64()
    );
    relay.stop().await;
    sim.stop().await;
}
