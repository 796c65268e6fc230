//! What only a broker of its own can do: restart, lose its sessions, carry what is no event, refuse.

use std::time::Duration;

use rumqttc::v5::{
    MqttOptions,
    mqttbytes::{QoS, v5::PublishProperties},
};
use shunt_bus::{Bus, BusOptions, Delivery, PublishError};
use shunt_testkit::{Ledger, Line, Mosquitto, MosquittoOptions, eventually};
use shunt_wire::Kind;

use crate::{
    backends::{Backend, LIMIT, connected, disconnected},
    numbered::{all, event, is_quiet, next, take},
};

#[tokio::test]
async fn a_broker_that_restarts_loses_nothing_assured() -> anyhow::Result<()> {
    let mut broker = Mosquitto::persistent().await?;
    let bus = |module: &str| -> anyhow::Result<Bus> {
        Ok(Bus::open(BusOptions::new(broker.url(), module.parse()?))?)
    };
    let (emotion, relay, away) = (bus("emotion")?, bus("relay")?, bus("away")?);
    for bus in [&emotion, &relay, &away] {
        connected(bus).await?;
    }
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    drop(away.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?);
    away.close(LIMIT).await;
    let publish = tokio::spawn(async move {
        for count in 1..=300 {
            emotion.publish(event(&Kind::EMOTION, count), Delivery::Assured).await?;
        }
        anyhow::Ok(())
    });
    let mut ledger = Ledger::default();
    while ledger.len() < 100 {
        ledger.note(take(&mut events).await?);
    }
    broker.restart().await?;
    while !ledger.missing(1..=300).is_empty() {
        ledger.note(take(&mut events).await?);
    }
    publish.await??;
    // What the broker kept for one who is away has survived too.
    let away = Bus::open(BusOptions::new(broker.url(), "away".parse()?))?;
    let mut events = away.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    let mut ledger = Ledger::default();
    while !ledger.missing(1..=300).is_empty() {
        ledger.note(take(&mut events).await?);
    }
    Ok(())
}

