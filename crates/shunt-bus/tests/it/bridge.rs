//! The bridge between a real Mosquitto and a real Redis.

use bytes::Bytes;
use shunt_bus::{
    BusState,
    bridge::{Bridge, BridgeCounters, BridgeError, BridgeOptions},
    raw::{RawBus, RawOptions, RawSubscription},
};
use shunt_testkit::{Line, Mosquitto, MosquittoOptions, Redis, eventually};
use tokio::time::timeout;

use crate::backends::LIMIT;

async fn open(url: &str) -> anyhow::Result<RawBus> {
    let bus = RawBus::open(RawOptions::new(url, "tester".parse()?))?;
    timeout(LIMIT, bus.state().wait_for(|state| *state == BusState::Connected)).await??;
    Ok(bus)
}

async fn bridge(from: &str, to: &str, rules: &[&str]) -> anyhow::Result<Bridge> {
    let rules = rules.iter().map(|rule| (*rule).to_owned());
    let bridge = Bridge::open(BridgeOptions::new(from, to, rules)).await?;
    eventually(LIMIT, || async { bridge.states() == (BusState::Connected, BusState::Connected) }).await;
    Ok(bridge)
}

async fn next(subscription: &mut RawSubscription) -> anyhow::Result<(String, Bytes)> {
    let message = timeout(LIMIT, subscription.next()).await?;
    let message = message.ok_or_else(|| anyhow::anyhow!("it was closed"))?;
    Ok((message.topic, message.payload))
}

/// Sends until it arrives: the subscriptions of a bridge that just connected may follow by a moment.
async fn until_it_comes(
    from: &RawBus,
    topic: &str,
    payload: &Bytes,
    at: &mut RawSubscription,
) -> anyhow::Result<(String, Bytes)> {
    let came = async {
        loop {
            from.publish(topic, payload.clone(), false).ok();
            if let Ok(came) = timeout(std::time::Duration::from_millis(100), next(at)).await {
                return came;
            }
        }
    };
    timeout(LIMIT, came).await?
}

#[tokio::test]
async fn topics_become_channels_with_their_payload_untouched() -> anyhow::Result<()> {
    let (mosquitto, redis) = (Mosquitto::start().await?, Redis::start().await?);
    let bridge = bridge(&mosquitto.url(), &redis.url(), &["airq/# -> airq:*"]).await?;
    let (mqtt, other) = (open(&mosquitto.url()).await?, open(&redis.url()).await?);
    let mut channels = other.subscribe("airq:*").await?;
    let payload = Bytes::from_static(&[0, 0xFF, b'{', b'"', b'\r', b'\n']);
    let came = until_it_comes(&mqtt, "airq/ghent/b1/r2", &payload, &mut channels).await?;
    assert_eq!(came, ("airq:ghent:b1:r2".to_owned(), payload.clone()));
    // Without a counterpart, and not meant.
    mqtt.publish("airq/a:b/c", payload.clone(), false)?;
    mqtt.publish("other/a", payload.clone(), false)?;
    mqtt.publish("airq/last", payload.clone(), false)?;
    while next(&mut channels).await?.0 != "airq:last" {}
    let counters = bridge.counters();
    assert_eq!((counters.dropped_refused, counters.dropped_away, counters.dropped_full), (1, 0, 0));
    assert!(counters.copied >= 2);
    bridge.close().await;
    mqtt.publish("airq/late", payload, false)?;
    assert!(timeout(std::time::Duration::from_millis(200), channels.next()).await.is_err());
    Ok(())
}

#[tokio::test]
async fn both_directions_at_once_make_no_loop() -> anyhow::Result<()> {
    let (mosquitto, redis) = (Mosquitto::start().await?, Redis::start().await?);
    let bridge = bridge(&mosquitto.url(), &redis.url(), &["airq/# -> airq:*", "airq:* -> airq/#"]).await?;
    let (mqtt, other) = (open(&mosquitto.url()).await?, open(&redis.url()).await?);
    let (mut topics, mut channels) = (mqtt.subscribe("airq/#").await?, other.subscribe("airq:*").await?);
    let probe = Bytes::from_static(b"probe");
    until_it_comes(&mqtt, "airq/probe", &probe, &mut channels).await?;
    until_it_comes(&other, "airq:probe", &probe, &mut topics).await?;
    // The same bytes from both sides, many times: each is copied once.
    for _ in 0..50 {
        mqtt.publish("airq/same", Bytes::from_static(b"1"), false)?;
        other.publish("airq:same", Bytes::from_static(b"1"), false)?;
    }
    mqtt.publish("airq/end", Bytes::from_static(b"2"), false)?;
    other.publish("airq:end", Bytes::from_static(b"2"), false)?;
    let mut counts = [0, 0];
    for (subscription, (count, end)) in
        [&mut topics, &mut channels].into_iter().zip(counts.iter_mut().zip(["airq/end", "airq:end"]))
    {
        let mut ends = 0;
        // Which of the same bytes is taken for the bridge's own is chance, so an end may come before the last of them.
        while ends < 2 || *count < 100 {
            let (name, payload) = next(subscription).await?;
            *count += usize::from(payload == "1");
            ends += usize::from(name == end);
        }
    }
    assert_eq!(counts, [100, 100]);
    for subscription in [&mut topics, &mut channels] {
        let more = timeout(std::time::Duration::from_millis(200), next(subscription)).await;
        assert!(more.is_err(), "{more:?}");
    }
    // A message may arrive before it is counted.
    eventually(LIMIT, || async { bridge.counters().copied >= 104 }).await;
    let BridgeCounters { dropped_away, dropped_full, dropped_refused, .. } = bridge.counters();
    assert_eq!((dropped_away, dropped_full, dropped_refused), (0, 0, 0));
    Ok(())
}

