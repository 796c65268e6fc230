//! Raw messages: any topic, any payload, no envelope.

use bytes::Bytes;
use shunt_bus::{
    BusError, BusState, PublishError,
    raw::{RawBus, RawMessage, RawOptions, RawSubscription},
};
use shunt_testkit::{Line, Mosquitto, Redis};
use tokio::time::timeout;

use crate::backends::LIMIT;

async fn open(url: &str, name: &str, echo: bool) -> anyhow::Result<RawBus> {
    let bus = RawBus::open(RawOptions { echo, ..RawOptions::new(url, name.parse()?) })?;
    timeout(LIMIT, bus.state().wait_for(|state| *state == BusState::Connected)).await??;
    Ok(bus)
}

async fn next(subscription: &mut RawSubscription) -> anyhow::Result<RawMessage> {
    timeout(LIMIT, subscription.next()).await?.ok_or_else(|| anyhow::anyhow!("it was closed"))
}

#[tokio::test]
async fn a_broker_tells_of_itself_on_its_sys_topics() -> anyhow::Result<()> {
    let broker = Mosquitto::start().await?;
    let bus = open(&broker.url(), "watch", true).await?;
    let mut version = bus.subscribe("$SYS/broker/version").await?;
    let message = next(&mut version).await?;
    assert_eq!(message.topic, "$SYS/broker/version");
    assert!(message.payload.starts_with(b"mosquitto version 2"), "{message:?}");
    assert!(message.retain);
    Ok(())
}

#[tokio::test]
async fn raw_messages_of_any_bytes_pass_and_come_back_after_a_cut() -> anyhow::Result<()> {
    let broker = Mosquitto::start().await?;
    let line = Line::to(broker.addr()).await?;
    let here = open(&format!("mqtt://{}", line.addr()), "here", true).await?;
    let there = open(&broker.url(), "there", true).await?;
    let mut messages = here.subscribe("airq/#").await?;
    let payload = Bytes::from_static(&[0, 0xFF, b'{', b'\n']);
    there.publish("airq/ghent/b1", payload.clone(), false)?;
    let expected = RawMessage { topic: "airq/ghent/b1".to_owned(), payload: payload.clone(), retain: false };
    assert_eq!(next(&mut messages).await?, expected);
    line.drop_connections();
    // Refused or lost while the line is away; some get through when it is back.
    let came = async {
        loop {
            there.publish("airq/ghent/b1", payload.clone(), false)?;
            if let Ok(came) = timeout(std::time::Duration::from_millis(50), messages.next()).await {
                return anyhow::Ok(came);
            }
        }
    };
    assert_eq!(timeout(LIMIT, came).await??, Some(expected));
    here.close(LIMIT).await;
    assert!(matches!(here.publish("a", payload, false), Err(PublishError::Closed)));
    Ok(())
}

#[tokio::test]
async fn own_messages_stay_away_where_that_is_asked_for() -> anyhow::Result<()> {
    let broker = Mosquitto::start().await?;
    let quiet = open(&broker.url(), "quiet", false).await?;
    let other = open(&broker.url(), "other", true).await?;
    let mut messages = quiet.subscribe("a/+").await?;
    quiet.publish("a/own", Bytes::new(), false)?;
    let mut own = other.subscribe("a/+").await?;
    other.publish("a/other", Bytes::new(), false)?;
    assert_eq!(next(&mut messages).await?.topic, "a/other");
    assert!(next(&mut own).await?.topic.starts_with("a/o"));
    Ok(())
}

