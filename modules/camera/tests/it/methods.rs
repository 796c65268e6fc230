//! The camera's own direct methods.

use base64::{Engine, prelude::BASE64_STANDARD};
use camera::{Area, CameraSettings};
use serde_json::{Value, json};
use shunt_vision::{DecodeLimits, Picture, decode};

use crate::camera::{BLACK, Camera, GREEN, RED, all, is, settings, write_picture};

fn picture(answer: &Value) -> Picture {
    let jpeg = BASE64_STANDARD.decode(answer["jpeg"].as_str().unwrap()).unwrap();
    decode(&jpeg, &DecodeLimits::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_by_method_has_its_privacy_areas_black() {
    let pictures = tempfile::tempdir().unwrap();
    write_picture(&pictures.path().join("1.png"), 160, 120, RED);
    let area = Area { x: 0.0, y: 0.0, width: 0.5, height: 1.0 };
    let private = CameraSettings { privacy: [("door".to_owned(), area)].into(), ..settings(pictures.path()) };
    let camera = Camera::start(private).await;
    let (status, answer) = camera.methods.call("snapshot", Value::Null).await;
    assert_eq!(status, 200, "{answer}");
    let shown = picture(&answer);
    assert_eq!(
        (answer["width"].as_u64(), answer["height"].as_u64()),
        (Some(shown.width.into()), Some(shown.height.into()))
    );
    assert!(
        is(&shown, shown.width / 4, shown.height / 2, BLACK)
            && is(&shown, shown.width * 3 / 4, shown.height / 2, RED)
    );
    assert_eq!(answer["content_type"], "image/jpeg");
    assert!(answer["time"].as_str().unwrap().ends_with('Z'), "{answer}");
    let (_, small) = camera.methods.call("snapshot", json!({"width": 32})).await;
    assert_eq!((small["width"].as_u64(), picture(&small).width), (Some(32), 32));
    for width in [json!(0), json!(-1), json!("wide")] {
        assert_eq!(camera.methods.call("snapshot", json!({ "width": width })).await.0, 400);
    }
    camera.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_by_method_says_why_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let camera = Camera::start(settings(folder.path())).await;
    let (status, answer) = camera.methods.call("snapshot", Value::Null).await;
    assert_eq!(status, 503);
    assert!(answer["message"].as_str().unwrap().contains("the folder has no picture"), "{answer}");
    camera.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_opens_the_source_anew() {
    let pictures = tempfile::tempdir().unwrap();
    write_picture(&pictures.path().join("1.png"), 160, 120, RED);
    // The one picture is shown for an hour: only a source that is opened anew shows the other.
    let mut camera = Camera::start(CameraSettings { hold_s: 3600.0, ..settings(pictures.path()) }).await;
    assert!(all(&camera.frame().await.picture, RED));
    write_picture(&pictures.path().join("1.png"), 160, 120, GREEN);
    assert_eq!(camera.methods.call("reload", Value::Null).await.0, 200);
    camera.frame_where(|frame| all(&frame.picture, GREEN)).await;
    camera.stop().await;
}
