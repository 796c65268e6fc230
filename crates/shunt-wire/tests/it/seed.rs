//! The formats that existing clients use, byte for byte.

use std::fs;

use shunt_wire::seed::{ScoreAnswer, ScoreRequest};

use crate::golden::path;

#[test]
fn a_score_request_is_read_in_batch_channel_height_width() {
    let text = fs::read(path("score-request.json")).unwrap();
    let request = ScoreRequest::parse(&text).unwrap();
    assert_eq!(request, ScoreRequest { shape: [1, 1, 2, 3], values: vec![0, 1, 2, 253, 254, 255] });
}

#[test]
fn a_score_request_of_three_channels_is_read_channel_by_channel() {
    let text = fs::read(path("score-request-colour.json")).unwrap();
    let request = ScoreRequest::parse(&text).unwrap();
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
fn a_score_request_that_is_none_is_refused_with_the_place_and_the_reason() {
    for (text, reason) in [
        ("", "the body ends after 0 bytes, before the request does"),
        ("[", "a list at byte 0, where an object must be: wanted is {\"data\": ...}"),
        ("{}", "the field `data` is missing"),
        (r#"{"picture": [{"data": 1}]}"#, "the field `data` is missing"),
        (r#"{"picture": }"#, "`}` at byte 12, where a value in JSON must be: wanted is {\"data\": ...}"),
        (r#"{"data":[]"#, "the body ends after 10 bytes, before the request does"),
        (r#"{"data":[]} x"#, "x at byte 12, where the end of the body must be: wanted is {\"data\": ...}"),
        (
            r#"{"data":[],"data":[]}"#,
            "a list at byte 18, where another field than a second `data` must be: wanted is {\"data\": ...}",
        ),
        (
            r#"{"data":[[[[1,2],[3]]]]}"#,
            "data[0][0][1] has 1 values where those before it have 2: not all are of the same length",
        ),
        (
            r#"{"data":[[[[1,2]],[[3]]]]}"#,
            "data[0][1][0] has 1 values where those before it have 2: not all are of the same length",
        ),
        (
            r#"{"data":[[[[1],[2]],[[3]]]]}"#,
            "data[0][1] has 1 values where those before it have 2: not all are of the same length",
        ),
        (
            r#"{"data":[[[[255, 256]]]]}"#,
            "data[0][0][0][1] is 256 (byte 17), but must be a whole number from 0 to 255",
        ),
        (
            r#"{"data":[[[[1,99999999999999]]]]}"#,
            "data[0][0][0][1] is 99999999999999 (byte 14), but must be a whole number from 0 to 255",
        ),
        (
            r#"{"data":[[[[-1]]]]}"#,
            "data[0][0][0][0] is -1 (byte 12), but must be a whole number from 0 to 255",
        ),
        (
            r#"{"data":[[[[0.5]]]]}"#,
            "data[0][0][0][0] is 0.5 (byte 12), but must be a whole number from 0 to 255",
        ),
        (
            r#"{"data":[[[[1e2]]]]}"#,
            "data[0][0][0][0] is 1e2 (byte 12), but must be a whole number from 0 to 255",
        ),
        (
            r#"{"data":[[[[07]]]]}"#,
            "data[0][0][0][0] is 07 (byte 12), but must be a whole number from 0 to 255",
        ),
        (
            r#"{"data":[[[[1],[NaN]]]]}"#,
            "data[0][0][1][0] is NaN (byte 16), but must be a whole number from 0 to 255",
        ),
        (
            r#"{"data":[[[[null]]]]}"#,
            "data[0][0][0][0] is null (byte 12), but must be a whole number from 0 to 255",
        ),
        (
            r#"{"data":[[[["1"]]]]}"#,
            "data[0][0][0][0] is a text (byte 12), but must be a whole number from 0 to 255",
        ),
        (
            r#"{"data":[[[[[1]]]]]}"#,
            "data[0][0][0][0] is a list (byte 12), but must be a whole number from 0 to 255",
        ),
        (
            r#"{"data":[[[[1,]]]]}"#,
            "data[0][0][0][1] is `]` (byte 14), but must be a whole number from 0 to 255",
        ),
        (
            r#"{"data":[[[[1 2]]]]}"#,
            "2 at byte 14, where a comma or the end of the list must be: wanted is {\"data\": ...}",
        ),
        (
            r#"{"data":[[[1]]]}"#,
            "data[0][0][0] is 1 (byte 11), but must be a list: data is nested four deep, batch, channels, rows, values",
        ),
        (
            r#"{"data":"x"}"#,
            "data is a text (byte 8), but must be a list: data is nested four deep, batch, channels, rows, values",
        ),
        (r#"{"data":[[[[1, 2"#, "the body ends after 16 bytes, before the request does"),
    ] {
        assert_eq!(ScoreRequest::parse(text.as_bytes()).unwrap_err().to_string(), reason, "{text}");
    }
    assert_eq!(ScoreRequest::parse(br#"{"data":[]}"#).unwrap().shape, [0, 0, 0, 0]);
}

#[test]
fn a_score_request_may_have_other_fields_spaces_and_fractions_of_zeros() {
    let text = b" { \"id\" : {\"data\": [1]} ,\n\"data\" : [ [ [ [ 1.0 , 2.00,3\t] , [0,0,0.0] ] ] ] , \"x\": null } \n";
    let request = ScoreRequest::parse(text).unwrap();
    assert_eq!(request, ScoreRequest { shape: [1, 1, 2, 3], values: vec![1, 2, 3, 0, 0, 0] });
}
