//! The real clients of Dapr.

use serde_json::{Value, json};
use shunt_testkit::fresh_address;

use crate::rig::{Gateway, Program, node_has, python_has};

/// The article's listener, unchanged, as the app `hello`; and the gateway that knows it.
async fn hello(folder: &std::path::Path) -> (Gateway, Program) {
    let app = fresh_address().unwrap();
    let gateway = Gateway::with_apps(folder, &[("hello", app)]).await;
    let mut listener = Program::start("node/dapr_listener.js", &[], gateway.http, Some(app.port()));
    assert_eq!(listener.line().await.as_deref(), Some("ready"));
    (gateway, listener)
}

#[tokio::test]
async fn the_article_s_listener_is_called_by_plain_http_and_by_dapr_s_own_clients() {
    if !node_has("@dapr/dapr") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (gateway, _listener) = hello(folder.path()).await;
    let answer = gateway.get("/v1.0/invoke/hello/method/main").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), r#"{"message":"Hello World"}"#);
    let answer = gateway.get("/main").header("dapr-app-id", "hello").send().await.unwrap();
    assert_eq!(answer.json::<Value>().await.unwrap(), json!({"message": "Hello World"}));

    let steps = Program::start("node/dapr_client.js", &["hello"], gateway.http, None).steps().await;
    assert_eq!(steps["get"]["value"], json!({"message": "Hello World"}));
    let echo = &steps["post"]["value"];
    assert_eq!(echo["body"], json!({"number": 7}));
    assert_eq!(echo["query"], "/echo?x=1");
    assert_eq!(echo["type"], "application/json");
    assert_eq!(echo["trace"].as_str().unwrap().len(), 55);
    let error = |step: &str| steps[step]["error"].as_str().unwrap_or_else(|| panic!("{steps:#?}")).to_owned();
    assert!(error("wrong verb").contains("404"), "{steps:#?}");
    let unknown = error("unknown app");
    assert!(unknown.contains("ERR_DIRECT_INVOKE") && unknown.contains("no-such-app"), "{unknown}");
    assert_eq!(steps["set"]["value"], true);
    assert_eq!(steps["metadata"]["value"]["extended"]["colour"], "blue");
    assert_eq!(steps["healthy"]["value"], true);
    assert!(error("shutdown").contains("ERR_SHUTDOWN_REFUSED"), "{steps:#?}");

    if python_has("dapr") {
        let steps = Program::start("python/dapr_client.py", &["hello"], gateway.http, None).steps().await;
        assert_eq!(steps["get"]["value"], r#"{"message":"Hello World"}"#, "{steps:#?}");
        let echo: Value = serde_json::from_str(steps["post"]["value"].as_str().unwrap()).unwrap();
        assert_eq!((&echo["body"], &echo["query"]), (&json!({"number": 7}), &json!("/echo?x=1")));
        let unknown = steps["unknown app"].to_string();
        assert!(unknown.contains("ERR_DIRECT_INVOKE"), "{unknown}");
    }
    gateway.stop().await;
}
