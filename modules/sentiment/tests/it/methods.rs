//! Direct methods, through the stand-in of the hub.

use std::collections::BTreeMap;

use sentiment::SentimentSettings;
use serde_json::{Value, json};
use shunt_sim::{Sim, SimOptions};
use shunt_testkit::eventually;

use crate::stage::{LIMIT, Stage};

#[tokio::test(flavor = "multi_thread")]
async fn the_cloud_reloads_the_model_and_asks_for_diagnostics() {
    let folder = tempfile::tempdir().unwrap();
    let sim =
        Sim::start(SimOptions { folder: folder.path().join("sim"), ..SimOptions::default() }).await.unwrap();
    sim.add_module("sentiment").unwrap();
    let mut environment: BTreeMap<String, String> = sim.module_environment("sentiment");
    let data = folder.path().display().to_string();
    for (name, value) in [
        ("SHUNT_BUS_URL", format!("memory:{}", data.replace('/', "-"))),
        ("SHUNT_HTTP_LISTEN", "127.0.0.1:0".to_owned()),
        ("SHUNT_DATA_DIR", data.clone()),
        ("SHUNT_MODELS_DIR", data.clone()),
    ] {
        environment.insert(name.to_owned(), value);
    }
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(async move {
        let stop = async {
            stopped.await.ok();
            "the test"
        };
        shunt_module::live(&environment, stop, sentiment::run).await
    });
    eventually(LIMIT, || async { sim.is_connected("sentiment") }).await;
    let reloaded = sim.invoke("sentiment", "reload", Value::Null, LIMIT).await.unwrap();
    assert_eq!((reloaded.status, &reloaded.payload["model"]), (200, &json!("shunt-sentiment")));
    let told = sim.invoke("sentiment", "diagnostics", Value::Null, LIMIT).await.unwrap();
    assert_eq!(told.payload["settings"]["model"], json!("shunt-sentiment"));
    assert!(told.payload["metrics"].as_str().unwrap().contains("shunt_sentiment_texts_total"));
    stop.send(()).unwrap();
    assert_eq!(tokio::time::timeout(LIMIT, running).await.unwrap().unwrap(), 0);
    sim.stop().await;
}

#[tokio::test]
async fn a_reload_that_fails_leaves_the_model_in_use() {
    let bytes = std::fs::read(shunt_testkit::repo_root().join("models/sentiment/sentiment.bin")).unwrap();
    let stage = Stage::start(SentimentSettings::default()).await;
    let file = stage.folder.path().join("models/own.bin");
    std::fs::write(&file, &bytes).unwrap();
    let own = SentimentSettings {
        model: "own.bin".to_owned(),
        model_sha256: Some(shunt_text::digest(&bytes)),
        ..SentimentSettings::default()
    };
    stage.settings.propose(own).await.unwrap();
    std::fs::write(&file, b"gone wrong").unwrap();
    let (status, answer) = stage.methods.call("reload", Value::Null).await;
    assert!(status == 409 && answer["message"].as_str().unwrap().contains("sha256"), "{answer}");
    assert_eq!(stage.score("good").await.1.model, "own.bin");
    stage.stop().await;
}
