//! `POST /score` as gbaeke/emotion has it, `POST /faces`, `GET /models`.

use serde_json::{Value, json};

use crate::stage::Stage;

const REQUEST: &str = include_str!("../golden/score-request.json");
const ANSWER: &str = include_str!("../golden/score-answer.json");

#[tokio::test]
async fn score_answers_the_seeds_request_with_its_golden_probabilities() {
    let stage = Stage::start().await;
    let (status, text) = stage.post("/score", REQUEST).await;
    assert_eq!(status, 200, "{text}");
    let (answer, golden): (Value, Value) =
        (serde_json::from_str(&text).unwrap(), serde_json::from_str(ANSWER).unwrap());
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&answer), keys(&golden));
    assert!(answer["time"].as_f64().unwrap() > 0.0);
    let numbers = |value: &Value| -> Vec<f64> { serde_json::from_value(value["result"].clone()).unwrap() };
    let (result, expected) = (numbers(&answer), numbers(&golden));
    assert_eq!(result.len(), 8);
    for (found, expected) in result.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-4, "{result:?} is not {expected:?}");
    }
    // The clients search for the largest from 0.0 on: it must be a probability. 1 is "happy" in their list.
    assert!(result.iter().all(|value| (0.0..=1.0).contains(value)));
    assert!(result[1] > 0.9);
}

#[tokio::test]
async fn score_refuses_what_is_not_a_face_and_says_why() {
    let stage = Stage::start().await;
    let rows = |rows: usize, columns: usize| json!({"data": [[vec![vec![0; columns]; rows]]]}).to_string();
    let mut ragged: Value = serde_json::from_str(&rows(64, 64)).unwrap();
    ragged["data"][0][0][5].as_array_mut().unwrap().pop();
    let mut large: Value = serde_json::from_str(&rows(64, 64)).unwrap();
    large["data"][0][0][5][5] = json!(256);
    for (body, expected) in [
        (rows(48, 48), "data has the shape [1, 1, 48, 48], but must have [1, 1, 64, 64]"),
        (json!({"data": vec![vec![vec![vec![0; 64]; 64]]; 2]}).to_string(), "[2, 1, 64, 64]"),
        (json!({"data": []}).to_string(), "[0, 0, 0, 0]"),
        (ragged.to_string(), "not all are of the same length"),
        (large.to_string(), "256"),
        (json!({"data": "face"}).to_string(), "data is a text (byte 8), but must be a list"),
        (json!({"picture": 1}).to_string(), "the field `data` is missing"),
        ("{\"data\": [[[[1, 2".to_owned(), "the body ends after 17 bytes"),
        (String::new(), "the body ends after 0 bytes"),
    ] {
        let (status, text) = stage.post("/score", body).await;
        assert_eq!(status, 400, "{text}");
        assert!(text.contains(expected), "{expected:?} is not in {text}");
    }
    assert_eq!(stage.post("/score", vec![b' '; 300_000]).await.0, 413);
    assert_eq!(stage.get("/score").await.unwrap().0, 405);
    assert_eq!(stage.post("/score", REQUEST).await.0, 200);
}

#[tokio::test]
async fn faces_of_a_posted_picture_are_answered() {
    let stage = Stage::start().await;
    let (status, text) = stage.post("/faces", &include_bytes!("../data/astronaut.jpg")[..]).await;
    assert_eq!(status, 200, "{text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&answer["width"], &answer["height"]), (&json!(360), &json!(300)));
    assert_eq!(answer["faces"].as_array().unwrap().len(), 1);
    assert_eq!(answer["faces"][0]["emotion"], "happiness");
    let (status, text) = stage.post("/faces", "no picture").await;
    assert_eq!(status, 400);
    assert!(text.contains("no JPEG, PNG, BMP, GIF or WebP picture"), "{text}");
    assert_eq!(stage.post("/faces", vec![0; 17 << 20]).await.0, 413);
}

#[tokio::test]
async fn models_in_use_are_described() {
    let stage = Stage::start().await;
    let (status, text) = stage.get("/models").await.unwrap();
    assert_eq!(status, 200);
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["in_use"][0]["name"], "blazeface-full-range");
    assert_eq!(answer["in_use"][1]["inputs"][0]["name"], "Input3");
    let known = answer["known"].as_array().unwrap();
    let small = known.iter().find(|model| model["name"] == "ferplus-small").unwrap();
    assert_eq!(small["here"], true);
}

#[tokio::test]
async fn the_page_of_metrics_is_in_order() {
    let stage = Stage::start().await;
    let (status, page) = stage.get("/metrics").await.unwrap();
    assert_eq!(status, 200);
    shunt_module::check_page(&page).unwrap();
    for metric in
        ["frames_total", "faces_total", "emotions_total{emotion=\"fear\"}", "inference_seconds_count"]
    {
        assert!(page.contains(&format!("shunt_emotion_{metric} ")), "{metric} is not in {page}");
    }
}
