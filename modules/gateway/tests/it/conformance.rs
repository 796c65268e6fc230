//! What every state store keeps to, through the front door: redb and Redis, both real.

use std::{path::Path, time::Duration};

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use shunt_testkit::{Redis, eventually};

use crate::rig::{Gateway, PATIENCE, environment, memory, problem};

/// A gateway whose only store is this one.
async fn with_store(folder: &Path, store: Value) -> Gateway {
    let stores = json!({"statestore": store}).to_string();
    let more = [("SHUNT_GATEWAY_STORES", stores.as_str())];
    Gateway::start(environment(folder, &memory(folder), &more)).await
}

async fn save(gateway: &Gateway, objects: Value) -> Response {
    gateway.post("/v1.0/state/statestore").json(&objects).send().await.unwrap()
}

async fn saved(gateway: &Gateway, objects: Value) {
    let answer = save(gateway, objects).await;
    assert_eq!(answer.status(), 204, "{}", answer.text().await.unwrap());
}

/// Status, etag and text of a key.
async fn read(gateway: &Gateway, key: &str) -> (u16, Option<String>, String) {
    let answer = gateway.get(&format!("/v1.0/state/statestore/{key}")).send().await.unwrap();
    let etag = answer.headers().get("etag").map(|etag| etag.to_str().unwrap().to_owned());
    (answer.status().as_u16(), etag, answer.text().await.unwrap())
}

async fn etag(gateway: &Gateway, key: &str) -> String {
    read(gateway, key).await.1.unwrap()
}

async fn delete(gateway: &Gateway, key: &str, etag: Option<&str>) -> Response {
    let mut deleting = gateway.client.delete(gateway.url(&format!("/v1.0/state/statestore/{key}")));
    if let Some(etag) = etag {
        deleting = deleting.header("if-match", etag);
    }
    deleting.send().await.unwrap()
}

async fn transact(gateway: &Gateway, operations: Value) -> Response {
    let body = json!({"operations": operations});
    gateway.post("/v1.0/state/statestore/transaction").json(&body).send().await.unwrap()
}

/// The whole suite.
async fn suite(gateway: &Gateway) {
    values_come_back_as_they_were(gateway).await;
    etags_hold_writers_back(gateway).await;
    of_two_writers_exactly_one_wins(gateway).await;
    transactions_are_whole_or_nothing(gateway).await;
    keys_end_when_their_time_is_over(gateway).await;
    each_app_has_keys_of_its_own(gateway).await;
}

