use std::time::Duration;

use anyhow::Result;
use serde_json::{Map, Value, json};
use shunt_hub::{Desired, Hub, TwinError};
use shunt_sim::Fault;

use super::{SOON, WHILE, World, connected, disconnected};

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("{other} is no object"),
    }
}

/// Waits until the desired properties are these.
async fn desired(hub: &Hub, properties: Value) -> Desired {
    let properties = object(properties);
    let mut receiver = hub.desired();
    let found = tokio::time::timeout(
        SOON,
        receiver.wait_for(|desired| desired.as_ref().is_some_and(|desired| desired.properties == properties)),
    )
    .await;
    match found {
        Ok(found) => found.expect("the client lives").clone().expect("known"),
        Err(late) => panic!("{late}: still {:?}", hub.desired().borrow()),
    }
}

#[tokio::test]
async fn desired_properties_are_fetched_and_patched() -> Result<()> {
    let world = World::start().await?;
    let hub = Hub::open(world.options("relay")?);
    let first = desired(&hub, json!({"rate": 5, "old": true, "deep": {"a": 1, "b": 2}})).await;
    world.sim.patch_desired("relay", &json!({"rate": 7, "old": null, "deep": {"b": null, "c": [1, 2]}}))?;
    let second = desired(&hub, json!({"rate": 7, "deep": {"a": 1, "c": [1, 2]}})).await;
    assert_eq!(second.version, first.version + 1);
    let mut later = hub.desired();
    assert!(later.has_changed()?, "who comes later is told at once");
    later.mark_unchanged();
    Ok(())
}

#[tokio::test]
async fn missed_version_is_made_good() -> Result<()> {
    let world = World::start().await?;
    let hub = Hub::open(world.options("relay")?);
    desired(&hub, json!({"rate": 5, "old": true, "deep": {"a": 1, "b": 2}})).await;
    world.sim.fault(&Fault::LoseDesiredPatches { module: "relay".into(), count: 2 });
    world.sim.patch_desired("relay", &json!({"old": null}))?;
    world.sim.patch_desired("relay", &json!({"deep": null}))?;
    let version = world.sim.patch_desired("relay", &json!({"rate": 9}))?;
    assert_eq!(desired(&hub, json!({"rate": 9})).await.version, version);
    Ok(())
}

#[tokio::test]
async fn changes_made_while_away_are_seen_afterwards() -> Result<()> {
    let world = World::start().await?;
    let hub = Hub::open(world.options("relay")?);
    desired(&hub, json!({"rate": 5, "old": true, "deep": {"a": 1, "b": 2}})).await;
    world.sim.fault(&Fault::RefuseTokens { refuse: true });
    world.sim.fault(&Fault::DropConnection { module: Some("relay".into()) });
    disconnected(&hub).await;
    world.sim.patch_desired("relay", &json!({"deep": null, "old": null}))?;
    assert!(hub.desired().borrow().is_some(), "they stay while the hub is away");
    world.sim.fault(&Fault::RefuseTokens { refuse: false });
    desired(&hub, json!({"rate": 5})).await;
    Ok(())
}

#[tokio::test]
async fn empty_twin_without_version_is_not_a_deletion() -> Result<()> {
    let world = World::start().await?;
    world.sim.fault(&Fault::Offline { forget_twins: true });
    let hub = world.connect("relay").await?;
    assert_eq!(hub.twin().await?.desired, None);
    assert_eq!(*hub.desired().borrow(), None, "it does not count as known");
    world.sim.fault(&Fault::Online);
    desired(&hub, json!({"rate": 5, "old": true, "deep": {"a": 1, "b": 2}})).await;

    // Nor does it take away what is known.
    world.sim.fault(&Fault::Offline { forget_twins: true });
    world.sim.fault(&Fault::DropConnection { module: Some("relay".into()) });
    disconnected(&hub).await;
    connected(&hub).await;
    assert_eq!(hub.twin().await?.desired, None);
    assert!(hub.desired().borrow().is_some());
    Ok(())
}

