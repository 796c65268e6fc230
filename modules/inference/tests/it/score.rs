//! `POST /score` as the clients of gbaeke/emotion and gbaeke/resnet-score use it.

use std::path::PathBuf;

use inference::InferenceSettings;
use serde_json::{Value, json};
use shunt_infer::{Backends, Classifier, ModelStore, Tensor, Values};
use shunt_testkit::eventually;
use shunt_vision::{DecodeLimits, Picture, decode, encode_png, resize};

use crate::yard::{LIMIT, MODELS, Yard, blue, red, with_model};

/// FER+'s own request and answer, as the emotion container keeps them.
const FACE: &str = include_str!("../../../emotion/tests/golden/score-request.json");
const FACE_ANSWER: &str = include_str!("../../../emotion/tests/golden/score-answer.json");

const JSON: &str = "application/json";

/// A picture as the clients send it: channel by channel.
fn request(picture: &Picture) -> String {
    let picture = resize(picture, 224, 224);
    let channel = |channel: usize| {
        let row = |y: u32| (0..224).map(|x| picture.pixel(x, y).unwrap()[channel]).collect::<Vec<u8>>();
        (0..224).map(row).collect::<Vec<_>>()
    };
    json!({"data": [[channel(0), channel(1), channel(2)]]}).to_string()
}

fn grey_face(brightness: u8) -> String {
    json!({"data": [[vec![vec![brightness; 64]; 64]]]}).to_string()
}

fn result(answer: &Value) -> Vec<f64> {
    serde_json::from_value(answer["result"].clone()).unwrap()
}

/// What the clients do: they look for the largest, from 0.0 on.
fn best(answer: &Value) -> usize {
    let mut found = (0, 0.0);
    for (index, value) in result(answer).into_iter().enumerate() {
        if value > found.1 {
            found = (index, value);
        }
    }
    found.0
}

/// The module with these of the repository's own models, or of those that are put beside it for tests.
async fn real(model: Option<&str>, models_dir: PathBuf) -> Yard {
    let settings = InferenceSettings { model: model.map(ToOwned::to_owned), ..InferenceSettings::default() };
    Yard::start_with(settings, tempfile::tempdir().unwrap(), |common| common.models_dir = models_dir).await
}

#[tokio::test]
async fn the_shape_of_the_data_decides_the_model() {
    let yard = Yard::start(with_model("colours")).await;
    for (picture, expected) in [(red(), 0), (blue(), 2)] {
        let (status, headers, answer) = yard.post("/score", JSON, request(&picture)).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(headers["content-type"], "application/json");
        let keys: Vec<_> = answer.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["result", "time"]);
        assert_eq!((result(&answer).len(), best(&answer)), (3, expected));
        assert!((result(&answer).iter().sum::<f64>() - 1.0).abs() < 1e-5);
        assert!(answer["time"].as_f64().unwrap() > 0.0);
    }
    let (_, _, dark) = yard.post("/score", JSON, grey_face(20)).await;
    let (_, _, bright) = yard.post("/score", JSON, grey_face(230)).await;
    assert_eq!((result(&dark).len(), best(&dark), best(&bright)), (8, 0, 1));
}

#[tokio::test]
async fn score_answers_ferplus_golden_request_with_its_golden_probabilities() {
    let yard = real(None, shunt_testkit::repo_root().join("models")).await;
    yard.until_ready().await;
    let (status, _, answer) = yard.post("/score", JSON, FACE).await;
    assert_eq!(status, 200, "{answer}");
    let golden: Value = serde_json::from_str(FACE_ANSWER).unwrap();
    for (found, expected) in result(&answer).iter().zip(result(&golden)) {
        assert!((found - expected).abs() < 1e-3, "{answer} is not {golden}");
    }

    let Some(file) = shunt_testkit::sample_picture("chelsea.png") else {
        println!("Skipped: the picture of a cat is not there.");
        return;
    };
    let cat = decode(&std::fs::read(file).unwrap(), &DecodeLimits::default()).unwrap();
    let (status, _, scored) = yard.post("/score", JSON, request(&cat)).await;
    assert_eq!((status, result(&scored).len()), (200, 1_000), "{scored}");
    assert!((281..=285).contains(&best(&scored)), "{} is no cat", best(&scored));
    // The same numbers as for the same pixels in a file.
    let file = encode_png(&resize(&cat, 224, 224)).unwrap();
    let (status, _, seen) = yard.post("/image?top=1000", "image/png", file).await;
    assert_eq!(status, 200, "{seen}");
    assert_eq!(seen["predictions"].as_array().unwrap().len(), 1_000);
    for prediction in seen["predictions"].as_array().unwrap().iter().take(20) {
        let index: usize = prediction["tagId"].as_str().unwrap().parse().unwrap();
        let difference = result(&scored)[index] - prediction["probability"].as_f64().unwrap();
        assert!(difference.abs() < 1e-5, "{prediction}");
    }
}

