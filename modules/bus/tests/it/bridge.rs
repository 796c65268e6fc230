//! The bridge to a real Redis.

use shunt_bus::raw::{RawBus, RawOptions};
use shunt_testkit::{Redis, fresh_address};
use shunt_wire::Name;
use tokio::time::timeout;

use crate::support::{Device, LIMIT};

#[tokio::test]
async fn the_bridge_copies_where_there_is_only_a_port_without_tls() -> anyhow::Result<()> {
    let redis = Redis::start().await?;
    let plain = fresh_address()?;
    let url = format!("mqtt://{plain}");
    let device = Device::start(&[
        ("SHUNT_BUS_URL", &url),
        ("SHUNT_BUS_TLS_PORT", "0"),
        ("SHUNT_BUS_PLAIN_PORT", &plain.port().to_string()),
        ("SHUNT_BUS_PLAIN", r#"{"subscribe": ["shunt/#"]}"#),
        ("SHUNT_BUS_BRIDGE_URL", &redis.url()),
        ("SHUNT_BUS_BRIDGE_RULES", r#"["lights:*:set -> lights/+/set"]"#),
    ])
    .await?;
    let there = RawBus::open(RawOptions::new(redis.url(), Name::from_static("there")))?;
    let here = RawBus::open(RawOptions::new(url, Name::from_static("lamp")))?;
    let mut lights = here.subscribe("lights/#").await?;
    // Fast messages: the first may come before the bridge is there.
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(50));
    let copied = async {
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    there.publish("lights:hall:set", "on".into(), false).ok();
                }
                message = lights.next() => return message,
            }
        }
    };
    let message = timeout(LIMIT, copied).await?.unwrap();
    assert_eq!((message.topic.as_str(), &message.payload[..]), ("lights/hall/set", &b"on"[..]));
    device.metric("shunt_bus_bridge_copied_messages_total", |count| count >= 1.0).await?;
    Ok(())
}

#[tokio::test]
async fn the_bridge_copies_between_the_authenticated_bus_and_redis() -> anyhow::Result<()> {
    let redis = Redis::start().await?;
    let device = Device::start(&[
        ("SHUNT_BUS_BRIDGE_URL", &redis.url()),
        ("SHUNT_BUS_BRIDGE_RULES", r#"["airq/# -> airq:*", "lights:*:set -> lights/+/set"]"#),
        ("SHUNT_BUS_MODULES", r#"{"airq": {"publish": ["airq/#"], "subscribe": ["lights/#"]}}"#),
    ])
    .await?;
    let there = RawBus::open(RawOptions::new(redis.url(), Name::from_static("there")))?;
    let tls = Some(device.tls("airq").await?.into());
    let here = RawBus::open(RawOptions { tls, ..RawOptions::new(device.url(), Name::from_static("airq")) })?;
    let mut channels = there.subscribe("airq:*").await?;
    let mut lights = here.subscribe("lights/#").await?;
    // Fast messages: the first may come before the bridge is there.
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(50));
    let copied = async {
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    here.publish("airq/ghent/b1", "21".into(), false).ok();
                }
                message = channels.next() => return message,
            }
        }
    };
    let message = timeout(LIMIT, copied).await?.unwrap();
    assert_eq!((message.topic.as_str(), &message.payload[..]), ("airq:ghent:b1", &b"21"[..]));
    there.publish("lights:hall:set", "on".into(), false)?;
    let message = timeout(LIMIT, lights.next()).await?.unwrap();
    assert_eq!((message.topic.as_str(), &message.payload[..]), ("lights/hall/set", &b"on"[..]));
    device.metric("shunt_bus_bridge_copied_messages_total", |count| count >= 2.0).await?;
    Ok(())
}