#[tokio::test]
async fn reported_properties_reach_the_hub() -> Result<()> {
    let world = World::start().await?;
    let hub = world.connect("relay").await?;
    hub.report(&object(json!({"rate": {"value": 5, "ac": 200, "av": 2}, "gone": 1}))).await?;
    hub.report(&object(json!({"gone": null, "serial": "x"}))).await?;
    let twin = world.sim.twin("relay").expect("a twin");
    let reported = &twin["properties"]["reported"];
    assert_eq!(reported["rate"]["value"], 5);
    assert_eq!(reported["serial"], "x");
    assert_eq!(reported.get("gone"), None);

    let twin = hub.twin().await?;
    assert_eq!(twin.reported, object(json!({"rate": {"value": 5, "ac": 200, "av": 2}, "serial": "x"})));
    assert_eq!(twin.desired.map(|desired| desired.properties["rate"].clone()), Some(json!(5)));
    Ok(())
}

#[tokio::test]
async fn report_that_breaks_a_rule_is_refused() -> Result<()> {
    let world = World::start().await?;
    let hub = world.connect("relay").await?;
    for bad in [json!({"a.b": 1}), json!({"a": "x".repeat(5000)}), json!({"a": [1, null]})] {
        let refused = hub.report(&object(bad.clone())).await;
        assert!(matches!(refused, Err(TwinError::Status(400))), "{bad}: {refused:?}");
    }
    // One that would end the connection is not sent.
    let large = hub.report(&object(json!({"a": "x".repeat(262_144)}))).await;
    assert!(matches!(large, Err(TwinError::TooLarge { .. })), "{large:?}");
    hub.report(&object(json!({"a": 1}))).await?;
    assert_eq!(hub.counters().reconnects, 0);
    Ok(())
}

#[tokio::test]
async fn throttled_report_is_repeated() -> Result<()> {
    let world = World::start().await?;
    let hub = world.connect("relay").await?;
    world.sim.fault(&Fault::AnswerReports { status: 429, count: 2 });
    tokio::time::timeout(SOON, hub.report(&object(json!({"a": 1})))).await??;
    assert_eq!(world.sim.twin("relay").expect("a twin")["properties"]["reported"]["a"], 1);
    Ok(())
}

#[tokio::test]
async fn trouble_of_the_hub_is_told_in_the_end() -> Result<()> {
    let world = World::start().await?;
    let hub = world.connect("relay").await?;
    world.sim.fault(&Fault::AnswerReports { status: 500, count: 100 });
    let refused = tokio::time::timeout(SOON, hub.report(&object(json!({"a": 1})))).await?;
    assert!(matches!(refused, Err(TwinError::Status(500))), "{refused:?}");
    world.sim.fault(&Fault::AnswerReports { status: 500, count: 0 });
    hub.report(&object(json!({"a": 1}))).await?;
    Ok(())
}

#[tokio::test]
async fn report_made_while_away_arrives_afterwards() -> Result<()> {
    let world = World::start().await?;
    world.sim.fault(&Fault::RefuseTokens { refuse: true });
    let hub = Hub::open(world.options("relay")?);
    let patch = object(json!({"a": 1}));
    let reporting = hub.report(&patch);
    tokio::pin!(reporting);
    assert!(tokio::time::timeout(WHILE, &mut reporting).await.is_err());
    world.sim.fault(&Fault::RefuseTokens { refuse: false });
    tokio::time::timeout(SOON, reporting).await??;
    assert_eq!(world.sim.twin("relay").expect("a twin")["properties"]["reported"]["a"], 1);
    Ok(())
}

#[tokio::test]
async fn leaf_device_has_a_twin_too() -> Result<()> {
    let world = World::start().await?;
    let text = world.sim.add_device("leaf")?;
    let options = shunt_hub::HubOptions::from_connection_string(&text)?
        .with_trusted_certificates(world.sim.ca_bundle())?;
    let hub = Hub::open(options);
    tokio::time::timeout(Duration::from_secs(20), hub.report(&object(json!({"a": 1})))).await??;
    assert_eq!(world.sim.device_twin("leaf").expect("a twin")["properties"]["reported"]["a"], 1);
    Ok(())
}