#[tokio::test]
async fn a_topic_with_wildcards_is_refused_and_the_connection_lives() -> anyhow::Result<()> {
    let broker = Mosquitto::start().await?;
    let bus = open(&broker.url(), "here", true).await?;
    for topic in ["", "a/+", "#", "a\0", "a\u{7}", "a\u{85}", "a\u{FFFE}"] {
        let refused = bus.publish(topic, Bytes::new(), false);
        assert!(matches!(refused, Err(PublishError::Attribute { .. })), "{topic:?} {refused:?}");
    }
    let large = bus.publish("a", Bytes::from(vec![0; 9 << 20]), false);
    assert!(matches!(large, Err(PublishError::TooLarge { .. })), "{large:?}");
    assert!(bus.subscribe("a/#/b").await.is_err());
    let mut messages = bus.subscribe("a").await?;
    bus.publish("a", Bytes::from_static(b"1"), false)?;
    assert_eq!(next(&mut messages).await?.payload, "1");
    assert_eq!(bus.counters().reconnects, 0);
    let memory = RawBus::open(RawOptions::new("memory:raw", "here".parse()?));
    assert!(matches!(memory, Err(BusError::NotRaw(_))), "{memory:?}");
    Ok(())
}

#[tokio::test]
async fn raw_messages_pass_over_redis_and_come_back_after_a_cut() -> anyhow::Result<()> {
    let server = Redis::start().await?;
    let line = Line::to(server.addr()).await?;
    let here = open(&format!("redis://{}", line.addr()), "here", true).await?;
    let there = open(&server.url(), "there", false).await?;
    let mut messages = here.subscribe("airq:*").await?;
    let mut own = there.subscribe("airq:*").await?;
    let payload = Bytes::from_static(&[0, 0xFF, b'{', b'\n']);
    there.publish("airq:ghent:b1", payload.clone(), true)?;
    let expected = RawMessage { topic: "airq:ghent:b1".to_owned(), payload: payload.clone(), retain: false };
    assert_eq!(next(&mut messages).await?, expected);
    // Its own stay away, the same from others do not.
    here.publish("airq:ghent:b1", payload.clone(), false)?;
    assert_eq!(next(&mut own).await?, expected);
    line.drop_connections();
    let came = async {
        loop {
            there.publish("airq:again", payload.clone(), false)?;
            match timeout(std::time::Duration::from_millis(50), messages.next()).await {
                Ok(Some(message)) if message.topic == "airq:again" => return anyhow::Ok(()),
                _ => {}
            }
        }
    };
    timeout(LIMIT, came).await??;
    here.close(LIMIT).await;
    assert!(matches!(here.publish("a", payload, false), Err(PublishError::Closed)));
    Ok(())
}

#[tokio::test]
async fn own_messages_stay_away_from_each_of_several_patterns_and_those_of_others_come() -> anyhow::Result<()>
{
    let server = Redis::start().await?;
    let (quiet, other) =
        (open(&server.url(), "quiet", false).await?, open(&server.url(), "other", true).await?);
    let (mut wide, mut narrow) = (quiet.subscribe("a:*").await?, quiet.subscribe("a:b*").await?);
    let mut echo = other.subscribe("a:*").await?;
    // The same bytes from both: what is heard back first is ours.
    for _ in 0..2 {
        quiet.publish("a:b", Bytes::from_static(b"1"), false)?;
        next(&mut echo).await?;
    }
    other.publish("a:b", Bytes::from_static(b"1"), false)?;
    other.publish("a:b:end", Bytes::new(), false)?;
    for messages in [&mut wide, &mut narrow] {
        assert_eq!(next(messages).await?.topic, "a:b");
        assert_eq!(next(messages).await?.topic, "a:b:end");
    }
    // What was published before a pattern was there does not come by it.
    quiet.publish("a:c", Bytes::from_static(b"1"), false)?;
    assert_eq!(next(&mut echo).await?.topic, "a:b");
    assert_eq!(next(&mut echo).await?.topic, "a:b:end");
    assert_eq!(next(&mut echo).await?.topic, "a:c");
    let mut late = quiet.subscribe("a:c*").await?;
    other.publish("a:c", Bytes::from_static(b"1"), false)?;
    assert_eq!(next(&mut late).await?.topic, "a:c");
    assert_eq!(next(&mut wide).await?.topic, "a:c");
    Ok(())
}