async fn values_come_back_as_they_were(gateway: &Gateway) {
    assert_eq!(read(gateway, "nothing").await, (204, None, String::new()));
    let texts = [r#""a text""#, r#"{"n": 12345678901234567890, "f": 1.50}"#, "[1,2]", "null", r#""Größe""#];
    for text in texts {
        let body = format!(r#"[{{"key": "v", "value": {text}}}]"#);
        let answer = gateway.post("/v1.0/state/statestore").body(body).send().await.unwrap();
        assert_eq!(answer.status(), 204);
        let (status, etag, back) = read(gateway, "v").await;
        assert_eq!((status, back.as_str()), (200, text));
        assert!(etag.is_some());
    }
    saved(gateway, json!([{"key": "bulk", "value": 1}, {"key": "transaction", "value": 2}])).await;
    assert_eq!(read(gateway, "bulk").await.2, "1");
    assert_eq!(read(gateway, "transaction").await.2, "2");
    let asked = json!({"keys": ["bulk", "missing", "transaction"], "parallelism": 10});
    let answer = gateway.post("/v1.0/state/statestore/bulk").json(&asked).send().await.unwrap();
    let items: Value = answer.json().await.unwrap();
    assert_eq!((&items[0]["key"], &items[0]["data"]), (&json!("bulk"), &json!(1)));
    assert_eq!(items[1], json!({"key": "missing"}));
    assert_eq!((&items[2]["data"], items[2]["etag"].is_string()), (&json!(2), true));
    assert_eq!(delete(gateway, "bulk", None).await.status(), 204);
    assert_eq!(delete(gateway, "bulk", None).await.status(), 204);
    assert_eq!(read(gateway, "bulk").await.0, 204);
    saved(gateway, json!([])).await;
}

async fn etags_hold_writers_back(gateway: &Gateway) {
    saved(gateway, json!([{"key": "e", "value": 1}])).await;
    let first = etag(gateway, "e").await;
    saved(gateway, json!([{"key": "e", "value": 2, "etag": first}])).await;
    let (status, code, message) =
        problem(save(gateway, json!([{"key": "e", "value": 3, "etag": first}])).await).await;
    assert_eq!((status, code.as_str()), (409, "ERR_STATE_SAVE"));
    assert!(
        message.starts_with("failed saving state in state store statestore: possible etag mismatch"),
        "{message}"
    );
    // One object that may not be saved holds back those beside it.
    let both = json!([{"key": "beside", "value": 1}, {"key": "e", "value": 3, "etag": first}]);
    assert_eq!(save(gateway, both).await.status(), 409);
    assert_eq!(read(gateway, "beside").await.0, 204);
    assert_eq!(read(gateway, "e").await.2, "2");
    // The last writer wins where that is asked for, and where there is no etag.
    let last = json!([{"key": "e", "value": 4, "etag": first, "options": {"concurrency": "last-write"}}]);
    saved(gateway, last).await;
    saved(gateway, json!([{"key": "e", "value": 5, "options": {"consistency": "strong"}}])).await;
    let first_write = json!([{"key": "e", "value": 6, "options": {"concurrency": "first-write"}}]);
    assert_eq!(save(gateway, first_write).await.status(), 409);
    let (status, code, _) = problem(delete(gateway, "e", Some(&first)).await).await;
    assert_eq!((status, code.as_str()), (409, "ERR_STATE_DELETE"));
    let (status, code, _) = problem(delete(gateway, "e", Some("no-number")).await).await;
    assert_eq!((status, code.as_str()), (400, "ERR_MALFORMED_REQUEST"));
    let old = etag(gateway, "e").await;
    assert_eq!(delete(gateway, "e", Some(&old)).await.status(), 204);
    // A key that is made again is not the old one, and one that is not there has no etag.
    assert_eq!(save(gateway, json!([{"key": "e", "value": 7, "etag": old}])).await.status(), 409);
    saved(gateway, json!([{"key": "e", "value": 7, "options": {"concurrency": "first-write"}}])).await;
    assert_ne!(etag(gateway, "e").await, old);
}

async fn of_two_writers_exactly_one_wins(gateway: &Gateway) {
    for round in 0..10 {
        saved(gateway, json!([{"key": "race", "value": 0}])).await;
        let etag = etag(gateway, "race").await;
        let write = |writer: u32| save(gateway, json!([{"key": "race", "value": writer, "etag": etag}]));
        let answers = tokio::join!(write(1), write(2), write(3));
        let statuses = [answers.0.status(), answers.1.status(), answers.2.status()];
        let won = statuses.iter().position(|status| *status == StatusCode::NO_CONTENT).unwrap();
        assert_eq!(
            statuses.iter().filter(|status| **status == StatusCode::CONFLICT).count(),
            2,
            "round {round}"
        );
        assert_eq!(read(gateway, "race").await.2, (won + 1).to_string());
    }
}

async fn transactions_are_whole_or_nothing(gateway: &Gateway) {
    saved(gateway, json!([{"key": "t1", "value": 1}, {"key": "t2", "value": 2}])).await;
    let stale = etag(gateway, "t1").await;
    saved(gateway, json!([{"key": "t1", "value": 10}])).await;
    let half = transact(
        gateway,
        json!([
            {"operation": "upsert", "request": {"key": "t3", "value": 3}},
            {"operation": "delete", "request": {"key": "t2"}},
            {"operation": "upsert", "request": {"key": "t1", "value": 11, "etag": stale}},
        ]),
    );
    let (status, code, message) = problem(half.await).await;
    assert_eq!((status, code.as_str()), (500, "ERR_STATE_TRANSACTION"));
    assert!(message.contains("etag mismatch"), "{message}");
    assert_eq!(read(gateway, "t3").await.0, 204);
    assert_eq!((read(gateway, "t1").await.2, read(gateway, "t2").await.2), ("10".to_owned(), "2".to_owned()));
    let fresh = etag(gateway, "t1").await;
    let whole = transact(
        gateway,
        json!([
            {"operation": "upsert", "request": {"key": "t3", "value": 3}},
            {"operation": "delete", "request": {"key": "t2"}},
            {"operation": "upsert", "request": {"key": "t1", "value": 11, "etag": fresh}},
            {"operation": "upsert", "request": {"key": "t3", "value": 4}},
        ]),
    );
    assert_eq!(whole.await.status(), 204);
    let all = [read(gateway, "t1").await.2, read(gateway, "t2").await.2, read(gateway, "t3").await.2];
    assert_eq!(all, ["11", "", "4"]);
    let unknown = transact(gateway, json!([{"operation": "increment", "request": {"key": "t1"}}])).await;
    let (status, code, _) = problem(unknown).await;
    assert_eq!((status, code.as_str()), (400, "ERR_NOT_SUPPORTED_STATE_OPERATION"));
    assert_eq!(transact(gateway, json!([])).await.status(), 204);
}

async fn keys_end_when_their_time_is_over(gateway: &Gateway) {
    saved(gateway, json!([{"key": "short", "value": 1, "metadata": {"ttlInSeconds": "1"}}])).await;
    let answer = gateway.get("/v1.0/state/statestore/short").send().await.unwrap();
    assert!(answer.headers().contains_key("metadata.ttlexpiretime"));
    let old = etag(gateway, "short").await;
    eventually(PATIENCE, || async { read(gateway, "short").await.0 == 204 }).await;
    let late = json!([{"key": "short", "value": 2, "etag": old}]);
    assert_eq!(save(gateway, late).await.status(), 409);
    let forever = json!([{"key": "short", "value": 3, "metadata": {"ttlInSeconds": "-1"}}]);
    saved(gateway, forever).await;
    let answer = gateway.get("/v1.0/state/statestore/short").send().await.unwrap();
    assert!(!answer.headers().contains_key("metadata.ttlexpiretime"));
    let wrong = json!([{"key": "short", "value": 3, "metadata": {"ttlInSeconds": "soon"}}]);
    assert_eq!(problem(save(gateway, wrong).await).await.0, 400);
}

async fn each_app_has_keys_of_its_own(gateway: &Gateway) {
    let of = async |app: &str, value: u32| {
        let saving = gateway.post("/v1.0/state/statestore").header("dapr-app-id", app);
        let answer = saving.json(&json!([{"key": "own", "value": value}])).send().await.unwrap();
        assert_eq!(answer.status(), 204);
    };
    of("shop", 1).await;
    of("till", 2).await;
    let reading = gateway.get("/v1.0/state/statestore/own").header("dapr-app-id", "shop");
    assert_eq!(reading.send().await.unwrap().text().await.unwrap(), "1");
    assert_eq!(read(gateway, "own").await.0, 204);
    // Nobody reaches another's keys by writing the prefix.
    let trick = json!([{"key": "shop||own", "value": 3}]);
    assert_eq!(problem(save(gateway, trick).await).await.1, "ERR_MALFORMED_REQUEST");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_on_disk_keeps_to_the_suite() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = with_store(folder.path(), json!({"kind": "redb"})).await;
    suite(&gateway).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_in_redis_keeps_to_the_suite() {
    let folder = tempfile::tempdir().unwrap();
    let redis = Redis::start().await.unwrap();
    let gateway = with_store(folder.path(), json!({"kind": "redis", "url": redis.url()})).await;
    suite(&gateway).await;
    // The layout is that of Dapr's own store.
    assert_eq!(redis.command("HGET shop||own data").await.unwrap(), "$1\r\n1\r\n");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_away_is_an_error_until_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut redis = Redis::start().await.unwrap();
    let gateway = with_store(folder.path(), json!({"kind": "redis", "url": redis.url()})).await;
    saved(&gateway, json!([{"key": "k", "value": 1}])).await;
    redis.kill().await.unwrap();
    let (status, code, message) = problem(save(&gateway, json!([{"key": "k", "value": 2}])).await).await;
    assert_eq!((status, code.as_str()), (500, "ERR_STATE_SAVE"), "{message}");
    let answer = gateway.get("/v1.0/state/statestore/k").send().await.unwrap();
    let (status, code, _) = problem(answer).await;
    assert_eq!((status, code.as_str()), (500, "ERR_STATE_GET"));
    redis.restart().await.unwrap();
    eventually(Duration::from_secs(20), || async {
        save(&gateway, json!([{"key": "k", "value": 3}])).await.status() == StatusCode::NO_CONTENT
    })
    .await;
    assert_eq!(read(&gateway, "k").await.2, "3");
    gateway.stop().await;
}

#[tokio::test]
async fn a_full_store_refuses_what_is_more_and_lets_go_what_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = with_store(folder.path(), json!({"kind": "redb", "max_keys": 2, "max_bytes": 100})).await;
    saved(&gateway, json!([{"key": "a", "value": 1}, {"key": "b", "value": 2}])).await;
    let (status, code, message) = problem(save(&gateway, json!([{"key": "c", "value": 3}])).await).await;
    assert_eq!((status, code.as_str()), (500, "ERR_STATE_SAVE"));
    assert!(message.contains("the store is full"), "{message}");
    assert_eq!(save(&gateway, json!([{"key": "a", "value": "x".repeat(200)}])).await.status(), 500);
    saved(&gateway, json!([{"key": "a", "value": 9}])).await;
    assert_eq!(delete(&gateway, "b", None).await.status(), 204);
    saved(&gateway, json!([{"key": "c", "value": 3}])).await;
    gateway.stop().await;
}
