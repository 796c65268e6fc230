//! The HTTP interface and the direct method `test`.

use serde_json::{Value, json};

use crate::stage::{Square, Stage, settings};

fn question() -> Value {
    let event = |id: &str, second: u32, celsius: f64| {
        json!({"specversion": "1.0", "id": id, "type": "shunt.temperature.v1", "source": "shunt/box",
            "time": format!("2026-11-21T09:00:{second:02}Z"), "data": {"celsius": celsius}})
    };
    json!({
        "rules": {"hot": {"from": ["temperature"], "when": "data.celsius > 80",
            "do": [{"set": {"module": "camera", "settings": {"fps": 2}}}]}},
        "events": [event("1", 0, 70.0), event("2", 10, 90.0), event("3", 20, 70.0)],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_tells_what_would_happen_over_http_and_as_a_method() {
    let mut square = Square::open().await;
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::start(&square, folder.path(), settings(json!({}))).await;
    let (status, answer) = stage.post("/rules/test", question().to_string()).await;
    assert_eq!(status, 200, "{answer}");
    let states: Vec<_> =
        answer["outputs"].as_array().unwrap().iter().map(|told| &told["alert"]["state"]).collect();
    assert_eq!(states, [&json!("raised"), &json!("cleared")]);
    assert_eq!(answer["outputs"][0]["alert"]["acts"][0]["set"]["settings"], json!({"fps": 2}));
    assert_eq!(stage.methods.call("test", question()).await, (200, answer));
    square.no_alert().await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_that_cannot_be_run_says_why() {
    let square = Square::open().await;
    let folder = tempfile::tempdir().unwrap();
    let rules = json!({"own": {"from": ["emotion"], "when": "false"}});
    let stage = Stage::start(&square, folder.path(), settings(rules)).await;
    let mut broken_rule = question();
    broken_rule["rules"]["hot"]["when"] = json!("data.celsius >");
    let mut broken_event = question();
    broken_event["events"][1] = json!({"id": "2"});
    for (body, expected) in [
        ("{".to_owned(), "EOF while parsing"),
        (json!({"event": []}).to_string(), "unknown field `event`"),
        (broken_rule.to_string(), "hot: when"),
        (broken_event.to_string(), "event 1: the event has no attribute"),
        (json!({"rule": "other", "events": []}).to_string(), "there is no rule \"other\"; there are own"),
    ] {
        let (status, answer) = stage.post("/rules/test", body).await;
        assert_eq!(status, 400, "{answer}");
        assert!(answer["detail"].as_str().unwrap().contains(expected), "{expected:?} is not in {answer}");
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_are_there() {
    let square = Square::open().await;
    let folder = tempfile::tempdir().unwrap();
    let rules = json!({"own": {"from": ["emotion"], "when": "false", "about": "Nothing"}});
    let stage = Stage::start(&square, folder.path(), settings(rules)).await;
    let (status, page) = stage.get("/swagger").await;
    assert!(status == 200 && page.contains("/rules/test"));
    let (_, document) = stage.get("/openapi.json").await;
    let document: Value = serde_json::from_str(&document).unwrap();
    // The example is one that works.
    let example =
        &document["paths"]["/rules/test"]["post"]["requestBody"]["content"]["application/json"]["example"];
    assert_eq!(stage.post("/rules/test", example.to_string()).await.0, 200);
    let (_, all) = stage.get("/rules").await;
    let all: Value = serde_json::from_str(&all).unwrap();
    assert_eq!(
        (&all["rules"][0]["about"], &all["rules"][0]["rule"]["when"]),
        (&json!("Nothing"), &json!("false"))
    );
    assert_eq!(stage.get("/rules/other").await.0, 404);
    let (_, metrics) = stage.get("/metrics").await;
    assert_eq!(shunt_module::check_page(&metrics), Ok(()));
    stage.stop().await;
}
