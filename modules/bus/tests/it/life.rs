//! From the start of the module to its end.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use shunt_bus::{Bus, BusOptions, Delivery, PublishError};
use shunt_sim::SimOptions;
use shunt_testkit::{eventually, fresh_address};
use shunt_wire::{Kind, Name};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::support::{Device, LIMIT, connected, publish, subscribe, take};

/// The broker of a device, found by the port in its configuration.
fn broker_of(port: u16) -> Option<Pid> {
    let listener = format!("listener {port} ");
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let command = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        let mut words = command.split('\0');
        words.next().filter(|program| program.ends_with("mosquitto"))?;
        let configuration = PathBuf::from(words.find(|word| word.ends_with("/mosquitto.conf"))?);
        let text = std::fs::read_to_string(configuration).ok()?;
        text.contains(&listener).then(|| Pid::from_raw(pid)).flatten()
    })
}

/// Waits until the reported twin says this of a field.
async fn reported(device: &Device, field: &str, wanted: impl Fn(&Value) -> bool) {
    let met = eventually(LIMIT, || async {
        let twin = device.sim.twin("bus").unwrap_or_default();
        twin.pointer(&format!("/properties/reported/{field}")).is_some_and(&wanted)
    });
    met.await;
}

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
    device.metric("shunt_bus_broker_clients", |clients| (3.5..4.5).contains(&clients)).await?;
    device.metric("shunt_bus_broker_received_messages_total", |count| count >= 20.0).await?;
    device.metric("shunt_bus_certificate_expiry_timestamp_seconds", |seconds| seconds > 1.7e9).await?;
    let page = device.wait_for("/healthz", |status, _| status == 200).await?;
    assert!(!page.is_empty());
    shunt_module::check_page(&device.wait_for("/metrics", |status, _| status == 200).await?).unwrap();
    assert_eq!(device.end().await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_killed_broker_comes_back_and_its_clients_with_it() -> anyhow::Result<()> {
    let device = Device::start(&[]).await?;
    let (emotion, relay) = (device.module("emotion").await?, device.module("relay").await?);
    let mut events = subscribe(&relay, &Kind::EMOTION).await?;
    publish(&emotion, &Kind::EMOTION, "front-door", 1).await?;
    assert_eq!(take(&mut events).await?, "1");
    kill_process(broker_of(device.broker.port()).context("there is no broker")?, Signal::KILL)?;
    // Waits through the break.
    publish(&emotion, &Kind::EMOTION, "front-door", 2).await?;
    eventually(LIMIT, || async { relay.counters().reconnects == 1 && emotion.counters().reconnects == 1 })
        .await;
    // The broker kept nothing: what came before relay was back has gone to nobody.
    publish(&emotion, &Kind::EMOTION, "front-door", 3).await?;
    loop {
        if take(&mut events).await? == "3" {
            break;
        }
    }
    device.metric("shunt_bus_broker_restarts_total", |count| (0.5..1.5).contains(&count)).await?;
    device.ready().await
}

#[tokio::test]
async fn what_a_module_may_publish_changes_by_twin_while_clients_stay() -> anyhow::Result<()> {
    let device = Device::start(&[]).await?;
    let (airq, relay) = (device.module("airq").await?, device.module("relay").await?);
    let mut events = subscribe(&relay, &Kind::LABEL).await?;
    assert!(matches!(publish(&airq, &Kind::LABEL, "air", 1).await, Err(PublishError::Refused(_))));

    device.sim.patch_desired("bus", &json!({"modules": {"airq": {"publish": ["label"]}}}))?;
    reported(&device, "modules", |field| field["ac"] == 200).await;
    eventually(LIMIT, || async { publish(&airq, &Kind::LABEL, "air", 2).await.is_ok() }).await;
    assert_eq!(take(&mut events).await?, "2");
    assert!(matches!(publish(&airq, &Kind::FACE, "air", 3).await, Err(PublishError::Refused(_))));

    // One bad entry: nothing of it is taken, and the answer names it.
    device.sim.patch_desired("bus", &json!({"modules": {"airq": {"publish": ["label\ntopic write #"]}}}))?;
    reported(&device, "modules", |field| {
        field["ac"] == 400 && field["ad"].as_str().is_some_and(|text| text.contains("airq.publish"))
    })
    .await;
    publish(&airq, &Kind::LABEL, "air", 4).await?;
    assert_eq!(take(&mut events).await?, "4");

    device.sim.patch_desired("bus", &json!({"modules": null}))?;
    eventually(LIMIT, || async { publish(&airq, &Kind::LABEL, "air", 5).await.is_err() }).await;
    device.metric("shunt_bus_broker_reloads_total", |count| count >= 2.0).await?;
    device.metric("shunt_bus_broker_restarts_total", |count| count == 0.0).await?;
    assert_eq!((airq.counters().reconnects, relay.counters().reconnects), (0, 0));
    Ok(())
}

#[tokio::test]
async fn a_port_that_cannot_be_taken_is_refused_and_the_bus_lives_on() -> anyhow::Result<()> {
    let device = Device::start(&[]).await?;
    let (emotion, relay) = (device.module("emotion").await?, device.module("relay").await?);
    let mut events = subscribe(&relay, &Kind::EMOTION).await?;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    device.sim.patch_desired(
        "bus",
        &json!({"plain_port": taken.local_addr()?.port(), "plain": {"subscribe": ["shunt/#"]}}),
    )?;
    reported(&device, "plain_port", |field| {
        field["ac"] == 400 && field["ad"].as_str().is_some_and(|text| text.contains("mosquitto"))
    })
    .await;
    publish(&emotion, &Kind::EMOTION, "front-door", 1).await?;
    eventually(LIMIT, || async { relay.counters().reconnects >= 1 }).await;
    publish(&emotion, &Kind::EMOTION, "front-door", 2).await?;
    loop {
        if take(&mut events).await? == "2" {
            break;
        }
    }
    device.ready().await
}

#[tokio::test]
async fn settings_are_tried_also_while_the_broker_waits_to_be_started() -> anyhow::Result<()> {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let device = Device::begun(
        SimOptions::default(),
        &[
            ("SHUNT_BUS_PLAIN_PORT", &taken.local_addr()?.port().to_string()),
            ("SHUNT_BUS_PLAIN", r#"{"subscribe": ["shunt/#"]}"#),
        ],
    )
    .await?;
    device.wait_for("/readyz", |status, page| status == 503 && page.contains("mosquitto")).await?;
    device.sim.patch_desired("bus", &json!({"max_connections": 99}))?;
    reported(&device, "max_connections", |field| {
        field["ac"] == 400 && field["ad"].as_str().is_some_and(|text| text.contains("mosquitto"))
    })
    .await;
    device.sim.patch_desired("bus", &json!({"plain_port": fresh_address()?.port()}))?;
    reported(&device, "plain_port", |field| field["ac"] == 200).await;
    device.ready().await?;
    device.module("relay").await.map(drop)
}

#[tokio::test]
async fn settings_that_cannot_be_written_cut_nobody_off() -> anyhow::Result<()> {
    let device = Device::start(&[]).await?;
    let (emotion, relay) = (device.module("emotion").await?, device.module("relay").await?);
    let mut events = subscribe(&relay, &Kind::EMOTION).await?;
    let broker = broker_of(device.broker.port()).context("there is no broker")?;
    let words = std::fs::read_to_string(format!("/proc/{}/cmdline", broker.as_raw_nonzero()))?;
    let configuration = words.split('\0').find(|word| word.ends_with("/mosquitto.conf"));
    // Where a file is to be written, there is a folder.
    let in_the_way = PathBuf::from(configuration.context("no configuration")?).with_file_name("access.new");
    std::fs::create_dir(&in_the_way)?;
    let label = json!({"modules": {"emotion": {"publish": ["emotion", "label"]}}});
    device.sim.patch_desired("bus", &label)?;
    reported(&device, "modules", |field| {
        field["ac"] == 400 && field["ad"].as_str().is_some_and(|text| text.contains("cannot write"))
    })
    .await;
    publish(&emotion, &Kind::EMOTION, "front-door", 1).await?;
    assert_eq!(take(&mut events).await?, "1");
    assert_eq!((emotion.counters().reconnects, relay.counters().reconnects), (0, 0));
    assert_eq!(broker_of(device.broker.port()), Some(broker));
    std::fs::remove_dir(in_the_way)?;
    device.sim.patch_desired("bus", &json!({"modules": {"emotion": {"publish": ["emotion", "face"]}}}))?;
    reported(&device, "modules", |field| field["ac"] == 200).await;
    device.ready().await
}

#[tokio::test]
async fn the_certificate_is_renewed_before_it_runs_out_while_clients_stay() -> anyhow::Result<()> {
    let certificate_lifetime = Duration::from_secs(8);
    let device = Device::with(SimOptions { certificate_lifetime, ..SimOptions::default() }, &[]).await?;
    // The others' live longer.
    device.sim.set_certificate_lifetime(Duration::from_hours(1));
    let (emotion, relay) = (device.module("emotion").await?, device.module("relay").await?);
    let mut events = subscribe(&relay, &Kind::EMOTION).await?;
    let name = "shunt_bus_certificate_expiry_timestamp_seconds";
    let first = device.metric(name, |seconds| seconds > 0.0).await?;
    // The next one is good for an hour.
    device.metric(name, |seconds| seconds > first + 3000.0).await?;
    device.metric("shunt_bus_broker_reloads_total", |count| count >= 1.0).await?;
    publish(&emotion, &Kind::EMOTION, "front-door", 1).await?;
    assert_eq!(take(&mut events).await?, "1");
    assert_eq!((emotion.counters().reconnects, relay.counters().reconnects), (0, 0));
    // New connections see the new one, also when the old one has run out.
    let served = || async {
        let expiry = served_expiry(&device).await.unwrap();
        expiry as f64 > first + 3000.0
    };
    eventually(LIMIT, served).await;
    device.metric("shunt_bus_broker_restarts_total", |count| count == 0.0).await?;
    Ok(())
}

/// When the certificate runs out that the broker shows now, in seconds since 1970.
async fn served_expiry(device: &Device) -> anyhow::Result<i64> {
    let tls = device.raw_tls(Some(&device.tls("camera").await?))?;
    let stream = TcpStream::connect(device.broker).await?;
    let name = rustls::pki_types::ServerName::try_from("localhost")?;
    let stream = tokio_rustls::TlsConnector::from(tls).connect(name, stream).await?;
    let chain = stream.get_ref().1.peer_certificates().context("no certificate")?;
    let (_, certificate) = x509_parser::parse_x509_certificate(chain.first().context("no certificate")?)?;
    Ok(certificate.validity().not_after.timestamp())
}

#[tokio::test]
async fn the_broker_is_the_last_to_go() -> anyhow::Result<()> {
    let mut device = Device::start(&[]).await?;
    let relay = device.module("relay").await?;
    let mut presence = subscribe(&relay, &Kind::PRESENCE).await?;
    let end = device.end();
    let goodbye = async {
        loop {
            let received = timeout(LIMIT, presence.next()).await?.context("the bus was closed")?;
            received.ack.ack();
            let told = received.envelope?;
            if told.source.as_str() == "bus" && received.payload.windows(5).any(|part| part == b"false") {
                return anyhow::Ok(());
            }
        }
    };
    let (code, goodbye) = tokio::join!(end, goodbye);
    goodbye?;
    assert_eq!(code?, 0);
    assert!(broker_of(device.broker.port()).is_none(), "the broker goes on");
    Ok(())
}

#[tokio::test]
async fn what_was_not_acknowledged_survives_a_restart_where_persistence_is_on() -> anyhow::Result<()> {
    let mut device = Device::start(&[("SHUNT_BUS_PERSISTENCE", "true")]).await?;
    let (emotion, relay) = (device.module("emotion").await?, device.module("relay").await?);
    drop(subscribe(&relay, &Kind::EMOTION).await?);
    relay.close(LIMIT).await;
    publish(&emotion, &Kind::EMOTION, "front-door", 1).await?;
    assert_eq!(device.end().await?, 0);
    device.begin();
    device.ready().await?;
    let relay = device.module("relay").await?;
    let mut events = subscribe(&relay, &Kind::EMOTION).await?;
    assert_eq!(take(&mut events).await?, "1");
    Ok(())
}

#[tokio::test]
async fn without_iot_edge_the_module_says_so_and_ends_with_78() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let environment = BTreeMap::from([
        ("SHUNT_BUS_URL".to_owned(), "memory:no-edge".to_owned()),
        ("SHUNT_HTTP_LISTEN".to_owned(), fresh_address()?.to_string()),
        ("SHUNT_DATA_DIR".to_owned(), folder.path().display().to_string()),
    ]);
    let life = shunt_module::live(
        &environment,
        std::future::pending(),
        |context: shunt_module::Context<bus::BusSettings>| bus::run(context),
    );
    assert_eq!(timeout(LIMIT, life).await?, 78);
    Ok(())
}

#[tokio::test]
async fn a_plain_port_is_there_only_where_it_is_asked_for_and_does_what_is_granted() -> anyhow::Result<()> {
    let plain = fresh_address()?;
    let port = plain.port().to_string();
    let device = Device::start(&[
        ("SHUNT_BUS_PLAIN_PORT", &port),
        ("SHUNT_BUS_PLAIN", r#"{"publish": ["text"], "subscribe": ["shunt/text/#"]}"#),
    ])
    .await?;
    let options = BusOptions::new(format!("mqtt://{plain}"), Name::from_static("leaf"));
    let leaf = Bus::open(options)?;
    connected(&leaf).await?;
    let relay = device.module("relay").await?;
    let mut texts = subscribe(&relay, &Kind::TEXT).await?;
    publish(&leaf, &Kind::TEXT, "leaf", 1).await?;
    assert_eq!(take(&mut texts).await?, "1");
    assert!(matches!(publish(&leaf, &Kind::EMOTION, "leaf", 2).await, Err(PublishError::Refused(_))));
    assert!(matches!(publish(&leaf, &Kind::PRESENCE, "leaf", 2).await, Err(PublishError::Refused(_))));
    // A user name proves nothing here, and changes nothing.
    let mut named = TcpStream::connect(plain).await?;
    named.write_all(b"\x10\x17\x00\x04MQTT\x05\x82\x00\x3c\x00\x00\x05named\x00\x03who").await?;
    // On shunt/text/a, QoS 1, number 7.
    named.write_all(b"\x32\x13\x00\x0cshunt/text/a\x00\x07\x00xx").await?;
    let acknowledged = async {
        let mut answers = Vec::new();
        while !answers.windows(4).any(|part| part == b"\x40\x02\x00\x07") {
            let read = named.read_buf(&mut answers).await?;
            anyhow::ensure!(read != 0 && answers.len() < 1000, "{answers:02x?}");
        }
        Ok(())
    };
    timeout(LIMIT, acknowledged).await??;
    Ok(())
}

/// A broker without TLS, for a machine without IoT Edge, as a process of its own.
struct Alone {
    child: tokio::process::Child,
    port: u16,
    _folder: tempfile::TempDir,
}

async fn alone() -> anyhow::Result<Alone> {
    let (plain, http, folder) = (fresh_address()?, fresh_address()?, tempfile::tempdir()?);
    let child = tokio::process::Command::new(env!("CARGO_BIN_EXE_bus"))
        .env_clear()
        .env("SHUNT_BUS_URL", format!("mqtt://{plain}"))
        .env("SHUNT_BUS_TLS_PORT", "0")
        .env("SHUNT_BUS_PLAIN_PORT", plain.port().to_string())
        .env("SHUNT_BUS_PLAIN", r##"{"publish": ["#"], "subscribe": ["shunt/#"]}"##)
        .env("SHUNT_HTTP_LISTEN", http.to_string())
        .env("SHUNT_DATA_DIR", folder.path())
        .kill_on_drop(true)
        .spawn()?;
    let port = plain.port();
    let bus = Bus::open(BusOptions::new(format!("mqtt://127.0.0.1:{port}"), Name::from_static("camera")))?;
    connected(&bus).await?;
    let mut frames = subscribe(&bus, &Kind::FRAME).await?;
    publish(&bus, &Kind::FRAME, "front-door", 1).await?;
    assert_eq!(take(&mut frames).await?, "1");
    bus.publish(crate::support::event(&Kind::FRAME, "front-door", 2), Delivery::Fast).await?;
    Ok(Alone { child, port, _folder: folder })
}

#[tokio::test]
async fn without_iot_edge_a_plain_broker_is_there_where_it_is_asked_for() -> anyhow::Result<()> {
    let mut alone = alone().await?;
    let pid = alone.child.id().and_then(|id| Pid::from_raw(id.cast_signed())).context("it ended at once")?;
    kill_process(pid, Signal::TERM)?;
    assert_eq!(timeout(LIMIT, alone.child.wait()).await??.code(), Some(0));
    assert!(broker_of(alone.port).is_none(), "the broker goes on");
    Ok(())
}

#[tokio::test]
async fn a_broker_does_not_outlive_its_supervisor() -> anyhow::Result<()> {
    let mut alone = alone().await?;
    assert!(broker_of(alone.port).is_some());
    alone.child.kill().await?;
    eventually(LIMIT, || async { TcpStream::connect(("127.0.0.1", alone.port)).await.is_err() }).await;
    Ok(())
}
