use std::time::Duration;

use anyhow::{Context as _, Result};
use shunt_hub::{Hub, HubMessage, InputMessage};
use shunt_testkit::eventually;
use tokio::sync::mpsc;

use super::{SOON, WHILE, World, connected, numbered};

fn to_camera(number: u64) -> HubMessage {
    HubMessage {
        output: Some("camera".into()),
        properties: [("a key".to_owned(), "a+b c".to_owned())].into(),
        ..numbered(number)
    }
}

async fn next(inputs: &mut mpsc::Receiver<InputMessage>) -> Result<InputMessage> {
    tokio::time::timeout(SOON, inputs.recv()).await?.context("the client lives")
}

fn number(message: &InputMessage) -> u64 {
    serde_json::from_slice::<serde_json::Value>(&message.body).expect("JSON")["n"].as_u64().expect("a number")
}

#[tokio::test]
async fn messages_come_in_order_with_their_sender() -> Result<()> {
    let world = World::start().await?;
    let relay = world.connect("relay").await?;
    let camera = Hub::open(world.options("camera")?);
    let mut inputs = camera.inputs();
    connected(&camera).await;
    for n in 1..=5 {
        relay.send(to_camera(n)).await?;
    }
    for n in 1..=5 {
        let message = next(&mut inputs).await?;
        assert_eq!(number(&message), n);
        assert_eq!(message.input, "one");
        assert_eq!(message.system["$.cmid"], "relay");
        assert_eq!(message.system["$.ct"], "application/json");
        assert_eq!(message.properties["a key"], "a+b c");
        message.acknowledge();
    }
    eventually(SOON, || async { world.sim.waiting_for("camera") == 0 }).await;
    assert_eq!(camera.counters().reconnects, 0);
    Ok(())
}

#[tokio::test]
async fn messages_that_came_before_the_module_wait_for_it() -> Result<()> {
    let world = World::start().await?;
    let relay = world.connect("relay").await?;
    relay.send(to_camera(1)).await?;
    // Connected without asking for inputs: nothing comes, nothing is lost.
    let camera = world.connect("camera").await?;
    assert_eq!(world.sim.waiting_for("camera"), 1);
    let mut inputs = camera.inputs();
    let message = next(&mut inputs).await?;
    assert_eq!(number(&message), 1);
    message.acknowledge();
    eventually(SOON, || async { world.sim.waiting_for("camera") == 0 }).await;
    Ok(())
}

#[tokio::test]
async fn message_dropped_without_acknowledgement_comes_again() -> Result<()> {
    let world = World::start().await?;
    let relay = world.connect("relay").await?;
    let camera = Hub::open(world.options("camera")?);
    let mut inputs = camera.inputs();
    connected(&camera).await;
    relay.send(to_camera(1)).await?;
    drop(next(&mut inputs).await?);
    let again = next(&mut inputs).await?;
    assert_eq!(number(&again), 1);
    again.acknowledge();
    eventually(SOON, || async { world.sim.waiting_for("camera") == 0 }).await;
    Ok(())
}

#[tokio::test]
async fn message_acknowledged_too_late_comes_again_and_stalls_nothing() -> Result<()> {
    let world = World::with(|options| options.message_ack_timeout = WHILE).await?;
    let relay = world.connect("relay").await?;
    let camera = Hub::open(world.options("camera")?);
    let mut inputs = camera.inputs();
    connected(&camera).await;
    relay.send(to_camera(1)).await?;
    relay.send(to_camera(2)).await?;
    let late = next(&mut inputs).await?;
    assert_eq!(number(&late), 1);
    let again = next(&mut inputs).await?;
    assert_eq!(number(&again), 1, "the hub's patience ended");
    // In the wrong order: the client waits for the older one.
    again.acknowledge();
    late.acknowledge();
    loop {
        let message = next(&mut inputs).await?;
        let number = number(&message);
        message.acknowledge();
        if number == 2 {
            break;
        }
    }
    eventually(SOON, || async { world.sim.waiting_for("camera") == 0 }).await;
    Ok(())
}

#[tokio::test]
async fn other_calls_do_not_wait_for_a_slow_input() -> Result<()> {
    let world = World::start().await?;
    let relay = world.connect("relay").await?;
    let camera = Hub::open(world.options("camera")?);
    let (mut inputs, mut methods) = (camera.inputs(), camera.methods());
    connected(&camera).await;
    relay.send(to_camera(1)).await?;
    let slow = next(&mut inputs).await?;
    tokio::spawn(async move {
        while let Some(call) = methods.recv().await {
            call.reply.answer(200, serde_json::Value::Null).await;
        }
    });
    world.sim.invoke("camera", "a", serde_json::Value::Null, Duration::from_secs(5)).await?;
    camera.report(&serde_json::Map::new()).await?;
    camera.send(numbered(1)).await?;
    slow.acknowledge();
    Ok(())
}
