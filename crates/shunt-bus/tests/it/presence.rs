//! Presence: a module says that it is there, and its broker says that it is gone.

use shunt_bus::{Delivery, Subscription};
use shunt_wire::{Kind, TopicFilter, events::Presence};

use crate::{
    backends::{Backend, LIMIT},
    numbered::next,
};

async fn presence(subscription: &mut Subscription) -> anyhow::Result<(String, Presence)> {
    let received = next(subscription).await?;
    let envelope = received.envelope?;
    received.ack.ack();
    Ok((envelope.source.to_string(), envelope.json()?))
}

async fn check(backend: Backend) -> anyhow::Result<()> {
    let me = Presence { online: true, version: "1.2.3".to_owned(), port: Some(8081), host: None };
    let gone = Presence { online: false, ..me.clone() };
    let watcher = backend.bus("console").await?;
    let mut seen = watcher.subscribe(&TopicFilter::kind(&Kind::PRESENCE), Delivery::Fast).await?;
    // One that leaves in order.
    let camera = backend.bus_with("camera", |options| options.presence = Some(me.clone())).await?;
    assert_eq!(presence(&mut seen).await?, ("camera".to_owned(), me.clone()));
    camera.close(LIMIT).await;
    assert_eq!(presence(&mut seen).await?, ("camera".to_owned(), gone.clone()));
    // One that dies.
    let camera = backend.bus_with("camera", |options| options.presence = Some(me.clone())).await?;
    assert_eq!(presence(&mut seen).await?, ("camera".to_owned(), me));
    drop(camera);
    assert_eq!(presence(&mut seen).await?, ("camera".to_owned(), gone.clone()));
    // Who comes later knows too.
    let late = backend.bus("late").await?;
    let mut seen = late.subscribe(&TopicFilter::kind(&Kind::PRESENCE), Delivery::Fast).await?;
    assert_eq!(presence(&mut seen).await?, ("camera".to_owned(), gone));
    Ok(())
}

#[tokio::test]
async fn a_module_is_seen_to_come_and_go_in_memory() -> anyhow::Result<()> {
    check(Backend::memory("presence")).await
}

#[tokio::test]
async fn a_module_is_seen_to_come_and_go_on_mosquitto() -> anyhow::Result<()> {
    check(Backend::mqtt().await?).await
}

#[tokio::test]
async fn a_module_is_seen_to_come_and_go_on_redis() -> anyhow::Result<()> {
    check(Backend::redis().await?).await
}
