use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use shunt_hub::{InvokeError, InvokeLimits};
use shunt_testkit::eventually;

use super::{SOON, World};

/// Answers every call with its own name and payload, and status 200; a call of `drop` not at all.
fn echo(hub: &shunt_hub::Hub) {
    let mut methods = hub.methods();
    tokio::spawn(async move {
        while let Some(call) = methods.recv().await {
            if call.name != "drop" {
                call.reply.answer(200, json!({"name": call.name, "payload": call.payload})).await;
            }
        }
    });
}

#[tokio::test]
async fn method_is_answered() -> Result<()> {
    let world = World::start().await?;
    let hub = world.connect("relay").await?;
    let refused = world.sim.invoke("relay", "ping", json!(1), SOON).await;
    assert!(refused.is_err(), "a module that asked for no methods takes none: {refused:?}");

    echo(&hub);
    // Asked for on the open connection.
    let answer = loop {
        if let Ok(answer) = world.sim.invoke("relay", "Ping*now", json!({"a": [1, "ü"]}), SOON).await {
            break answer;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(answer.status, 200);
    assert_eq!(answer.payload, json!({"name": "Ping*now", "payload": {"a": [1, "ü"]}}));
    let answer = world.sim.invoke("relay", "ping", Value::Null, SOON).await?;
    assert_eq!(answer.payload, json!({"name": "ping", "payload": null}));
    let answer = world.sim.invoke("relay", "drop", json!({}), SOON).await?;
    assert_eq!(answer.status, 500);
    Ok(())
}

#[tokio::test]
async fn methods_asked_for_before_the_connection_work_after_each_reconnect() -> Result<()> {
    let world = World::start().await?;
    let hub = shunt_hub::Hub::open(world.options("relay")?);
    echo(&hub);
    super::connected(&hub).await;
    assert_eq!(world.sim.invoke("relay", "a", json!(1), SOON).await?.status, 200);
    world.sim.fault(&shunt_sim::Fault::DropConnection { module: None });
    eventually(SOON, || async { hub.counters().reconnects == 1 }).await;
    assert_eq!(world.sim.invoke("relay", "b", json!(1), SOON).await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn calls_that_nobody_takes_are_refused() -> Result<()> {
    let world = World::start().await?;
    let hub = shunt_hub::Hub::open(world.options("relay")?);
    let mut methods = hub.methods();
    super::connected(&hub).await;
    // Sixteen wait, the seventeenth is refused.
    let calls: Vec<_> = (0..17)
        .map(|number| {
            let sim = &world.sim;
            async move { sim.invoke("relay", "wait", json!(number), SOON).await }
        })
        .collect();
    let mut calls: Vec<_> = calls.into_iter().map(Box::pin).collect();
    let refused = tokio::time::timeout(SOON, async {
        std::future::poll_fn(|context| {
            for call in &mut calls {
                if let std::task::Poll::Ready(answer) = call.as_mut().poll(context) {
                    return std::task::Poll::Ready(answer);
                }
            }
            std::task::Poll::Pending
        })
        .await
    })
    .await??;
    assert_eq!(refused.status, 503, "{:?}", refused.payload);
    drop(calls);
    methods.recv().await.context("a call")?.reply.answer(200, json!(null)).await;
    drop(methods);
    let refused = world.sim.invoke("relay", "wait", json!(1), SOON).await?;
    assert_eq!(refused.status, 501);
    assert!(refused.payload["message"].is_string());
    Ok(())
}

#[tokio::test]
async fn module_calls_a_method_of_another_module() -> Result<()> {
    let world = World::start().await?;
    let relay = world.connect("relay").await?;
    let camera = shunt_hub::Hub::open(world.options("camera")?);
    echo(&camera);
    super::connected(&camera).await;
    let limits = InvokeLimits { response: Duration::from_secs(5), connect: Duration::ZERO };
    let answer = relay.invoke("camera", "look", &json!({"at": "door"}), limits).await?;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.payload, json!({"name": "look", "payload": {"at": "door"}}));

    let absent = relay.invoke("nobody", "look", &json!(1), limits).await;
    assert!(matches!(absent, Err(InvokeError::NotThere(_))), "{absent:?}");
    let no_methods = camera.invoke("relay", "look", &json!(1), limits).await;
    assert!(matches!(no_methods, Err(InvokeError::NotThere(_))), "{no_methods:?}");

    let too_short = InvokeLimits { response: Duration::from_secs(1), ..limits };
    for refused in [
        relay.invoke("camera", "look", &json!(1), too_short).await,
        relay.invoke("camera", &"x".repeat(101), &json!(1), limits).await,
        relay.invoke("camera", "", &json!(1), limits).await,
        relay.invoke("camera", "look", &json!("x".repeat(131_072)), limits).await,
    ] {
        assert!(matches!(refused, Err(InvokeError::Limit(_))), "{refused:?}");
    }
    Ok(())
}