#[tokio::test]
async fn a_broker_that_lost_its_sessions_is_subscribed_to_again_and_gets_what_was_on_its_way()
-> anyhow::Result<()> {
    // Nothing is kept: after the restart the broker knows nobody.
    let mut broker = Mosquitto::start().await?;
    let line = Line::to(broker.addr()).await?;
    let relay = Bus::open(BusOptions::new(broker.url(), "relay".parse()?))?;
    let emotion = Bus::open(BusOptions::new(format!("mqtt://{}", line.addr()), "emotion".parse()?))?;
    connected(&relay).await?;
    connected(&emotion).await?;
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    // On its way, but not through.
    line.freeze();
    let publish = tokio::spawn({
        let emotion = emotion.clone();
        async move { emotion.publish(event(&Kind::EMOTION, 1), Delivery::Assured).await }
    });
    assert!(is_quiet(&mut events).await);
    line.cut();
    disconnected(&emotion).await?;
    broker.restart().await?;
    eventually(LIMIT, || async { relay.counters().reconnects == 1 }).await;
    line.heal();
    publish.await??;
    assert_eq!(take(&mut events).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_silent_line_is_noticed() -> anyhow::Result<()> {
    let backend = Backend::mqtt().await?;
    let Backend::Mqtt { line, .. } = &backend else { panic!("not MQTT") };
    let bus = backend.bus("camera").await?;
    line.freeze();
    disconnected(&bus).await?;
    line.drop_connections();
    connected(&bus).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_no_event_reaches_the_subscriber_as_an_error_and_can_be_acknowledged() -> anyhow::Result<()> {
    let backend = Backend::mqtt().await?;
    let relay = backend.bus("relay").await?;
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    let Backend::Mqtt { broker, .. } = &backend else { panic!("not MQTT") };
    let mut options = MqttOptions::new("stranger", "127.0.0.1", broker.addr().port());
    options.set_keep_alive(Duration::from_secs(5));
    let (stranger, mut stranger_loop) = rumqttc::v5::AsyncClient::new(options, 10);
    let polling = tokio::spawn(async move { while stranger_loop.poll().await.is_ok() {} });
    let topic = "shunt/emotion/front-door";
    stranger.publish(topic, QoS::AtLeastOnce, false, "{\"hello\":").await?;
    let properties = PublishProperties {
        content_type: Some("application/cloudevents+json".to_owned()),
        ..PublishProperties::default()
    };
    stranger.publish_with_properties(topic, QoS::AtLeastOnce, false, vec![0xFF, 0xFE], properties).await?;
    stranger.publish(topic, QoS::AtLeastOnce, false, "").await?;
    for expected in [&b"{\"hello\":"[..], &[0xFF, 0xFE], b""] {
        let received = next(&mut events).await?;
        assert!(received.envelope.is_err(), "{:?}", received.envelope);
        assert_eq!(received.payload, expected);
        received.ack.ack();
    }
    // The chain lives. When the second of these is heard, so are the acknowledgements before it.
    for count in 2..=3 {
        relay.publish(event(&Kind::EMOTION, count), Delivery::Assured).await?;
        assert_eq!(take(&mut events).await?, count);
    }
    // Nothing comes again.
    backend.cut();
    disconnected(&relay).await?;
    backend.heal();
    connected(&relay).await?;
    assert!(is_quiet(&mut events).await);
    relay.publish(event(&Kind::EMOTION, 4), Delivery::Assured).await?;
    assert_eq!(take(&mut events).await?, 4);
    polling.abort();
    Ok(())
}

#[tokio::test]
async fn an_event_larger_than_the_broker_takes_is_refused_and_the_next_one_goes_through() -> anyhow::Result<()>
{
    for (more, limit) in [("max_packet_size 5000\n", 8 << 20), ("", 5000)] {
        let options = MosquittoOptions {
            more: more.to_owned(),
            message_size_limit: limit,
            ..MosquittoOptions::default()
        };
        let broker = Mosquitto::with(options).await?;
        let bus = Bus::open(BusOptions::new(broker.url(), "camera".parse()?))?;
        let large = event(&Kind::LABEL, 1).with_body("image/jpeg", vec![0; 6000]);
        let refused = tokio::time::timeout(LIMIT, bus.publish(large, Delivery::Assured)).await?;
        assert!(
            matches!(refused, Err(PublishError::TooLarge { .. } | PublishError::Refused(_))),
            "{more:?} {refused:?} {}",
            broker.log()
        );
        bus.publish(event(&Kind::LABEL, 2), Delivery::Assured).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_event_that_the_broker_refuses_says_why_and_the_next_one_goes_through() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let rules = folder.path().join("acl");
    std::fs::write(&rules, "topic readwrite shunt/label/#\n")?;
    let more = format!("acl_file {}\n", rules.display());
    let broker = Mosquitto::with(MosquittoOptions { more, ..MosquittoOptions::default() }).await?;
    let bus = Bus::open(BusOptions::new(broker.url(), "camera".parse()?))?;
    let refused = tokio::time::timeout(LIMIT, bus.publish(event(&Kind::FACE, 1), Delivery::Assured)).await?;
    assert!(
        matches!(&refused, Err(PublishError::Refused(reason)) if reason == "not authorized"),
        "{refused:?}"
    );
    bus.publish(event(&Kind::LABEL, 2), Delivery::Assured).await?;
    Ok(())
}

#[tokio::test]
async fn a_second_module_of_the_same_name_takes_over_and_the_bus_says_so() -> anyhow::Result<()> {
    let backend = Backend::mqtt().await?;
    let first = backend.bus("camera").await?;
    let mut state = first.state();
    state.mark_unchanged();
    let second = backend.bus("camera").await?;
    let said = state.wait_for(|state| format!("{state:?}").contains("same name"));
    let said = tokio::time::timeout(LIMIT, said).await.is_ok();
    let Backend::Mqtt { broker, .. } = &backend else { panic!("not MQTT") };
    assert!(said, "{:?} {}", *first.state().borrow(), broker.log());
    drop(second);
    Ok(())
}

#[tokio::test]
async fn a_message_for_a_subscription_of_an_earlier_life_does_not_stop_the_others() -> anyhow::Result<()> {
    let backend = Backend::mqtt().await?;
    let relay = backend.bus("relay").await?;
    drop(relay.subscribe(&all(&Kind::FACE), Delivery::Assured).await?);
    drop(relay);
    let emotion = backend.bus("emotion").await?;
    emotion.publish(event(&Kind::FACE, 1), Delivery::Assured).await?;
    let relay = backend.bus("relay").await?;
    let mut events = relay.subscribe(&all(&Kind::EMOTION), Delivery::Assured).await?;
    emotion.publish(event(&Kind::EMOTION, 2), Delivery::Assured).await?;
    assert_eq!(take(&mut events).await?, 2);
    // After its time of grace it is given up and counted, and the broker stops to send its like.
    eventually(LIMIT, || async { relay.counters().dropped_receiving == 1 }).await;
    let received = relay.counters().received;
    let mut labels = relay.subscribe(&all(&Kind::LABEL), Delivery::Assured).await?;
    emotion.publish(event(&Kind::FACE, 3), Delivery::Assured).await?;
    emotion.publish(event(&Kind::LABEL, 4), Delivery::Assured).await?;
    assert_eq!(take(&mut labels).await?, 4);
    assert_eq!(relay.counters().received, received + 1);
    Ok(())
}
