//! The two ways of pixels: shared memory, or JPEG in the event.

use shunt_frames::FrameWriter;
use shunt_wire::Name;

use crate::camera::{Camera, RED, all, settings, write_picture};

#[tokio::test(flavor = "multi_thread")]
async fn without_shared_memory_the_event_holds_a_jpeg() {
    let pictures = tempfile::tempdir().unwrap();
    write_picture(&pictures.path().join("1.png"), 160, 120, RED);
    let mut camera = Camera::start_with(tempfile::tempdir().unwrap(), settings(pictures.path()), None).await;
    let frame = camera.frame().await;
    assert!(!frame.shared && all(&frame.picture, RED));
    camera.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_shared_memory_that_cannot_be_used_frames_go_as_jpeg_and_the_ring_is_tried_again() {
    let pictures = tempfile::tempdir().unwrap();
    write_picture(&pictures.path().join("1.png"), 160, 120, RED);
    let folder = tempfile::tempdir().unwrap();
    // Another writer of this ring lives, as when an old container is still on its way out.
    let ring = Name::from_static("front-door");
    let other = FrameWriter::create(&folder.path().join("frames"), &ring, 2, 100).unwrap();
    let frames = folder.path().join("frames");
    let mut camera = Camera::start_with(folder, settings(pictures.path()), Some(frames)).await;
    let frame = camera.frame().await;
    assert!(!frame.shared && all(&frame.picture, RED));
    let (status, _, page) = camera.get("/readyz").await;
    assert_eq!(status, 200);
    assert!(String::from_utf8(page).unwrap().contains("has a living writer already"));
    drop(other);
    camera.frame_where(|frame| frame.shared).await;
    camera.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_frame_tells_its_capture_and_when_it_was_sent() {
    let pictures = tempfile::tempdir().unwrap();
    write_picture(&pictures.path().join("1.png"), 160, 120, RED);
    let begin = shunt_bus::clock::now();
    let mut camera = Camera::start(settings(pictures.path())).await;
    for _ in 0..5 {
        let frame = camera.frame().await;
        let [hop] = frame.stamps.hops() else { panic!("{:?}", frame.stamps) };
        assert_eq!(hop.module.as_str(), "camera");
        assert_eq!(hop.received, frame.stamps.capture());
        assert!(begin < hop.received && hop.received < hop.sent && hop.sent < shunt_bus::clock::now());
    }
    camera.stop().await;
}
