//! The bus of the chain: who is let in, what dies without harm, and another bus by one option.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use shunt_bus::{Bus, BusOptions, BusTls, Delivery, PublishError};
use shunt_hub::HubOptions;
use shunt_testkit::{Mosquitto, Redis, eventually};
use shunt_wire::{Envelope, Kind};
use tokio::process::Command;

use crate::chain::{Chain, LIMIT, astronaut, children, kill, nothing_lost, shunt};

/// What the stand-in gives a module to prove itself with.
async fn proof(chain: &Chain, module: &str) -> BusTls {
    let environment = chain.environment(module).await;
    let workload = HubOptions::from_environment(&environment).unwrap().unwrap().workload().unwrap();
    let certificate = workload.identity_certificate().await.unwrap();
    BusTls {
        trust: workload.trust_bundle().await.unwrap(),
        identity: Some((certificate.chain, certificate.private_key)),
    }
}

/// Runs `mosquitto_pub` on the bus of the chain; its exit code and its words. Nothing where it is not installed.
async fn mosquitto_pub(chain: &Chain, folder: &Path, tls: &BusTls, topic: &str) -> Option<(i32, String)> {
    let place = |name: &str, text: &str| {
        let file = folder.join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let note = chain.note().unwrap();
    let port = note["bus"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
    let mut arguments =
        vec!["-h", "localhost", "-p", &port, "-V", "mqttv5", "-q", "1", "-m", "{}", "-t", topic];
    let trust = place("trust.pem", &tls.trust);
    arguments.extend(["--cafile", &trust]);
    let identity = tls.identity.as_ref().map(|(chain, key)| [place("own.pem", chain), place("key.pem", key)]);
    if let Some([own, key]) = &identity {
        arguments.extend(["--cert", own, "--key", key]);
    }
    let program = ["/usr/bin/mosquitto_pub", "/usr/local/bin/mosquitto_pub"].map(PathBuf::from);
    let Some(program) = program.iter().find(|program| program.is_file()) else {
        assert!(std::env::var_os("CI").is_none(), "mosquitto_pub is not installed");
        println!("Skipped: mosquitto_pub is not installed.");
        return None;
    };
    let run = Command::new(program).args(arguments).kill_on_drop(true).output();
    let done = tokio::time::timeout(LIMIT, run).await.expect("it ends").unwrap();
    Some((done.status.code().unwrap(), String::from_utf8_lossy(&done.stderr).into_owned()))
}

/// Is redis-server installed?
fn has_redis() -> bool {
    let installed =
        ["/usr/bin", "/usr/local/bin"].iter().any(|folder| Path::new(folder).join("redis-server").is_file());
    assert!(installed || std::env::var_os("CI").is_none(), "redis-server is not installed");
    if !installed {
        println!("Skipped: redis-server is not installed.");
    }
    installed
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let chain = Chain::start(&["--source", "/dev/null", "--only", "relay"]).await;
    let bus = chain.note().unwrap()["bus"].as_str().unwrap().to_owned();
    assert!(bus.starts_with("mqtts://localhost:"), "{bus}");
    eventually(LIMIT, || async {
        chain.get("relay", "/readyz").await.is_some_and(|(status, _)| status == 200)
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let camera = proof(&chain, "camera").await;
    let anonymous = BusTls { identity: None, ..camera.clone() };
    let Some((code, words)) = mosquitto_pub(&chain, folder.path(), &anonymous, "shunt/frame/door").await
    else {
        return;
    };
    assert_ne!(code, 0, "{words}");
    // The same call with a module's certificate is taken.
    let (code, words) = mosquitto_pub(&chain, folder.path(), &camera, "shunt/frame/door").await.unwrap();
    assert_eq!(code, 0, "{words}");
    assert_eq!(chain.stop().await["lost"], 0);
}

#[tokio::test]
async fn a_command_takes_certificates_of_the_user_s() {
    let chain = Chain::start(&["--source", "/dev/null", "--only", "relay"]).await;
    let bus = chain.note().unwrap()["bus"].as_str().unwrap().to_owned();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name).to_str().unwrap().to_owned()
    };
    let proof = proof(&chain, "sentiment").await;
    let (own, key) = proof.identity.unwrap();
    let (ca, own, key) = (file("ca.pem", &proof.trust), file("own.pem", &own), file("key.pem", &key));
    let tail = ["tail", "--bus", "--kind", "presence", "-n", "1", "--url", &bus, "--ca", &ca];
    let told = shunt(&[&tail[..], &["--cert", &own, "--key", &key]].concat()).await;
    assert!(told.code == Some(0) && told.out.contains("shunt/presence/"), "{told:?}");
    let nobody = shunt(&tail).await;
    assert!(nobody.code == Some(1) && nobody.err.contains("no bus at"), "{nobody:?}");
    let half = shunt(&[&tail[..], &["--cert", &own]].concat()).await;
    assert_eq!(half.code, Some(2), "{half:?}");
    chain.stop().await;
}

#[tokio::test]
async fn a_module_publishes_its_own_kinds_and_not_another_s() {
    let chain = Chain::start(&["--source", "/dev/null", "--only", "relay"]).await;
    let url = chain.note().unwrap()["bus"].as_str().unwrap().to_owned();
    let tls = proof(&chain, "camera").await;
    let options = BusOptions { tls: Some(tls.into()), ..BusOptions::new(url, "camera".parse().unwrap()) };
    let camera = Bus::open(options).unwrap();
    let publish = async |kind: Kind| {
        let event = Envelope::new("1", kind, "door".parse().unwrap(), "2026-11-21T09:00:00Z");
        let event = event.with_json(&json!({"a": 1})).unwrap();
        tokio::time::timeout(LIMIT, camera.publish(event, Delivery::Assured)).await.expect("an answer")
    };
    publish(Kind::FRAME).await.unwrap();
    let refused = publish(Kind::EMOTION).await.unwrap_err();
    assert!(matches!(refused, PublishError::Refused(_)), "{refused}");
    assert_eq!(chain.stop().await["events_at_hub"], 0);
}

#[tokio::test]
async fn several_commands_share_the_bus() {
    let Some(pictures) = astronaut() else { return };
    let chain = Chain::on_pictures(pictures.path(), &[]).await;
    chain.more_at_hub(1).await;
    let tail = ["tail", "--bus", "--kind", "frame", "-n", "20", "--json"];
    let (one, two) = tokio::join!(chain.shunt(&tail), chain.shunt(&tail));
    for printed in [one, two] {
        assert_eq!((printed.code, printed.out.lines().count()), (Some(0), 20), "{printed:?}");
    }
    nothing_lost(&chain.stop().await);
}

#[tokio::test]
async fn a_broker_killed_under_its_supervisor_comes_back_and_nothing_is_lost() {
    let Some(pictures) = astronaut() else { return };
    let chain = Chain::on_pictures(pictures.path(), &[]).await;
    chain.more_at_hub(5).await;
    let supervisor = chain.pid("bus").unwrap();
    let before = children(supervisor);
    let [broker] = before[..] else { panic!("the bus has one broker: {before:?}") };
    kill(broker);
    eventually(LIMIT, || async { matches!(children(supervisor)[..], [other] if other != broker) }).await;
    chain.more_at_hub(5).await;
    let report = chain.stop().await;
    nothing_lost(&report);
    assert_eq!(report["restarts"], json!({}), "the supervisor and the modules went on: {report}");
}

#[tokio::test]
async fn every_emotion_told_reaches_the_hub_over_redis_too() {
    let Some(pictures) = astronaut() else { return };
    if !has_redis() {
        return;
    }
    let chain = Chain::on_pictures(pictures.path(), &["--bus", "redis"]).await;
    chain.more_at_hub(20).await;
    let pids = chain.pids();
    assert!(pids.contains_key("redis") && !pids.contains_key("bus"), "{pids:?}");
    let event = chain.shunt(&["tail", "--bus", "--kind", "emotion", "-n", "1", "--json"]).await;
    let event: Value = serde_json::from_str(&event.out).unwrap();
    assert_eq!(event["source"], "shunt/front-door", "{event}");
    let report = chain.stop().await;
    nothing_lost(&report);
    assert_eq!(report["events_at_hub"], report["emotions"], "{report}");
    assert_eq!(report["restarts"], json!({}), "{report}");
}

#[tokio::test]
async fn the_bridge_copies_from_the_bus_of_the_chain_to_redis() {
    if !has_redis() {
        return;
    }
    let redis = Redis::start().await.unwrap();
    let chain = Chain::start(&["--source", "/dev/null", "--only", "relay"]).await;
    let url = redis.url();
    let bridge = ["bridge", "--to", &url, "shunt/label/# -> labels:*", "--for", "8s", "--json"];
    let bridged = chain.shunt(&bridge);
    let publish = async {
        loop {
            let sent = chain.shunt(&["publish", "label", "by-hand", "{}", "--fast"]).await;
            assert_eq!(sent.code, Some(0), "{sent:?}");
        }
    };
    let printed = tokio::select! {
        printed = bridged => printed,
        () = publish => unreachable!("it publishes until the bridge ends"),
    };
    let counters: Value = serde_json::from_str(printed.out.trim()).unwrap_or_else(|_| panic!("{printed:?}"));
    assert!(counters["copied"].as_u64().unwrap() > 0, "{printed:?}");
    chain.stop().await;
}

#[tokio::test]
async fn a_manifest_without_our_bus_names_its_own_broker() {
    let broker = Mosquitto::start().await.unwrap();
    let expanded = shunt(&["manifest", "expand", "deployment.template.json"]).await;
    let mut manifest: Value = serde_json::from_str(&expanded.out).unwrap();
    let modules = "/modulesContent/$edgeAgent/properties.desired/modules";
    let modules = manifest.pointer_mut(modules).and_then(Value::as_object_mut).unwrap();
    modules.remove("bus");
    modules["relay"]["env"]["SHUNT_BUS_URL"] = json!({"value": broker.url()});
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deployment.json");
    std::fs::write(&file, manifest.to_string()).unwrap();
    let arguments = ["--manifest", file.to_str().unwrap(), "--source", "/dev/null", "--only", "relay"];
    let chain = Chain::start(&arguments).await;
    let relay = || async { chain.get("relay", "/readyz").await.is_some_and(|(status, _)| status == 200) };
    eventually(LIMIT, relay).await;
    assert_eq!(chain.pids().keys().collect::<Vec<_>>(), ["relay", "sim"]);
    // The relay may subscribe later than we publish, so publish until one is seen.
    eventually(LIMIT, || async {
        let sent = chain.shunt(&["publish", "emotion", "by-hand", "{}"]).await;
        assert_eq!(sent.code, Some(0), "{sent:?}");
        chain.at_hub().await > 0
    })
    .await;
    assert_eq!(chain.stop().await["lost"], 0);
}
