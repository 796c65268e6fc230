//! Text Analytics v2.0, byte for byte, and what it says of requests that are none.

use sentiment::SentimentSettings;
use serde_json::{Value, json};

use crate::stage::Stage;

#[tokio::test]
async fn an_answer_has_the_form_of_the_api_to_the_byte() {
    let stage = Stage::start(SentimentSettings::default()).await;
    let request = r#"{"documents":[{"language":"en","id":"1","text":"I love this!"},{"language":"nl","id":"b","text":"Wat een waardeloze service."},{"id":"3","text":"The meeting is at 3 pm on Tuesday."}]}"#;
    let answer = stage.post(request).await;
    assert_eq!((answer.status, answer.model.as_str()), (200, "shunt-sentiment"));
    assert_eq!(answer.fallback, None);
    let scores: Vec<f64> = answer.json()["documents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["score"].as_f64().unwrap())
        .collect();
    assert!(scores[0] > 0.9 && scores[1] < 0.3 && (0.3..0.7).contains(&scores[2]), "{scores:?}");
    let expected = format!(
        r#"{{"documents":[{{"id":"1","score":{}}},{{"id":"b","score":{}}},{{"id":"3","score":{}}}],"errors":[]}}"#,
        scores[0], scores[1], scores[2]
    );
    assert_eq!(answer.text, expected);
    stage.stop().await;
}

#[tokio::test]
async fn each_document_that_cannot_be_judged_is_told_with_its_reason_and_the_others_are_judged() {
    let stage = Stage::start(SentimentSettings::default()).await;
    let long = "good ".repeat(1_025);
    let request = json!({"documents": [
        {"id": "fine", "text": "good"},
        {"text": "no id"},
        {"id": "", "text": "empty id"},
        {"id": "empty", "text": ""},
        {"id": "blank", "text": " \n"},
        {"id": "none"},
        {"id": "null", "text": null},
        {"id": "long", "text": long},
        {"id": "just", "text": &long[..5_120]},
        {"id": "german", "language": "de", "text": "gut"},
        {"id": 7, "language": "EN", "text": "a number for an id"},
    ]});
    let answer = stage.post(request.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let answer = answer.json();
    let ids = |part: &str| -> Vec<String> {
        answer[part].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids("documents"), ["fine", "just", "7"]);
    assert_eq!(ids("errors"), ["", "", "empty", "blank", "none", "null", "long", "german"]);
    let message = |index: usize| answer["errors"][index]["message"].as_str().unwrap();
    assert_eq!(message(0), "Document id is missing. Make sure each document has a unique Id.");
    assert_eq!(message(2), "Record cannot be null/empty");
    assert_eq!(
        message(6),
        "A document within the request was too large to be processed. Limit document size to: 5120 text elements. For additional details on the data limitations see https://aka.ms/text-analytics-data-limits"
    );
    assert_eq!(message(7), "Supplied language not supported. Pass in one of:en,nl");
    assert_eq!(stage.count("shunt_sentiment_refused_texts_total{reason=\"empty\"}").await, 4);
    assert_eq!(stage.count("shunt_sentiment_texts_total{backend=\"local\"}").await, 3);
    stage.stop().await;
}

#[tokio::test]
async fn a_request_that_is_none_is_refused_in_the_form_of_the_api() {
    let stage = Stage::start(SentimentSettings::default()).await;
    let many: Vec<Value> = (0..1_001).map(|id| json!({"id": id.to_string(), "text": "x"})).collect();
    for (body, code, message) in [
        (
            json!({ "documents": many }).to_string(),
            "InvalidDocumentBatch",
            "Batch request contains too many records. Max 1000 records are permitted.",
        ),
        (json!({"documents": []}).to_string(), "MissingInputRecords", "Missing input records."),
        ("{}".to_owned(), "MissingInputRecords", "Missing input records."),
        (
            json!({"documents": [{"id": "1", "text": "a"}, {"id": "1", "text": "b"}]}).to_string(),
            "InvalidDocument",
            "Request contains duplicated Ids. Make sure each document has a unique Id.",
        ),
    ] {
        let answer = stage.post(body).await;
        let expected = format!(
            r#"{{"code":"BadRequest","message":"Invalid request","innerError":{{"code":"{code}","message":"{message}"}}}}"#
        );
        assert_eq!((answer.status, answer.text), (400, expected));
    }
    for body in ["", "{", "7", "text", r#"{"documents":{}}"#, r#"{"documents":[{"text":1}]}"#, "\u{0}\u{1}"] {
        let answer = stage.post(body).await;
        assert_eq!(
            (answer.status, &answer.json()["innerError"]["code"]),
            (400, &json!("InvalidRequestBodyFormat"))
        );
    }
    let thousand: Vec<Value> = many[..1_000].to_vec();
    let answer = stage.post(json!({ "documents": thousand }).to_string()).await;
    assert_eq!((answer.status, answer.json()["documents"].as_array().unwrap().len()), (200, 1_000));
    let large = stage.post(vec![b' '; (1 << 20) + 1]).await;
    assert_eq!((large.status, &large.json()["code"]), (413, &json!("BadRequest")));
    stage.stop().await;
}

#[tokio::test]
async fn what_is_not_there_is_answered_as_the_cloud_does() {
    let stage = Stage::start(SentimentSettings::default()).await;
    for path in [crate::stage::PATH, "/text/analytics/v2.0/languages", "/text/analytics/v3.0/sentiment"] {
        let expected = r#"{"statusCode":404,"message":"Resource not found"}"#.to_owned();
        assert_eq!(stage.get(path).await, (404, expected), "{path}");
    }
    assert_eq!(stage.get("/nothing").await.0, 404);
    stage.stop().await;
}

#[tokio::test]
async fn the_pages_of_the_container_are_there_and_need_no_internet() {
    let stage = Stage::start(SentimentSettings::default()).await;
    assert_eq!(stage.get("/ready").await, (200, r#"{"service":"sentiment","ready":"ready"}"#.to_owned()));
    let (status, text) = stage.get("/status").await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &answer["apiStatus"]), (200, &json!("Valid")));
    assert_eq!(answer["model"], "shunt-sentiment");
    let (status, page) = stage.get("/swagger").await;
    assert_eq!(status, 200);
    assert!(page.contains("/text/analytics/v2.0/sentiment"));
    assert!(!page.contains("://"), "the page asks somebody else for something");
    assert_eq!(stage.get("/").await.1, page);
    for path in ["/swagger/v1/swagger.json", "/openapi.json"] {
        let (status, text) = stage.get(path).await;
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(status, 200);
        assert!(document["paths"][crate::stage::PATH]["post"].is_object(), "{path}");
    }
    let (status, page) = stage.get("/metrics").await;
    assert_eq!(status, 200);
    shunt_module::check_page(&page).unwrap();
    stage.stop().await;
}
