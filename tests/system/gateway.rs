//! The gateway in the chain: an application in any language reaches the modules through it.

use std::process::Stdio;

use serde_json::Value;
use shunt_testkit::{eventually, fresh_address, repo_root};
use tokio::process::Command;

use crate::chain::{Chain, LIMIT, astronaut};

#[tokio::test]
async fn a_module_is_invoked_by_its_app_id_through_the_gateway() {
    let only = ["--source", "/dev/null", "--only", "emotion", "--with", "gateway"];
    let chain = Chain::start(&only).await;
    let answers = async |path: &str, status: u16| {
        eventually(LIMIT, || async {
            chain.get("gateway", path).await.is_some_and(|answer| answer.0 == status)
        })
        .await;
    };
    answers("/v1.0/healthz", 204).await;
    let (status, metadata) = chain.get("gateway", "/v1.0/metadata").await.unwrap();
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    assert!(status == 200 && metadata["id"].is_string(), "{metadata}");
    answers("/v1.0/invoke/emotion/method/healthz", 200).await;

    let by_command = chain.shunt(&["invoke", "--app", "emotion", "/healthz"]).await;
    assert_eq!(by_command.code, Some(0), "{by_command:?}");
    let nobody = chain.shunt(&["invoke", "--app", "nobody", "/healthz"]).await;
    assert_eq!(nobody.code, Some(1), "{nobody:?}");
    assert!(nobody.out.contains("errorCode"), "Dapr's error body: {nobody:?}");
    chain.stop().await;
}

#[tokio::test]
async fn the_application_of_the_documentation_hears_emotions_and_publishes_texts() {
    let Some(pictures) = astronaut() else { return };
    let port = fresh_address().unwrap().port();
    let apps = format!(r#"gateway.apps={{"mood": {{"address": "127.0.0.1:{port}", "subscribe": true}}}}"#);
    let chain = Chain::on_pictures(pictures.path(), &["--with", "gateway", "--set", &apps]).await;
    eventually(LIMIT, || async { chain.get("gateway", "/v1.0/healthz").await.is_some() }).await;
    let gateway = chain.note().unwrap()["processes"]["gateway"]["address"].as_str().unwrap().to_owned();
    let app = Command::new("python3")
        .arg(repo_root().join("docs/examples/mood.py"))
        .env("GATEWAY", format!("http://{gateway}"))
        .env("PORT", port.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let Ok(_app) = app else {
        assert!(std::env::var_os("CI").is_none(), "python3 is not installed");
        println!("Skipped: python3 is not installed.");
        return;
    };
    let heard = chain.shunt(&["tail", "--bus", "--kind", "text", "-n", "1", "--json", "--for", "30s"]).await;
    let event: Value = serde_json::from_str(heard.out.trim()).unwrap_or_else(|_| panic!("{heard:?}"));
    assert!(event["data"]["text"].as_str().unwrap().starts_with("Somebody shows "), "{event}");
    let hello = chain.shunt(&["invoke", "--app", "mood", "/"]).await;
    assert_eq!(hello.out.trim(), r#"{"hello": "World"}"#, "{hello:?}");
    chain.stop().await;
}
