//! State by plain HTTP: what is refused, and what stays when settings change.

use serde_json::json;

use crate::rig::{Gateway, environment, memory, problem};

#[tokio::test]
async fn what_cannot_be_kept_is_answered_as_dapr_does() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::with_apps(folder.path(), &[]).await;
    let check = async |path: &str, body: String, status: u16, code: &str, word: &str| {
        let answer = gateway.post(path).header("content-type", "application/json").body(body).send().await;
        let (told, error, message) = problem(answer.unwrap()).await;
        assert_eq!((told, error.as_str()), (status, code), "{path} {message}");
        assert!(message.contains(word), "{message:?} lacks {word:?}");
    };
    let own = "/v1.0/state/statestore";
    let malformed = "ERR_MALFORMED_REQUEST";
    let text = |text: &str| text.to_owned();
    let missing = "state store other is not found";
    check("/v1.0/state/other", text("[]"), 400, "ERR_STATE_STORE_NOT_FOUND", missing).await;
    check("/v1.0/state/other/bulk", text("{}"), 400, "ERR_STATE_STORE_NOT_FOUND", missing).await;
    check("/v1.0/state/other/transaction", text("{}"), 400, "ERR_STATE_STORE_NOT_FOUND", missing).await;
    for body in ["", "{}", "7", "[1]", r#"[{"key": "a", "value": }]"#, r#"[{"key": 7}]"#] {
        check(own, text(body), 400, malformed, "").await;
    }
    check(own, text(r#"[{"value": 1}]"#), 400, malformed, "\"key\" is a required field").await;
    check(own, text(r#"[{"key": "a||b", "value": 1}]"#), 400, malformed, "can't contain '||'").await;
    let key = "k".repeat(2000);
    check(own, json!([{"key": key, "value": 1}]).to_string(), 400, malformed, "longer than").await;
    let value = "v".repeat(1 << 20);
    check(own, json!([{"key": "a", "value": value}]).to_string(), 400, malformed, "bytes").await;
    check(own, "x".repeat((4 << 20) + 1), 413, malformed, "").await;
    let many: Vec<_> = (0..1001).map(|number| json!({"key": number.to_string(), "value": 1})).collect();
    check(own, json!(many).to_string(), 400, malformed, "more than").await;
    let option = r#"[{"key": "a", "value": 1, "options": {"concurrency": "middle-write"}}]"#;
    check(own, text(option), 400, malformed, "concurrency").await;
    check(own, text(r#"[{"key": "a", "value": 1, "etag": "x"}]"#), 400, malformed, "invalid etag value")
        .await;
    check(&format!("{own}/bulk"), text("["), 400, malformed, "failed deserializing HTTP body").await;
    check(&format!("{own}/transaction"), text("["), 400, malformed, "failed deserializing HTTP body").await;
    let operations: Vec<_> =
        (0..1001).map(|_| json!({"operation": "delete", "request": {"key": "a"}})).collect();
    let code = "ERR_STATE_STORE_TOO_MANY_TRANSACTIONS";
    check(&format!("{own}/transaction"), json!({"operations": operations}).to_string(), 400, code, "1001")
        .await;
    let query = "/v1.0-alpha1/state/statestore/query";
    check(query, text("{}"), 500, "ERR_STATE_STORE_NOT_SUPPORTED", "does not support querying").await;
    gateway.stop().await;
}

#[tokio::test]
async fn state_outlives_the_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::with_apps(folder.path(), &[]).await;
    let saving = gateway.post("/v1.0/state/statestore").json(&json!([{"key": "k", "value": {"n": 1}}]));
    assert_eq!(saving.send().await.unwrap().status(), 204);
    gateway.stop().await;
    let gateway = Gateway::start(environment(folder.path(), &memory(folder.path()), &[])).await;
    let answer = gateway.get("/v1.0/state/statestore/k").send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), r#"{"n":1}"#);
    gateway.stop().await;
}

#[tokio::test]
async fn a_bulk_answer_tells_each_key_once_and_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::with_apps(folder.path(), &[]).await;
    let value = "v".repeat(1_000_000);
    for number in 0..20 {
        let body = json!([{"key": format!("k{number}"), "value": value}]);
        let saved = gateway.post("/v1.0/state/statestore").json(&body).send().await.unwrap();
        assert_eq!(saved.status(), 204);
    }
    let bulk =
        |keys: Vec<String>| gateway.post("/v1.0/state/statestore/bulk").json(&json!({"keys": keys})).send();
    let answer = bulk(vec!["k1".to_owned(); 1000]).await.unwrap();
    let items: Vec<serde_json::Value> = answer.json().await.unwrap();
    assert_eq!(items.len(), 1);
    assert_eq!(items[0]["data"], value);
    let answer = bulk((0..20).map(|number| format!("k{number}")).collect()).await.unwrap();
    let (status, code, message) = problem(answer).await;
    assert_eq!((status, code.as_str()), (500, "ERR_STATE_BULK_GET"));
    assert!(message.contains("ask for fewer keys"), "{message}");
    gateway.stop().await;
}
