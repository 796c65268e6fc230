//! Each event type in both forms, byte for byte. `SHUNT_WRITE_GOLDEN=1` writes the files anew; read the
//! difference before you commit it: others have written programs against these forms.

use std::{fmt::Debug, fs, path::PathBuf};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use shunt_wire::{
    BinaryMessage, Envelope, Kind, Mono, Stamps,
    events::{
        DeadLetter, Emotion, Expression, Face, Frame, FramePixels, FrameRef, PixelFormat, Presence,
        Probabilities, Rect,
    },
};

pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden").join(name)
}

/// Compares with the file.
fn check_text(name: &str, value: &Value) {
    let text = format!("{value:#}\n");
    if std::env::var_os("SHUNT_WRITE_GOLDEN").is_some() {
        fs::write(path(name), &text).unwrap();
    }
    let golden = fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(text, golden, "{name}");
}

/// Both forms of this event are those of the files, and are read back as this event.
fn check(name: &str, envelope: &Envelope) {
    let BinaryMessage { content_type, attributes, body } = envelope.to_binary();
    let binary = match String::from_utf8(body.to_vec()) {
        Ok(text) => json!({"content-type": content_type, "user-properties": attributes, "payload": text}),
        Err(_) => json!({
            "content-type": content_type,
            "user-properties": attributes,
            "payload-base64": BASE64_STANDARD.encode(&body),
        }),
    };
    check_text(&format!("{name}.binary.json"), &binary);
    assert_eq!(
        &Envelope::from_binary(content_type.as_deref(), &attributes, body).unwrap(),
        envelope,
        "{name}"
    );

    let structured = envelope.to_structured().unwrap();
    check_text(&format!("{name}.structured.json"), &serde_json::from_slice(&structured).unwrap());
    let golden = fs::read(path(&format!("{name}.structured.json"))).unwrap();
    assert_eq!(&Envelope::from_structured(&golden).unwrap(), envelope, "{name}");
    let mode = Some("application/cloudevents+json; charset=utf-8");
    let none: &[(String, String)] = &[];
    assert_eq!(&Envelope::from_binary(mode, none, structured.into()).unwrap(), envelope, "{name}");
}

/// The same for an event whose data is JSON.
fn check_json<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, envelope: Envelope, data: &T) {
    let envelope = envelope.with_json(data).unwrap();
    check(name, &envelope);
    assert_eq!(&envelope.json::<T>().unwrap(), data, "{name}");
}

/// An event that went through camera and emotion.
fn event(kind: Kind) -> Envelope {
    let mut stamps = Stamps::captured(Mono::from_nanos(5_000_000_000));
    stamps.close(&"camera".parse().unwrap(), Mono::from_nanos(5_000_120_000));
    let mut stamps = stamps.follow(Mono::from_nanos(5_000_300_000));
    stamps.close(&"emotion".parse().unwrap(), Mono::from_nanos(5_021_000_000));
    let mut envelope =
        Envelope::new("7f3a90c2-12", kind, "front-door".parse().unwrap(), "2026-11-21T09:00:00.25Z");
    envelope.traceparent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned());
    envelope.with_stamps(stamps)
}

fn face() -> Face {
    let bounds = Rect { x: 12.5, y: 40.0, width: 96.25, height: 120.0 };
    Face { sequence: 41, width: 640, height: 480, track: 3, bounds, score: 0.875 }
}

#[test]
fn frame_in_shared_memory() {
    let reference = FrameRef { ring: "front-door".parse().unwrap(), slot: 2, generation: 77 };
    let pixels = FramePixels::Shared { format: PixelFormat::Rgb8, reference };
    let frame = Frame { sequence: 41, width: 640, height: 480, pixels };
    let envelope = frame.write(event(Kind::FRAME)).unwrap();
    check("frame-shared", &envelope);
    assert_eq!(Frame::read(&envelope).unwrap(), frame);
}

#[test]
fn frame_as_jpeg() {
    let pixels = FramePixels::Jpeg(vec![0xFF, 0xD8, 0xFF, 0xD9].into());
    let frame = Frame { sequence: 41, width: 640, height: 480, pixels };
    let envelope = frame.write(event(Kind::FRAME)).unwrap();
    check("frame-jpeg", &envelope);
    assert_eq!(Frame::read(&envelope).unwrap(), frame);
}

#[test]
fn face_event() {
    check_json("face", event(Kind::FACE).with_subject("track-3"), &face());
}

#[test]
fn emotion_event() {
    let probabilities =
        Probabilities::from_fer_plus([0.0625, 0.75, 0.0625, 0.03125, 0.03125, 0.03125, 0.015_625, 0.015_625]);
    let (emotion, probability) = probabilities.best();
    assert_eq!(emotion, Expression::Happiness);
    let models = vec!["blazeface-full-range".to_owned(), "ferplus-small".to_owned()];
    let (inference_ms, model_ms) = (15.5, 14.25);
    let data = Emotion { face: face(), emotion, probability, probabilities, models, inference_ms, model_ms };
    check_json("emotion", event(Kind::EMOTION).with_subject("track-3"), &data);
}

#[test]
fn presence_event() {
    let mut envelope = event(Kind::PRESENCE);
    (envelope.stamps, envelope.traceparent) = (None, None);
    check_json(
        "presence",
        envelope,
        &Presence { online: true, version: "0.1.0".to_owned(), port: Some(8081), host: None },
    );
}

#[test]
fn dead_letter_event() {
    let data = DeadLetter {
        topic: "shunt/face/front-door".to_owned(),
        reason: "the event has no attribute \"id\"".to_owned(),
        excerpt: "{\"hello\":".to_owned(),
    };
    check_json("dead-letter", event(Kind::DEAD_LETTER), &data);
}

#[test]
fn an_event_without_data() {
    check("empty", &event(Kind::ALERT).with_extension("severity", 3));
}
