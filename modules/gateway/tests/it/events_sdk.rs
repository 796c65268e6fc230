//! Publish, subscribe and state with the real clients of Dapr.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shunt_testkit::fresh_address;

use crate::{
    rig::{Gateway, Program, memory, node_has},
    shop::variables,
};

/// Reads steps until all of these came.
async fn steps(program: &mut Program, names: &[&str]) -> BTreeMap<String, Value> {
    let mut steps = BTreeMap::new();
    while names.iter().any(|name| !steps.contains_key(*name)) {
        let line = program.line().await.expect("the program lives");
        let Ok(step) = serde_json::from_str::<Value>(&line) else { continue };
        assert_ne!(step["step"], "failed", "{step}");
        steps.insert(step["step"].as_str().unwrap().to_owned(), step);
    }
    steps
}

#[tokio::test]
async fn an_app_on_dapr_s_own_sdk_publishes_subscribes_and_keeps_state() {
    if !node_has("@dapr/dapr") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let app = fresh_address().unwrap();
    let bus = memory(folder.path());
    let gateway = Gateway::start(variables(folder.path(), &bus, &[("shop", app)], json!({}), &[])).await;
    let mut program = Program::start("node/dapr_events.js", &[], gateway.http, Some(app.port()));
    assert_eq!(program.line().await.as_deref(), Some("ready"));
    // All subscriptions of an answer are made at once, in the order of their topics: `weak` is the last.
    let listed = || async {
        let told: Value = gateway.get("/v1.0/metadata").send().await.unwrap().json().await.unwrap();
        told["subscriptions"].as_array().is_some_and(|all| all.len() == 6)
    };
    shunt_testkit::eventually(crate::rig::PATIENCE, listed).await;
    program.say("probe").await;
    steps(&mut program, &["probe"]).await;

    program.say("publish").await;
    let names = [
        "published",
        "order 1",
        "order 2",
        "order 3",
        "order 4",
        "text",
        "weak",
        "poison",
        "bulk",
        "forbidden",
    ];
    let told = steps(&mut program, &names).await;
    assert_eq!(told["published"]["object"], json!({}));
    assert_eq!(told["text"]["data"], "hello");
    assert_eq!(told["order 2"]["data"], json!({"n": 2}));
    assert_eq!(told["weak"]["data"], json!({"w": 1}));
    assert_eq!(told["poison"]["data"], json!({"b": 1}));
    assert_eq!(told["bulk"]["failed"], 0);
    assert!(told["forbidden"]["error"].as_str().unwrap().contains("ERR_PUBSUB_FORBIDDEN"), "{told:#?}");

    program.say("state").await;
    let names = ["saved", "got", "missing", "bulk got", "wrong etag", "transaction", "deleted", "gone"];
    let told = steps(&mut program, &names).await;
    assert_eq!((&told["got"]["a"], &told["got"]["b"]), (&json!({"n": 1}), &json!("text")));
    assert_eq!(told["missing"]["value"], "");
    assert_eq!(told["bulk got"]["items"][0]["data"], json!({"n": 1}));
    assert!(told["wrong etag"]["error"].as_str().unwrap().contains("etag mismatch"), "{told:#?}");
    assert_eq!((&told["transaction"]["b"], &told["transaction"]["c"]), (&json!(""), &json!(3)));
    assert_eq!(told["gone"]["a"], "");
    gateway.stop().await;
}
