//! The relay as a process of its own.

use std::{collections::BTreeMap, net::SocketAddr, process::Stdio, sync::Arc};

use shunt_sim::Fault;
use shunt_testkit::{Mosquitto, eventually, fresh_address};
use tokio::{
    process::{Child, Command},
    sync::Semaphore,
    time::timeout,
};

use crate::rig::{PATIENCE, all_at_hub, at_hub, client, environment, page, publish, sim, status, total};

fn spawn(variables: &BTreeMap<String, String>) -> Child {
    Command::new(env!("CARGO_BIN_EXE_relay"))
        .env_clear()
        .envs(variables)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// What it has accepted; nothing while it is not there.
async fn accepted(http: SocketAddr) -> u64 {
    if page(http, "/healthz").await.is_none() { 0 } else { total(&status(http).await["accepted"]) }
}

/// Killed four times in the middle of 1,000 events, with PUBACKs withheld and the hub restarted.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_process_is_killed_at_any_moment() {
    let folder = tempfile::tempdir().unwrap();
    let sim = sim(folder.path()).await;
    let broker = Mosquitto::start().await.unwrap();
    let http = fresh_address().unwrap();
    let mut variables =
        environment(folder.path(), &broker.url(), Some(&sim), &[("SHUNT_LOG_FORMAT", "json")]);
    variables.insert("SHUNT_HTTP_LISTEN".to_owned(), http.to_string());

    let bus = client(&broker.url(), "camera");
    let mut process = spawn(&variables);
    eventually(PATIENCE, || async {
        publish(&bus, 0..=0).await;
        accepted(http).await > 0
    })
    .await;
    // The events come in portions, so that each kill falls into the middle of one.
    let portions = Arc::new(Semaphore::new(0));
    let publisher = tokio::spawn({
        let portions = Arc::clone(&portions);
        async move {
            for number in 1..=1_000 {
                portions.acquire().await.unwrap().forget();
                publish(&bus, number..=number).await;
            }
        }
    });
    for round in 0..4 {
        if round == 1 {
            sim.fault(&Fault::WithholdAcknowledgements { module: None, count: 40, stored: round % 2 == 0 });
        }
        if round == 2 {
            sim.fault(&Fault::Restart { pause_ms: 200 });
        }
        portions.add_permits(125);
        eventually(PATIENCE, || async { accepted(http).await > 30 }).await;
        portions.add_permits(125);
        process.kill().await.unwrap();
        process = spawn(&variables);
    }
    publisher.await.unwrap();
    sim.fault(&Fault::Clear);
    sim.fault(&Fault::DropConnection { module: None });
    all_at_hub(&sim, 1..=1_000).await;
    let (_, ledger) = at_hub(&sim).await;
    println!("{} events came more than once, as is allowed", ledger.repeated());
    eventually(PATIENCE, || async {
        page(http, "/healthz").await.is_some() && status(http).await["queued"] == 0
    })
    .await;

    // SIGTERM: it drains and ends with 0.
    let id = rustix::process::Pid::from_raw(process.id().unwrap() as i32).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    let output = timeout(PATIENCE, process.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("SIGTERM") && log.contains("All work is finished."), "{log}");
    for line in log.lines() {
        serde_json::from_str::<serde_json::Value>(line).expect(line);
    }
    sim.stop().await;
}

#[tokio::test]
async fn unusable_settings_are_all_named_and_the_exit_code_is_78() {
    let folder = tempfile::tempdir().unwrap();
    let kinds = r#"{"emotion": {"max_per_s": -1}, "no good": {}}"#;
    let variables = environment(
        folder.path(),
        "smoke-signals",
        None,
        &[
            ("SHUNT_RELAY_KINDS", kinds),
            ("SHUNT_RELAY_MAX_QUEUE_EVENTS", "many"),
            ("SHUNT_RELAY_OUTPUTS", "x"),
            ("SHUNT_LOG_FORMAT", "human"),
        ],
    );
    let output = timeout(PATIENCE, spawn(&variables).wait_with_output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let log = String::from_utf8(output.stderr).unwrap();
    for said in [
        "SHUNT_RELAY_KINDS",
        "it is -1, but must be more than 0",
        "SHUNT_RELAY_MAX_QUEUE_EVENTS",
        "SHUNT_RELAY_OUTPUTS",
        "allowed are kinds, max_queue_events, max_queue_bytes, output",
        "SHUNT_BUS_URL",
        "smoke-signals",
    ] {
        assert!(log.contains(said), "{said:?} is missing in:\n{log}");
    }
}
