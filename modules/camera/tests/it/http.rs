//! The camera's own routes.

use camera::CameraSettings;
use shunt_vision::{DecodeLimits, decode};

use crate::camera::{Camera, GREEN, RED, SOON, all, client, settings, write_picture};

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_the_newest_frame() {
    let pictures = tempfile::tempdir().unwrap();
    write_picture(&pictures.path().join("1.png"), 160, 120, RED);
    let camera = Camera::start(settings(pictures.path())).await;
    let (status, content, body) = camera.get("/snapshot.jpg").await;
    assert_eq!((status, content.as_str()), (200, "image/jpeg"));
    assert!(all(&decode(&body, &DecodeLimits::default()).unwrap(), RED));
    let (status, content, page) = camera.get("/").await;
    assert!(status == 200 && content.starts_with("text/html"));
    assert!(String::from_utf8(page).unwrap().contains("stream.mjpg"));
    assert_eq!(camera.get("/healthz").await.0, 200);
    camera.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_frame_a_snapshot_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let camera = Camera::start(settings(folder.path())).await;
    let (status, content, body) = camera.get("/snapshot.jpg").await;
    assert_eq!((status, content.as_str()), (503, "application/problem+json"));
    assert!(String::from_utf8(body).unwrap().contains("the folder has no picture"));
    camera.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_camera_can_take_the_stream_of_this_one() {
    let pictures = tempfile::tempdir().unwrap();
    write_picture(&pictures.path().join("1.png"), 160, 120, GREEN);
    let first = Camera::start(CameraSettings { hold_s: 60.0, ..settings(pictures.path()) }).await;
    let mut second = Camera::start(settings(format!("{}/stream.mjpg", first.url))).await;
    for _ in 0..20 {
        assert!(all(&second.frame().await.picture, GREEN));
    }
    // The first ends its viewers' streams, too, and in time.
    first.stop().await;
    second.failure().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_are_limited_and_make_room_when_they_go() {
    let pictures = tempfile::tempdir().unwrap();
    write_picture(&pictures.path().join("1.png"), 160, 120, GREEN);
    let camera = Camera::start(settings(pictures.path())).await;
    let client = client();
    let view = || client.get(format!("{}/stream.mjpg", camera.url)).send();
    let mut viewers = Vec::new();
    for _ in 0..8 {
        let mut viewer = view().await.unwrap();
        assert_eq!(viewer.status(), 200);
        assert!(viewer.chunk().await.unwrap().is_some());
        viewers.push(viewer);
    }
    assert_eq!(view().await.unwrap().status(), 503);
    viewers.clear();
    tokio::time::timeout(SOON, async { while view().await.unwrap().status() != 200 {} }).await.unwrap();
    camera.stop().await;
}
