//! The relay on another bus: one setting, `SHUNT_BUS_URL`, says which.

use shunt_testkit::{Mosquitto, Redis};

use crate::rig::{PATIENCE, Relay, all_at_hub, at_hub, client, environment, publish, sim, subscribed};

/// Events reach the hub, also those that are published while the relay is restarted.
async fn check(url: &str) {
    let folder = tempfile::tempdir().unwrap();
    let sim = sim(folder.path()).await;
    let relay = Relay::start(environment(folder.path(), url, Some(&sim), &[])).await;
    let bus = client(url, "emotion");
    subscribed(&bus, &relay).await;
    publish(&bus, 1..=100).await;
    relay.stop().await;
    publish(&bus, 101..=200).await;
    let relay = Relay::start(environment(folder.path(), url, Some(&sim), &[])).await;
    all_at_hub(&sim, 1..=200).await;
    let (mut numbers, _) = at_hub(&sim).await;
    numbers.dedup();
    assert_eq!(numbers, (1..=200).collect::<Vec<_>>());
    bus.close(PATIENCE).await;
    relay.stop().await;
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_works_on_redis_as_on_mosquitto() {
    let (mosquitto, redis) = (Mosquitto::persistent().await.unwrap(), Redis::persistent().await.unwrap());
    for url in [mosquitto.url(), redis.url()] {
        check(&url).await;
    }
}