#[tokio::test]
async fn what_comes_while_the_other_broker_is_away_is_counted_and_copying_goes_on() -> anyhow::Result<()> {
    let (mosquitto, redis) = (Mosquitto::start().await?, Redis::start().await?);
    let line = Line::to(redis.addr()).await?;
    let bridge = bridge(&mosquitto.url(), &format!("redis://{}", line.addr()), &["a/+ -> b:*"]).await?;
    let (mqtt, other) = (open(&mosquitto.url()).await?, open(&redis.url()).await?);
    let mut channels = other.subscribe("b:*").await?;
    let payload = Bytes::from_static(b"1");
    until_it_comes(&mqtt, "a/x", &payload, &mut channels).await?;
    line.cut();
    eventually(LIMIT, || async { bridge.states().1 != BusState::Connected }).await;
    mqtt.publish("a/x", payload.clone(), false)?;
    eventually(LIMIT, || async { bridge.counters().dropped_away == 1 }).await;
    line.heal();
    let came = until_it_comes(&mqtt, "a/y", &payload, &mut channels).await?;
    assert_eq!(came.0, "b:y");
    Ok(())
}

#[tokio::test]
async fn a_bad_rule_is_refused_with_its_position_and_a_bad_address_by_name() -> anyhow::Result<()> {
    let check = |from: &str, to: &str, rule: &str| {
        BridgeOptions::new(from, to, [rule.to_owned()]).check().unwrap_err().to_string()
    };
    let (mqtt, redis) = ("mqtt://127.0.0.1:1", "redis://127.0.0.1:1");
    assert_eq!(
        check(mqtt, redis, "airq/#/x -> airq:*"),
        "the rule \"airq/#/x -> airq:*\" is wrong at position 5: '#' must be the last level"
    );
    assert!(check("carrier-pigeon", redis, "a -> b").contains("carrier-pigeon"));
    assert!(check(mqtt, "memory:x", "a -> b").contains("no raw messages"));
    let none = Bridge::open(BridgeOptions::new(mqtt, redis, [])).await;
    assert!(matches!(none, Err(BridgeError::NoRules)));
    // Brokers that are not there are waited for.
    let bridge = Bridge::open(BridgeOptions::new(mqtt, redis, ["a/# -> a:*".to_owned()])).await?;
    bridge.close().await;
    Ok(())
}

#[tokio::test]
async fn what_the_other_broker_would_not_take_is_counted_and_does_not_cut_the_bridge_off()
-> anyhow::Result<()> {
    let options =
        MosquittoOptions { more: "max_packet_size 5000\n".to_owned(), ..MosquittoOptions::default() };
    let (mosquitto, redis) = (Mosquitto::with(options).await?, Redis::start().await?);
    let bridge = bridge(&redis.url(), &mosquitto.url(), &["airq:* -> airq/#"]).await?;
    let (mqtt, other) = (open(&mosquitto.url()).await?, open(&redis.url()).await?);
    let mut topics = mqtt.subscribe("airq/#").await?;
    let payload = Bytes::from_static(b"1");
    until_it_comes(&other, "airq:first", &payload, &mut topics).await?;
    other.publish("airq:bell\u{7}", payload.clone(), false)?;
    other.publish("airq:large", Bytes::from(vec![0; 6000]), false)?;
    other.publish("airq:last", payload, false)?;
    while next(&mut topics).await?.0 != "airq/last" {}
    assert_eq!(bridge.counters().dropped_refused, 2);
    // Whoever was cut off would have come again.
    let log = mosquitto.log();
    assert_eq!(log.matches("as shunt-bridge").count(), 1, "{log}");
    Ok(())
}
