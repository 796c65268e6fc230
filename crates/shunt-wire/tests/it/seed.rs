//! The formats that existing clients use, byte for byte.

use std::fs;

use shunt_wire::seed::{ScoreAnswer, ScoreRequest};

use crate::golden::path;

#[test]
fn a_score_request_is_read_in_batch_channel_height_width() {
    let text = fs::read(path("score-request.json")).unwrap();
    let request: ScoreRequest = serde_json::from_slice(&text).unwrap();
    assert_eq!(request, ScoreRequest { shape: [1, 1, 2, 3], values: vec![0, 1, 2, 253, 254, 255] });
}

#[test]
fn a_score_request_of_three_channels_is_read_channel_by_channel() {
    let text = fs::read(path("score-request-colour.json")).unwrap();
    let request: ScoreRequest = serde_json::from_slice(&text).unwrap();
    assert_eq!(request.shape, [1, 3, 1, 2]);
    assert_eq!(request.values, [255, 0, 128, 64, 1, 2]);
}

#[test]
fn a_score_answer_is_flat_and_its_time_a_plain_number() {
    let text = fs::read_to_string(path("score-answer.json")).unwrap();
    let result = vec![0.0625, 0.75, 0.0625, 0.03125, 0.03125, 0.03125, 0.015_625, 0.015_625];
    let answer = ScoreAnswer { result, time: 0.0029 };
    assert_eq!(serde_json::to_string(&answer).unwrap(), text.trim_end());
    assert_eq!(serde_json::from_str::<ScoreAnswer>(&text).unwrap(), answer);
}

#[test]
fn a_score_request_that_is_none_is_refused_with_a_reason() {
    for (text, reason) in [
        ("{}", "missing field `data`"),
        (r#"{"data":[[[[1,2],[3]]]]}"#, "same length"),
        (r#"{"data":[[[[1,2]],[[3]]]]}"#, "same length"),
        (r#"{"data":[[[[256]]]]}"#, "256"),
        (r#"{"data":[[[[-1]]]]}"#, "-1"),
        (r#"{"data":[[[[0.5]]]]}"#, "floating point"),
        (r#"{"data":[[[1]]]}"#, "expected a sequence"),
        (r#"{"data":"x"}"#, "expected a sequence"),
        ("[", "EOF"),
    ] {
        let error = serde_json::from_str::<ScoreRequest>(text).unwrap_err().to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
    let nothing: ScoreRequest = serde_json::from_str(r#"{"data":[]}"#).unwrap();
    assert_eq!(nothing.shape, [0, 0, 0, 0]);
}
