//! From the start of the module to its end.

use shunt_wire::Kind;

use crate::support::{Device, publish, subscribe, take};

#[tokio::test]
async fn modules_speak_over_an_authenticated_bus_that_nobody_configured() -> anyhow::Result<()> {
    let mut device = Device::start(&[]).await?;
    let (emotion, relay) = (device.module("emotion").await?, device.module("relay").await?);
    let mut events = subscribe(&relay, &Kind::EMOTION).await?;
    for id in 1..=20 {
        publish(&emotion, &Kind::EMOTION, "front-door", id).await?;
        assert_eq!(take(&mut events).await?, id.to_string());
    }
    // Emotion, relay, the module itself, and what reads the figures.
    device.metric("shunt_bus_broker_clients", |clients| clients == 4.0).await?;
    device.metric("shunt_bus_broker_received_messages_total", |count| count >= 20.0).await?;
    device.metric("shunt_bus_certificate_expiry_timestamp_seconds", |seconds| seconds > 1.7e9).await?;
    assert_eq!(device.end().await?, 0);
    Ok(())
}
