//! The client against the stand-in of edgeHub: real sockets, real TLS, real tokens, and faults on request.

#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test ends by a panic")]

mod connecting;
mod inputs;
mod methods;
mod telemetry;
mod twin;
mod workload;

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use shunt_hub::{Hub, HubMessage, HubOptions, HubState};
use shunt_sim::{HubRecord, Sim, SimOptions};
use shunt_testkit::eventually;
use tempfile::TempDir;

/// For anything that should happen soon.
const SOON: Duration = Duration::from_secs(20);
/// Long enough to see that something does not happen.
const WHILE: Duration = Duration::from_millis(300);

/// A device with the modules `relay` and `camera`. Messages of the output `camera` go to camera's input `in one`,
/// others upstream.
struct World {
    sim: Sim,
    _folder: TempDir,
}

impl World {
    async fn start() -> Result<Self> {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut SimOptions)) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut options = SimOptions {
            folder: folder.path().to_owned(),
            method_settle: Duration::ZERO,
            ..SimOptions::default()
        };
        change(&mut options);
        let sim = Sim::start(options).await?;
        sim.deploy(&json!({"modulesContent": {
            "$edgeHub": {"properties.desired": {"schemaVersion": "1.1", "routes": {
                "upstream": "FROM /messages/* WHERE $outputName != 'camera' OR NOT is_defined($outputName) INTO $upstream",
                "camera": "FROM /messages/modules/relay/outputs/camera INTO BrokeredEndpoint(\"/modules/camera/inputs/one\")",
            }, "storeAndForwardConfiguration": {"timeToLiveSecs": 7200}}},
            "relay": {"properties.desired": {"rate": 5, "old": true, "deep": {"a": 1, "b": 2}}},
            "camera": {"properties.desired": {}},
        }}))?;
        anyhow::ensure!(sim.routing_error().is_none(), "{:?}", sim.routing_error());
        Ok(Self { sim, _folder: folder })
    }

    fn options(&self, module: &str) -> Result<HubOptions> {
        let options = HubOptions::from_environment(&self.sim.module_environment(module))?;
        Ok(options.context("no module")?.with_https_port(self.sim.https().port()))
    }

    async fn connect(&self, module: &str) -> Result<Hub> {
        let hub = Hub::open(self.options(module)?);
        connected(&hub).await;
        Ok(hub)
    }

    /// Waits for this many messages at the hub.
    async fn records(&self, count: u64) -> Vec<HubRecord> {
        eventually(SOON, || async { self.sim.message_count() >= count }).await;
        self.sim.messages_from(1, Duration::ZERO).await
    }
}

async fn connected(hub: &Hub) {
    tokio::time::timeout(SOON, hub.state().wait_for(|state| *state == HubState::Connected))
        .await
        .expect("no connection in time")
        .expect("the client lives");
}

/// Waits until there is no connection; the reason.
async fn disconnected(hub: &Hub) -> String {
    let mut states = hub.state();
    let state = tokio::time::timeout(
        SOON,
        states.wait_for(
            |state| matches!(state, HubState::Disconnected(reason) if reason != "not connected yet"),
        ),
    )
    .await
    .expect("still connected")
    .expect("the client lives");
    match &*state {
        HubState::Disconnected(reason) => reason.clone(),
        HubState::Connected => unreachable!(),
    }
}

/// A JSON message with a number in its body.
fn numbered(number: u64) -> HubMessage {
    HubMessage {
        output: Some("telemetry".to_owned()),
        content_type: Some("application/json".to_owned()),
        content_encoding: Some("utf-8".to_owned()),
        body: json!({"n": number}).to_string().into(),
        ..HubMessage::default()
    }
}

/// The numbers that arrived, each at its first arrival.
fn first_arrivals(records: &[HubRecord]) -> Vec<u64> {
    let mut numbers = Vec::new();
    for record in records {
        let number = record.body["n"].as_u64().expect("a number");
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    numbers
}
