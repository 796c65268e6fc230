//! Settings by twin, against the stand-in of IoT Edge.

use std::{collections::BTreeMap, path::Path, time::Duration};

use serde_json::{Value, json};
use shunt_sim::{Fault, MethodResult, Sim, SimOptions};
use shunt_testkit::{eventually, found};

use crate::heart::{Heart, environment};

const PATIENCE: Duration = Duration::from_secs(20);

async fn sim(folder: &Path) -> Sim {
    let sim = Sim::start(SimOptions { folder: folder.join("sim"), ..SimOptions::default() }).await.unwrap();
    sim.add_module("heart").unwrap();
    sim
}

fn variables(sim: &Sim, folder: &Path, more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut variables = environment(folder, more);
    variables.extend(sim.module_environment("heart"));
    variables
}

fn reported(sim: &Sim) -> Value {
    let twin = sim.twin("heart").unwrap();
    twin.pointer("/properties/reported").or_else(|| twin.get("reported")).cloned().unwrap_or_default()
}

/// Waits until the twin answers for this field so.
async fn answered(sim: &Sim, field: &str, expected: Value) {
    let answer =
        found(PATIENCE, || async { reported(sim).get(field).filter(|&answer| *answer == expected).cloned() });
    assert!(answer.await.is_some(), "{field}: {expected} was expected, the twin has {:#}", reported(sim));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_twin_tunes_a_running_module_and_is_answered_field_by_field() {
    let folder = tempfile::tempdir().unwrap();
    let sim = sim(folder.path()).await;
    let mut heart = Heart::start(variables(&sim, folder.path(), &[("SHUNT_HEART_OWNER", "anna")])).await;
    answered(&sim, "rate", json!({"value": 60.0, "ac": 203, "av": 0, "ad": "default"})).await;
    answered(&sim, "owner", json!({"value": "anna", "ac": 203, "av": 0, "ad": "set by SHUNT_HEART_OWNER"}))
        .await;

    let version =
        sim.patch_desired("heart", &json!({"rate": 80, "chambers": {"left": 3, "right": 4}})).unwrap();
    assert!((79.9..80.1).contains(&heart.change().await.rate));
    answered(&sim, "rate", json!({"value": 80.0, "ac": 200, "av": version, "ad": "applied"})).await;
    answered(
        &sim,
        "chambers",
        json!({"value": {"left": 3, "right": 4}, "ac": 200, "av": version, "ad": "applied"}),
    )
    .await;

    // What is removed falls back to the layer below, and the report forgets it.
    let version = sim.patch_desired("heart", &json!({"rate": null, "chambers": {"right": null}})).unwrap();
    let settings = heart.change().await;
    assert!((59.9..60.1).contains(&settings.rate));
    assert_eq!(settings.chambers.len(), 1);
    answered(&sim, "rate", json!({"value": 60.0, "ac": 203, "av": 0, "ad": "default"})).await;
    answered(&sim, "chambers", json!({"value": {"left": 3}, "ac": 200, "av": version, "ad": "applied"}))
        .await;
    assert_eq!(heart.stop().await, 0);
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_twin_changes_nothing_and_every_mistake_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let sim = sim(folder.path()).await;
    let heart = Heart::start(variables(&sim, folder.path(), &[])).await;
    answered(&sim, "rate", json!({"value": 60.0, "ac": 203, "av": 0, "ad": "default"})).await;
    let version = sim.patch_desired("heart", &json!({"rate": "fast", "owner": "bert", "beats": 3})).unwrap();
    answered(
        &sim,
        "rate",
        json!({"value": 60.0, "ac": 400, "av": version,
            "ad": "invalid type: string \"fast\", expected f64; allowed is a number"}),
    )
    .await;
    answered(
        &sim,
        "owner",
        json!({"value": "nobody", "ac": 400, "av": version, "ad": "not applied, because refused with it: beats, rate"}),
    )
    .await;
    answered(
        &sim,
        "beats",
        json!({"ac": 400, "av": version, "ad": "there is no such field; allowed are rate, owner, chambers"}),
    )
    .await;
    assert_eq!(heart.get("/healthz").await.0, 200);

    // Mended: the unknown field disappears from the report.
    let version = sim.patch_desired("heart", &json!({"rate": 70, "beats": null})).unwrap();
    answered(&sim, "rate", json!({"value": 70.0, "ac": 200, "av": version, "ad": "applied"})).await;
    assert_eq!(reported(&sim).get("beats"), None);

    // The module itself has the last word.
    let version = sim.patch_desired("heart", &json!({"owner": "stone"})).unwrap();
    answered(&sim, "owner", json!({"value": "bert", "ac": 400, "av": version, "ad": "a stone has no heart"}))
        .await;
    assert_eq!(heart.stop().await, 0);
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_module_tells_of_itself_stands_in_the_reported_twin() {
    let folder = tempfile::tempdir().unwrap();
    let sim = sim(folder.path()).await;
    let heart = Heart::start(variables(&sim, folder.path(), &[])).await;
    heart.facts.set("beats", json!({"counted": 12, "of": {"left": 7}}));
    answered(&sim, "beats", json!({"counted": 12, "of": {"left": 7}})).await;
    heart.facts.set("beats", json!({"counted": 13}));
    answered(&sim, "beats", json!({"counted": 13})).await;
    // New settings leave it where it is; what has a setting's name is not told.
    heart.facts.set("rate", json!("high"));
    let version = sim.patch_desired("heart", &json!({"rate": 80})).unwrap();
    answered(&sim, "rate", json!({"value": 80.0, "ac": 200, "av": version, "ad": "applied"})).await;
    answered(&sim, "beats", json!({"counted": 13})).await;
    heart.facts.remove("beats");
    let gone = || async { reported(&sim).get("beats").is_none() };
    eventually(PATIENCE, gone).await;
    assert_eq!(heart.stop().await, 0);
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_at_work_with_new_settings_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let sim = sim(folder.path()).await;
    let heart = Heart::start(variables(&sim, folder.path(), &[])).await;
    answered(&sim, "owner", json!({"value": "nobody", "ac": 203, "av": 0, "ad": "default"})).await;
    let version = sim.patch_desired("heart", &json!({"owner": "slow"})).unwrap();
    answered(&sim, "owner", json!({"value": "nobody", "ac": 202, "av": version, "ad": "being applied"}))
        .await;
    heart.decide.notify_one();
    answered(&sim, "owner", json!({"value": "slow", "ac": 200, "av": version, "ad": "applied"})).await;
    heart.stop().await;
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_good_twin_survives_a_restart_without_the_cloud() {
    let folder = tempfile::tempdir().unwrap();
    let sim = sim(folder.path()).await;
    let mut heart = Heart::start(variables(&sim, folder.path(), &[])).await;
    let version = sim.patch_desired("heart", &json!({"owner": "clara"})).unwrap();
    heart.change().await;
    answered(&sim, "owner", json!({"value": "clara", "ac": 200, "av": version, "ad": "applied"})).await;
    // A bad set does not replace the last good one.
    let bad = sim.patch_desired("heart", &json!({"rate": 0})).unwrap();
    let refused = json!({"value": 60.0, "ac": 400, "av": bad, "ad": "it is 0, but must be from 1 to 300"});
    answered(&sim, "rate", refused).await;
    heart.stop().await;
    let environment = variables(&sim, folder.path(), &[("SHUNT_DRAIN_LIMIT", "1")]);
    sim.stop().await;

    let (started, owner) = tokio::sync::oneshot::channel();
    let stop = std::future::pending();
    let code = shunt_module::live(
        &environment,
        stop,
        |context: shunt_module::Context<crate::heart::HeartSettings>| {
            started.send(context.settings.current().owner.clone()).unwrap();
            async { anyhow::Ok(()) }
        },
    )
    .await;
    assert_eq!((code, owner.await.unwrap().as_str()), (0, "clara"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_the_hub_did_not_take_is_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let sim = sim(folder.path()).await;
    sim.fault(&Fault::AnswerReports { status: 429, count: 2 });
    let heart = Heart::start(variables(&sim, folder.path(), &[])).await;
    answered(&sim, "rate", json!({"value": 60.0, "ac": 203, "av": 0, "ad": "default"})).await;
    heart.stop().await;
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_module_answers_ping_and_get_settings_and_set_log_level() {
    let folder = tempfile::tempdir().unwrap();
    let sim = sim(folder.path()).await;
    let heart = Heart::start(variables(&sim, folder.path(), &[])).await;
    eventually(PATIENCE, || async { sim.is_connected("heart") }).await;
    let invoke = |method: &'static str, payload: Value| {
        let sim = &sim;
        async move { sim.invoke("heart", method, payload, PATIENCE).await.unwrap() }
    };
    let (status, answer) = parts(&invoke("ping", Value::Null).await);
    assert_eq!((status, &answer["module"]), (200, &json!("heart")));
    let (status, answer) = parts(&invoke("getSettings", Value::Null).await);
    assert_eq!((status, &answer["owner"]), (200, &json!("nobody")));
    let (status, answer) = parts(&invoke("setLogLevel", json!({"level": "loud"})).await);
    assert_eq!(status, 400, "{answer}");
    let (status, answer) = parts(&invoke("dance", Value::Null).await);
    let all = json!(["diagnostics", "faint", "getSettings", "listen", "ping", "setLogLevel", "setSettings"]);
    assert_eq!((status, &answer["methods"]), (404, &all));
    heart.stop().await;
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_answers_its_own_methods_and_survives_one_that_fails() {
    let folder = tempfile::tempdir().unwrap();
    let sim = sim(folder.path()).await;
    let heart = Heart::start(variables(&sim, folder.path(), &[])).await;
    eventually(PATIENCE, || async { sim.is_connected("heart") }).await;
    let failed = sim.invoke("heart", "faint", Value::Null, PATIENCE).await.unwrap();
    assert_eq!(failed.status, 500, "{failed:?}");
    let answer = sim.invoke("heart", "listen", json!({"to": "the left chamber"}), PATIENCE).await.unwrap();
    assert_eq!(parts(&answer), (200, json!({"heard": "the left chamber"})));
    heart.stop().await;
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn diagnostics_tell_in_one_answer_how_a_module_is() {
    let folder = tempfile::tempdir().unwrap();
    let sim = sim(folder.path()).await;
    let owner = [("SHUNT_HEART_OWNER", "x://anna:secret@h")];
    let heart = Heart::start(variables(&sim, folder.path(), &owner)).await;
    eventually(PATIENCE, || async { sim.is_connected("heart") }).await;
    heart.health.set("valve", Err("it is stuck".to_owned()));
    let (status, bundle) = parts(&sim.invoke("heart", "diagnostics", Value::Null, PATIENCE).await.unwrap());
    assert_eq!(status, 200, "{bundle}");
    for (field, expected) in
        [("module", json!("heart")), ("ready", json!(false)), ("bus", json!("connected"))]
    {
        assert_eq!(bundle[field], expected, "{field}");
    }
    assert_eq!(bundle["hub"], json!("connected"));
    assert_eq!(bundle["health"]["parts"]["valve"]["reason"], json!("it is stuck"));
    assert_eq!(bundle["settings"]["owner"], json!("x://***@h"));
    assert!(bundle["metrics"].as_str().unwrap().contains("shunt_module_ready 0"), "{bundle}");
    assert!(bundle["uptime_s"].is_u64() && bundle["log"].is_array());
    assert!(bundle.get("cut").is_none());
    assert!(!bundle.to_string().contains("secret"), "{bundle}");
    heart.stop().await;
    sim.stop().await;
}

fn parts(answer: &MethodResult) -> (i64, Value) {
    (answer.status, answer.payload.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_module_changes_what_it_was_granted_until_the_twin_changes() {
    let folder = tempfile::tempdir().unwrap();
    let sim = sim(folder.path()).await;
    let granted = [("SHUNT_LOCAL_SETTINGS", "rate"), ("SHUNT_HEART_OWNER", "anna")];
    let mut heart = Heart::start(variables(&sim, folder.path(), &granted)).await;
    let version = sim.patch_desired("heart", &json!({"rate": 80})).unwrap();
    heart.change().await;
    answered(&sim, "rate", json!({"value": 80.0, "ac": 200, "av": version, "ad": "applied"})).await;
    let set = async |payload: Value| sim.invoke("heart", "setSettings", payload, PATIENCE).await.unwrap();

    assert_eq!(set(json!({"owner": "bert"})).await.status, 403);
    let wrong = set(json!({"rate": 1_000})).await;
    assert_eq!(wrong.status, 400);
    assert!(wrong.payload["message"].as_str().unwrap().contains("it is 1000"), "{wrong:?}");
    assert_eq!(set(json!({"rate": 40})).await.status, 200);
    assert!((39.9..40.1).contains(&heart.change().await.rate));
    let text = "set on this device by the direct method setSettings, until the desired properties change";
    answered(&sim, "rate", json!({"value": 40.0, "ac": 203, "av": 0, "ad": text})).await;

    // Taken back, it is what the twin wants again.
    assert_eq!(set(json!({"rate": null})).await.status, 200);
    assert!((79.9..80.1).contains(&heart.change().await.rate));
    answered(&sim, "rate", json!({"value": 80.0, "ac": 200, "av": version, "ad": "applied"})).await;

    assert_eq!(set(json!({"rate": 40})).await.status, 200);
    heart.change().await;
    // A twin that is refused changes nothing: the local value is in force, and can be taken back.
    let version = sim.patch_desired("heart", &json!({"beats": 7})).unwrap();
    let problem = "there is no such field; allowed are rate, owner, chambers";
    answered(&sim, "beats", json!({"ac": 400, "av": version, "ad": problem})).await;
    answered(&sim, "rate", json!({"value": 40.0, "ac": 203, "av": 0, "ad": text})).await;
    let version = sim.patch_desired("heart", &json!({"owner": "carl", "beats": null})).unwrap();
    let settings = heart.change().await;
    assert!((79.9..80.1).contains(&settings.rate) && settings.owner == "carl", "the cloud has the last word");
    answered(&sim, "rate", json!({"value": 80.0, "ac": 200, "av": version, "ad": "applied"})).await;
    heart.stop().await;
    sim.stop().await;
}