#[tokio::test]
async fn a_class_for_the_background_is_left_out_so_that_the_clients_find_the_right_name() {
    let Some(models) = shunt_testkit::shared_dir().map(|shared| shared.join("models")) else {
        println!("Skipped: the weights are not there.");
        return;
    };
    let yard = real(Some("mobilenet-v2-quant"), models).await;
    eventually(LIMIT, || async {
        yard.get("/readyz").await.is_ok_and(|(_, page)| !page.contains("being loaded"))
    })
    .await;
    let (ready, page) = yard.get("/readyz").await.unwrap();
    if ready != 200 {
        assert!(std::env::var_os("CI").is_none(), "{page}");
        println!("Skipped: no back end here loads the model: {page}");
        return;
    }
    let Some(file) = shunt_testkit::sample_picture("chelsea.png") else {
        println!("Skipped: the picture of a cat is not there.");
        return;
    };
    let cat = decode(&std::fs::read(file).unwrap(), &DecodeLimits::default()).unwrap();
    let (status, _, scored) = yard.post("/score", JSON, request(&cat)).await;
    assert_eq!((status, result(&scored).len()), (200, 1_000), "{scored}");
    // Its place among the thousand, not that among the model's 1,001 classes.
    assert!((281..=285).contains(&best(&scored)), "{} is no cat", best(&scored));
}

#[test]
fn an_answer_with_what_is_no_number_is_no_answer() {
    let store = ModelStore::with_folders(vec![PathBuf::from(MODELS)]).unwrap();
    let classifier = Classifier::load(&store, "colours", &Backends::installed()).unwrap();
    let read = |scores: [f32; 3]| {
        classifier.read(vec![Tensor { shape: vec![1, 3], values: Values::F32(scores.to_vec()) }])
    };
    assert_eq!(read([0.0, 0.0, 0.0]).unwrap().len(), 3);
    let error = read([0.0, f32::NAN, 1.0]).unwrap_err().to_string();
    assert_eq!(error, "the model \"colours\" answered with what is no number");
}

#[tokio::test]
async fn score_refuses_what_is_no_request_and_says_where_and_why() {
    let yard = Yard::start(InferenceSettings { max_body_mb: 1, ..with_model("colours") }).await;
    let mut nan = grey_face(7);
    nan = nan.replacen('7', "NaN", 1);
    for (body, expected) in [
        (grey_face(7).replacen('7', "256", 1), "data[0][0][0][0] is 256 (byte 12)"),
        (grey_face(7).replacen('7', "7.5", 1), "data[0][0][0][0] is 7.5 (byte 12)"),
        (nan, "data[0][0][0][0] is NaN (byte 12)"),
        (grey_face(7).replacen('7', "null", 1), "data[0][0][0][0] is null"),
        (grey_face(7).replacen("7,", "", 1), "not all are of the same length"),
        (
            json!({"data": [[vec![vec![0; 48]; 48]]]}).to_string(),
            "data has the shape [1, 1, 48, 48]; [1, 1, 64, 64] is",
        ),
        (json!({"data": []}).to_string(), "data has the shape [0, 0, 0, 0]"),
        (json!({"data": {"a": 1}}).to_string(), "data is an object (byte 8), but must be a list"),
        (json!({"image": 1}).to_string(), "the field `data` is missing"),
        ("{\"data\": [[[[1, 2".to_owned(), "the body ends after 17 bytes"),
        ("hello".to_owned(), "hello at byte 0, where an object must be"),
    ] {
        let (status, headers, answer) = yard.post("/score", JSON, body).await;
        assert_eq!((status, &answer["status"]), (400, &json!(400)), "{answer}");
        assert_eq!(headers["content-type"], "application/problem+json");
        let detail = answer["detail"].as_str().unwrap();
        assert!(detail.contains(expected), "{expected:?} is not in {detail:?}");
    }
    // A fraction of zeros is what Python makes of an array of floating point numbers.
    let (status, _, answer) = yard.post("/score", JSON, grey_face(7).replace('7', "7.0")).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(yard.get("/score").await.unwrap().0, 405);
    assert_eq!(yard.count("shunt_inference_bad_requests_total{route=\"score\"}").await, 11);
}

#[tokio::test]
async fn a_model_for_faces_has_no_scores_and_says_so() {
    let yard = Yard::start(with_model("blazeface-full-range")).await;
    let (status, _, answer) = yard.post("/score", JSON, request(&red())).await;
    assert_eq!(status, 409, "{answer}");
    assert_eq!(answer["detail"], "the model \"blazeface-full-range\" tells no probabilities of classes");
}
