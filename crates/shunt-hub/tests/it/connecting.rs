use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use shunt_hub::{Hub, HubOptions, SendError};
use shunt_sim::{Fault, Sim, SimOptions};
use shunt_testkit::{Line, eventually};

use super::{SOON, World, connected, disconnected, first_arrivals, numbered};

#[tokio::test]
async fn module_connects_with_the_variables_of_the_simulator() -> Result<()> {
    let world = World::start().await?;
    let environment: BTreeMap<String, String> = [
        ("EdgeHubConnectionString", world.sim.module_connection_string("relay")),
        ("EdgeModuleCACertificateFile", world.sim.ca_file().display().to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let hub = Hub::open(HubOptions::from_environment(&environment)?.context("no identity")?);
    hub.send(numbered(1)).await?;
    let records = world.records(1).await;
    assert_eq!(records[0].module.as_deref(), Some("relay"));
    Ok(())
}

#[tokio::test]
async fn module_connects_with_a_model_and_without_a_client_certificate() -> Result<()> {
    let world = World::start().await?;
    let hub = Hub::open(world.options("relay")?.with_model_id("dtmi:shunt:relay;1"));
    connected(&hub).await;
    Ok(())
}

#[tokio::test]
async fn device_connects_with_its_connection_string() -> Result<()> {
    let world = World::start().await?;
    let text = world.sim.add_device("leaf")?;
    let options =
        HubOptions::from_connection_string(&text)?.with_trusted_certificates(world.sim.ca_bundle())?;
    let hub = Hub::open(options);
    hub.send(numbered(1)).await?;
    let records = world.records(1).await;
    assert_eq!((records[0].device.as_str(), records[0].module.as_deref()), ("leaf", None));
    Ok(())
}

#[tokio::test]
async fn hub_of_another_authority_is_refused() -> Result<()> {
    let world = World::start().await?;
    let other_folder = tempfile::tempdir()?;
    let other =
        Sim::start(SimOptions { folder: other_folder.path().to_owned(), ..SimOptions::default() }).await?;
    let options = HubOptions::from_connection_string(&world.sim.module_connection_string("relay"))?;
    let hub = Hub::open(options.clone().with_trusted_certificates(other.ca_bundle())?);
    let reason = disconnected(&hub).await;
    assert!(reason.contains("certificate"), "{reason}");
    assert!(!world.sim.is_connected("relay"));

    // The certificates of this machine do not vouch for it either.
    let reason = disconnected(&Hub::open(options)).await;
    assert!(reason.contains("certificate"), "{reason}");
    Ok(())
}

#[tokio::test]
async fn refused_token_is_told_and_tried_again() -> Result<()> {
    let world = World::start().await?;
    world.sim.fault(&Fault::RefuseTokens { refuse: true });
    let hub = Hub::open(world.options("relay")?);
    let reason = disconnected(&hub).await;
    assert!(reason.contains("not authorized"), "{reason}");
    world.sim.fault(&Fault::RefuseTokens { refuse: false });
    connected(&hub).await;
    assert_eq!(hub.counters().reconnects, 0, "the first connection is no reconnect");
    Ok(())
}

#[tokio::test]
async fn unavailable_hub_is_told_and_tried_again() -> Result<()> {
    let world = World::start().await?;
    world.sim.fault(&Fault::RefuseConnections { code: 3, count: 2 });
    let hub = Hub::open(world.options("relay")?);
    let reason = disconnected(&hub).await;
    assert!(reason.contains("not available"), "{reason}");
    connected(&hub).await;
    Ok(())
}

#[tokio::test]
async fn refusal_of_the_workload_api_is_told_and_tried_again() -> Result<()> {
    let world = World::start().await?;
    world.sim.fault(&Fault::AnswerSign { status: 403, count: 1 });
    let hub = Hub::open(world.options("relay")?);
    let reason = disconnected(&hub).await;
    assert!(reason.contains("workload api refused sign: 403"), "{reason}");
    connected(&hub).await;
    Ok(())
}

#[tokio::test]
async fn missing_workload_socket_is_named() -> Result<()> {
    let world = World::start().await?;
    let options = world.options("relay")?;
    std::fs::remove_file(world.sim.workload_socket("relay"))?;
    let reason = disconnected(&Hub::open(options)).await;
    assert!(reason.contains(".sock does not answer"), "{reason}");
    Ok(())
}

#[tokio::test]
async fn hub_that_is_not_there_yet_is_waited_for() -> Result<()> {
    let world = World::start().await?;
    let line = Line::to(world.sim.mqtt()).await?;
    line.cut();
    let mut environment = world.sim.module_environment("relay");
    environment.insert("IOTEDGE_GATEWAYHOSTNAME".into(), format!("localhost:{}", line.addr().port()));
    let hub = Hub::open(HubOptions::from_environment(&environment)?.context("no identity")?);
    let reason = disconnected(&hub).await;
    assert!(reason.contains("localhost:"), "{reason}");
    line.heal();
    hub.send(numbered(1)).await?;
    Ok(())
}

#[tokio::test]
async fn token_is_renewed_as_planned_and_no_message_is_lost_or_sent_twice() -> Result<()> {
    let world = World::with(|options| options.token_check_interval = Duration::from_millis(50)).await?;
    let hub = Hub::open(world.options("relay")?.with_token_lifetime(Duration::from_secs(2)));
    connected(&hub).await;
    let mut states = hub.state();
    states.mark_unchanged();
    let mut sent = 0;
    // Long enough that the hub would have ended the first connection.
    while hub.counters().renewals < 2 {
        sent += 1;
        tokio::time::timeout(SOON, hub.send(numbered(sent))).await??;
    }
    assert_eq!(hub.counters().reconnects, 0, "a renewal is no fault");
    assert!(!states.has_changed()?, "nobody is told of a renewal");
    // Each arrived at least once, or its send would not have ended; so each arrived exactly once.
    assert_eq!(world.sim.message_count(), sent);
    assert_eq!(hub.counters().acknowledged, sent);
    Ok(())
}

#[tokio::test]
async fn token_that_cannot_be_renewed_at_once_is_renewed_later() -> Result<()> {
    let world = World::start().await?;
    let hub = Hub::open(world.options("relay")?.with_token_lifetime(Duration::from_secs(4)));
    connected(&hub).await;
    world.sim.fault(&Fault::AnswerSign { status: 500, count: 1 });
    eventually(SOON, || async { hub.counters().renewals > 0 }).await;
    assert_eq!(hub.counters().reconnects, 0);
    Ok(())
}

#[tokio::test]
async fn connection_that_the_hub_ends_comes_back() -> Result<()> {
    let world = World::start().await?;
    world.sim.fault(&Fault::ExpireTokens { after_ms: Some(200) });
    let hub = world.connect("relay").await?;
    disconnected(&hub).await;
    world.sim.fault(&Fault::ExpireTokens { after_ms: None });
    hub.send(numbered(1)).await?;
    assert!(hub.counters().reconnects >= 1);
    assert_eq!(hub.counters().renewals, 0);
    Ok(())
}

#[tokio::test]
async fn restart_of_the_hub_loses_nothing() -> Result<()> {
    let world = World::start().await?;
    let hub = world.connect("relay").await?;
    let mut sending = tokio::task::JoinSet::new();
    for number in 1..=40 {
        let hub = hub.clone();
        sending.spawn(async move { hub.send(numbered(number)).await });
        if number == 20 {
            world.sim.fault(&Fault::Restart { pause_ms: 300 });
        }
    }
    let all = async {
        while let Some(sent) = sending.join_next().await {
            sent??;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(SOON, all).await??;
    let mut numbers = first_arrivals(&world.records(40).await);
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=40).collect::<Vec<_>>());
    assert!(hub.counters().reconnects >= 1);
    assert_eq!(hub.counters().acknowledged, 40);
    Ok(())
}

#[tokio::test]
async fn line_that_swallows_everything_is_noticed_by_the_missing_ping() -> Result<()> {
    let world = World::start().await?;
    let line = Line::to(world.sim.mqtt()).await?;
    let mut environment = world.sim.module_environment("relay");
    environment.insert("IOTEDGE_GATEWAYHOSTNAME".into(), format!("localhost:{}", line.addr().port()));
    let options = HubOptions::from_environment(&environment)?.context("no identity")?;
    let hub = Hub::open(options.with_keep_alive(Duration::from_secs(2)));
    connected(&hub).await;
    line.freeze();
    let reason = disconnected(&hub).await;
    assert!(reason.contains("ping"), "{reason}");
    line.heal();
    hub.send(numbered(1)).await?;
    Ok(())
}

#[tokio::test]
async fn quiet_connection_stays_open_by_its_pings() -> Result<()> {
    let world = World::start().await?;
    let hub = Hub::open(world.options("relay")?.with_keep_alive(Duration::from_secs(2)));
    connected(&hub).await;
    // The hub closes after one and a half of the keep-alive time.
    let mut states = hub.state();
    states.mark_unchanged();
    assert!(tokio::time::timeout(Duration::from_secs(4), states.changed()).await.is_err());
    assert!(world.sim.is_connected("relay"));
    Ok(())
}

#[tokio::test]
async fn handle_that_is_dropped_ends_the_connection() -> Result<()> {
    let world = World::start().await?;
    let hub = world.connect("relay").await?;
    let other = hub.clone();
    drop(hub);
    other.send(numbered(1)).await?;
    drop(other);
    eventually(SOON, || async { !world.sim.is_connected("relay") }).await;
    Ok(())
}

#[tokio::test]
async fn closing_waits_for_open_acknowledgements() -> Result<()> {
    let world = World::start().await?;
    let hub = world.connect("relay").await?;
    world.sim.fault(&Fault::DelayAcknowledgements { milliseconds: 300 });
    let sending = tokio::spawn({
        let hub = hub.clone();
        async move { hub.send(numbered(1)).await }
    });
    eventually(SOON, || async { world.sim.message_count() == 1 }).await;
    hub.close(SOON).await;
    sending.await??;
    assert_eq!(hub.counters().acknowledged, 1);
    assert!(matches!(hub.send(numbered(2)).await, Err(SendError::Closed)));
    assert!(hub.report(&serde_json::Map::new()).await.is_err());
    eventually(SOON, || async { !world.sim.is_connected("relay") }).await;
    hub.close(SOON).await;
    Ok(())
}

#[tokio::test]
async fn closing_gives_up_at_its_limit() -> Result<()> {
    let world = World::start().await?;
    world.sim.fault(&Fault::RefuseTokens { refuse: true });
    let hub = Hub::open(world.options("relay")?);
    let sending = tokio::spawn({
        let hub = hub.clone();
        async move { hub.send(numbered(1)).await }
    });
    disconnected(&hub).await;
    let began = std::time::Instant::now();
    hub.close(Duration::from_millis(200)).await;
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(matches!(sending.await?, Err(SendError::Closed)));
    Ok(())
}
