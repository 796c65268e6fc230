use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use shunt_hub::{Hub, HubMessage, HubOptions, SendError};
use shunt_sim::Fault;
use shunt_testkit::{Line, eventually};

use super::{SOON, WHILE, World, connected, first_arrivals, numbered};

/// Messages over a line that breaks.
const COUNT: u64 = 300;

#[tokio::test]
async fn message_arrives_with_all_its_properties() -> Result<()> {
    let world = World::start().await?;
    let hub = world.connect("relay").await?;
    let message = HubMessage {
        output: Some("tele metry".into()),
        message_id: Some("id/1+#".into()),
        content_type: Some("application/json".into()),
        content_encoding: Some("utf-8".into()),
        creation_time: Some("2026-11-21T10:00:00Z".into()),
        properties: [("kind", "emotion"), ("a key", "a+b c&d=ü/%20#"), ("empty", "")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        body: r#"{"score":0.5}"#.into(),
    };
    hub.send(message.clone()).await?;
    assert_eq!(world.sim.message_count(), 1, "acknowledged, so it is there");
    let record = world.records(1).await.remove(0);
    assert_eq!(record.output, message.output);
    assert_eq!(record.body, json!({"score": 0.5}));
    assert_eq!(record.properties, message.properties);
    assert_eq!(record.system["messageId"], "id/1+#");
    assert_eq!(record.system["contentEncoding"], "utf-8");
    assert_eq!(record.system["creationTime"], "2026-11-21T10:00:00Z");
    assert!(world.sim.dropped().is_empty(), "{:?}", world.sim.dropped());
    assert_eq!(hub.counters().acknowledged, 1);
    Ok(())
}

#[tokio::test]
async fn message_without_acknowledgement_is_sent_again_and_resolved_once() -> Result<()> {
    let world = World::start().await?;
    let hub = world.connect("relay").await?;
    world.sim.fault(&Fault::WithholdAcknowledgements { module: None, count: 2, stored: false });
    let first = hub.send(numbered(1));
    let second = hub.send(numbered(2));
    tokio::pin!(first, second);
    let both = async { tokio::try_join!(&mut first, &mut second) };
    assert!(tokio::time::timeout(WHILE, both).await.is_err(), "resolved without an acknowledgement");
    assert_eq!(world.sim.message_count(), 0);
    world.sim.fault(&Fault::DropConnection { module: None });
    let both = async { tokio::try_join!(first, second) };
    tokio::time::timeout(SOON, both).await??;
    let records = world.records(2).await;
    assert_eq!(records.len(), 2);
    assert_eq!(first_arrivals(&records), [1, 2], "in their old order");
    assert_eq!(hub.counters().acknowledged, 2);
    assert_eq!(hub.counters().reconnects, 1);
    Ok(())
}

#[tokio::test]
async fn message_whose_acknowledgement_was_lost_arrives_twice_and_is_resolved_once() -> Result<()> {
    let world = World::start().await?;
    let hub = world.connect("relay").await?;
    world.sim.fault(&Fault::WithholdAcknowledgements { module: None, count: 1, stored: true });
    let sending = tokio::spawn({
        let hub = hub.clone();
        async move { hub.send(numbered(1)).await }
    });
    world.records(1).await;
    world.sim.fault(&Fault::DropConnection { module: Some("relay".into()) });
    tokio::time::timeout(SOON, sending).await???;
    assert_eq!(world.records(2).await.len(), 2);
    assert_eq!(hub.counters().acknowledged, 1);
    Ok(())
}

#[tokio::test]
async fn order_survives_a_line_that_breaks_again_and_again() -> Result<()> {
    let world = World::start().await?;
    let line = Line::to(world.sim.mqtt()).await?;
    let mut environment = world.sim.module_environment("relay");
    environment.insert("IOTEDGE_GATEWAYHOSTNAME".into(), format!("localhost:{}", line.addr().port()));
    let hub = Hub::open(HubOptions::from_environment(&environment)?.context("no identity")?);
    connected(&hub).await;

    let sending = async {
        let mut sending = tokio::task::JoinSet::new();
        for number in 1..=COUNT {
            let hub = hub.clone();
            sending.spawn(async move { hub.send(numbered(number)).await });
            // The next one is begun when this one is on its way, so the order of sending is known.
            tokio::task::yield_now().await;
        }
        while let Some(sent) = sending.join_next().await {
            sent??;
        }
        anyhow::Ok(())
    };
    let breaking = async {
        for _ in 0..3 {
            let before = hub.counters().acknowledged;
            eventually(SOON, || async { hub.counters().acknowledged >= (before + 20).min(COUNT) }).await;
            line.drop_connections();
        }
    };
    let (sent, ()) = tokio::time::timeout(3 * SOON, async { tokio::join!(sending, breaking) }).await?;
    sent?;
    let arrived = first_arrivals(&world.records(COUNT).await);
    assert_eq!(arrived, (1..=COUNT).collect::<Vec<_>>());
    assert!(hub.counters().reconnects >= 1);
    Ok(())
}

#[tokio::test]
async fn only_so_many_messages_are_in_flight_and_send_waits() -> Result<()> {
    let world = World::start().await?;
    let hub = world.connect("relay").await?;
    world.sim.fault(&Fault::WithholdAcknowledgements { module: None, count: 1000, stored: true });
    let sending: Vec<_> = (0..100)
        .map(|number| {
            let hub = hub.clone();
            tokio::spawn(async move { hub.send(numbered(number)).await })
        })
        .collect();
    world.records(12).await;
    // The hub would stop reading at 16, pings included.
    assert!(sending.iter().all(|sending| !sending.is_finished()));
    // A report passes all the same.
    hub.report(&json!({"a": 1}).as_object().cloned().unwrap_or_default()).await?;
    assert_eq!(world.sim.message_count(), 12);
    world.sim.fault(&Fault::Clear);
    world.sim.fault(&Fault::DropConnection { module: None });
    for sending in sending {
        tokio::time::timeout(SOON, sending).await???;
    }
    Ok(())
}

#[tokio::test]
async fn message_over_the_limit_is_refused_here_and_the_connection_lives() -> Result<()> {
    let world = World::start().await?;
    let hub = world.connect("relay").await?;
    let message = |bytes: usize| HubMessage { body: vec![b'x'; bytes].into(), ..HubMessage::default() };
    let size = match hub.send(message(262_144)).await {
        Err(SendError::TooLarge { size, max: 262_144 }) => size,
        other => panic!("{other:?}"),
    };
    // The largest that is allowed passes the hub.
    hub.send(message(262_144 - (size - 262_144))).await?;
    assert_eq!(world.sim.message_count(), 1);
    let properties = [("$.on".to_owned(), "x".to_owned())].into();
    let refused = hub.send(HubMessage { properties, ..HubMessage::default() }).await;
    assert!(matches!(refused, Err(SendError::Property(name)) if name == "$.on"));
    assert!(world.sim.dropped().is_empty(), "{:?}", world.sim.dropped());
    assert_eq!(hub.counters().reconnects, 0);
    Ok(())
}

#[tokio::test]
async fn message_that_nobody_waits_for_any_more_is_not_sent_later() -> Result<()> {
    let world = World::start().await?;
    world.sim.fault(&Fault::RefuseTokens { refuse: true });
    let hub = Hub::open(world.options("relay")?);
    assert!(tokio::time::timeout(WHILE, hub.send(numbered(1))).await.is_err());
    world.sim.fault(&Fault::Clear);
    tokio::time::timeout(SOON, hub.send(numbered(2))).await??;
    assert_eq!(first_arrivals(&world.records(1).await), [2]);
    Ok(())
}

/// Not a benchmark; it shows that a confirmed send takes no timer's tick.
#[tokio::test]
async fn confirmed_send_takes_few_milliseconds() -> Result<()> {
    let world = World::start().await?;
    let hub = world.connect("relay").await?;
    let began = std::time::Instant::now();
    for number in 0..100 {
        hub.send(numbered(number)).await?;
    }
    let each = began.elapsed() / 100;
    println!("one confirmed send after the other: {each:?} each");
    assert!(each < Duration::from_millis(20), "{each:?}");
    Ok(())
}
