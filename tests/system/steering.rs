//! The cloud's part: twins, methods, deployments, and events of one's own.

use serde_json::{Value, json};
use shunt_testkit::{eventually, repo_root};

use crate::chain::{Chain, LIMIT, astronaut, shunt, turn};

#[tokio::test]
async fn a_twin_change_takes_effect_and_a_wrong_one_is_refused_by_field() {
    let Some(pictures) = astronaut() else { return };
    let chain = Chain::on_pictures(pictures.path(), &[]).await;
    chain.more_at_hub(1).await;

    let set = chain.shunt(&["twin", "set", "camera", "fps=2", "name=\"back-door\""]).await;
    assert_eq!(set.code, Some(0), "{set:?}");
    assert!(set.out.contains("fps: in force 2"), "{set:?}");
    let seen = chain.shunt(&["tail", "--json", "-n", "3"]).await;
    assert!(seen.out.lines().any(|line| line.contains("shunt/back-door")), "{seen:?}");

    let wrong = chain.shunt(&["twin", "set", "camera", "fps=fast"]).await;
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    assert!(wrong.out.contains("fps: refused, in force stays 2"), "{wrong:?}");
    let unknown = chain.shunt(&["twin", "set", "camera", "speed=3", "fps=3"]).await;
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    assert!(unknown.out.contains("speed"), "{unknown:?}");

    let twin = chain.shunt(&["twin", "get", "camera"]).await;
    let twin: Value = serde_json::from_str(&twin.out).unwrap();
    let fps = twin.pointer("/properties/reported/fps/value").and_then(Value::as_f64).unwrap();
    assert!((fps - 2.0).abs() < f64::EPSILON, "{twin}");
    let report = chain.stop().await;
    assert_eq!((&report["lost"], &report["restarts"]), (&json!(0), &json!({})), "{report}");
}

#[tokio::test]
async fn a_new_deployment_stops_and_starts_modules() {
    let Some(pictures) = astronaut() else { return };
    let chain = Chain::on_pictures(pictures.path(), &[]).await;
    chain.more_at_hub(1).await;
    let expanded = shunt(&["manifest", "expand", "deployment.template.json"]).await;
    let mut manifest: Value = serde_json::from_str(&expanded.out).unwrap();
    let modules = "/modulesContent/$edgeAgent/properties.desired/modules";
    let (camera, relay) = (chain.pid("camera"), chain.pid("relay"));

    manifest.pointer_mut(&format!("{modules}/emotion")).unwrap()["status"] = json!("stopped");
    chain.deploy(&manifest).await;
    eventually(LIMIT, || async { chain.pid("emotion").is_none() }).await;

    manifest.pointer_mut(&format!("{modules}/emotion")).unwrap()["status"] = json!("running");
    chain.deploy(&manifest).await;
    eventually(LIMIT, || async { chain.pid("emotion").is_some() }).await;
    assert_eq!((chain.pid("camera"), chain.pid("relay")), (camera, relay), "the others went on");
    chain.more_at_hub(3).await;
    assert_eq!(chain.stop().await["lost"], 0);
}

#[tokio::test]
async fn a_manifest_that_is_none_is_refused_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deployment.json");
    std::fs::write(&file, r#"{"modulesContent": {"$edgeAgent": {}}}"#).unwrap();
    let run = folder.path().join("run");
    let arguments =
        ["--fresh-ports", "--source", "/dev/null", "--for", "1s", "--folder", run.to_str().unwrap()];
    let mut all = vec!["up", "--manifest", file.to_str().unwrap()];
    all.extend(arguments);
    let printed = shunt(&all).await;
    assert_eq!(printed.code, Some(1), "{printed:?}");
    assert!(printed.err.contains("$edgeAgent"), "{printed:?}");
}

#[tokio::test]
async fn an_event_published_by_hand_reaches_the_hub() {
    let chain = Chain::start(&["--source", "/dev/null", "--only", "relay"]).await;
    let hello = r#"{"hello": "hub"}"#;
    // Assured: the relay may subscribe later than we publish, so publish until one is seen.
    eventually(LIMIT, || async {
        let sent = chain.shunt(&["publish", "emotion", "by-hand", hello]).await;
        assert_eq!(sent.code, Some(0), "{sent:?}");
        chain.at_hub().await > 0
    })
    .await;
    let seen = chain.shunt(&["tail", "--all", "-n", "1", "--json"]).await;
    let event: Value = serde_json::from_str(&seen.out).unwrap();
    assert_eq!((&event["body"], &event["properties"]["kind"]), (&json!({"hello": "hub"}), &json!("emotion")));
    assert_eq!(chain.stop().await["lost"], 0);
}

#[tokio::test]
async fn the_commands_reach_a_running_chain() {
    let Some(pictures) = astronaut() else { return };
    let chain = Chain::on_pictures(pictures.path(), &[]).await;
    chain.more_at_hub(1).await;

    let ping = chain.shunt(&["method", "camera", "ping"]).await;
    assert_eq!(ping.code, Some(0), "{ping:?}");
    let answer: Value = serde_json::from_str(&ping.out).unwrap();
    assert_eq!((&answer["status"], &answer["payload"]["module"]), (&json!(200), &json!("camera")));
    let unknown = chain.shunt(&["method", "camera", "dance"]).await;
    assert_eq!(unknown.code, Some(1), "{unknown:?}");

    let status = chain.shunt(&["invoke", "relay", "/status"]).await;
    assert_eq!(status.code, Some(0), "{status:?}");
    assert_eq!(serde_json::from_str::<Value>(&status.out).unwrap()["hub"], "connected", "{status:?}");
    let nowhere = chain.shunt(&["invoke", "relay", "/nowhere"]).await;
    assert_eq!(nowhere.code, Some(1), "{nowhere:?}");

    let event = chain.shunt(&["tail", "--bus", "--kind", "frame", "-n", "1", "--json"]).await;
    assert_eq!(event.code, Some(0), "{event:?}");
    let event: Value = serde_json::from_str(&event.out).unwrap();
    assert_eq!(event["source"], "shunt/front-door", "{event}");

    let doctor = chain.shunt(&["doctor"]).await;
    assert_eq!(doctor.code, Some(0), "{doctor:?}");
    for found in ["ok    modules", "ok    bus", "relay is connected to the hub"] {
        assert!(doctor.out.contains(found), "{found} in {}", doctor.out);
    }
    assert_eq!(chain.stop().await["lost"], 0);
}

#[tokio::test]
async fn the_bench_tells_where_the_time_goes() {
    let Some(pictures) = astronaut() else { return };
    let _turn = turn().await;
    let printed =
        shunt(&["bench", "chain", "--for", "5s", "--json", "--pictures", pictures.path().to_str().unwrap()])
            .await;
    assert_eq!(printed.code, Some(0), "{printed:?}");
    let report: Value = serde_json::from_str(&printed.out).unwrap();
    assert!(report["events"].as_u64().unwrap() > 0, "{report}");
    for field in
        ["/transport_ms/p50", "/transport_ms/p99", "/fitting_ms/p50", "/models_ms/p50", "/alone_ms", "/ratio"]
    {
        assert!(report.pointer(field).and_then(Value::as_f64).is_some(), "{field} in {report}");
    }
}

#[tokio::test]
async fn our_manifests_pass_our_own_check() {
    for file in ["deployment.template.json", "deployment.debug.template.json"] {
        assert!(repo_root().join(file).is_file());
        let printed = shunt(&["manifest", "check", file]).await;
        assert_eq!(printed.code, Some(0), "{printed:?}");
    }
}
