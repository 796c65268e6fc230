//! Video files and RTSP, through `OpenCV`.

use std::path::PathBuf;

use camera::CameraSettings;
use shunt_testkit::shared_dir;

use crate::camera::{Camera, SOON, settings};

fn clip(name: &str) -> Option<PathBuf> {
    let clip = shared_dir()?.join("models/video").join(name);
    clip.is_file().then_some(clip)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_video_file_is_shown_in_its_own_rhythm_and_looped() {
    let Some(clip) = clip("carphone_pristine.mp4") else {
        println!("skipped: the sample clips are not there");
        return;
    };
    let mut camera =
        Camera::start(CameraSettings { fps: 120.0, width: 176, height: 144, ..settings(&clip) }).await;
    let first = camera.frame().await;
    assert_eq!((first.picture.width, first.picture.height), (176, 144));
    // A picture of a clip of a man in a car: neither black nor one colour.
    let (dark, bright) =
        first.picture.pixels.iter().fold((255, 0), |(low, high), &byte| (low.min(byte), high.max(byte)));
    assert!(dark < 60 && bright > 180, "{dark} to {bright}");
    // 120 pictures: so it has begun again.
    let last = camera.frame_where(|frame| frame.sequence > first.sequence + 150).await;
    let seconds = last.stamps.capture().since(first.stamps.capture()).as_secs_f64();
    assert!(seconds > 4.0, "150 pictures of 30 a second took {seconds} s");
    camera.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_video_file_shown_once_comes_to_its_end() {
    let Some(clip) = clip("carphone_pristine.mp4") else {
        println!("skipped: the sample clips are not there");
        return;
    };
    let mut camera = Camera::start(CameraSettings { r#loop: false, ..settings(&clip) }).await;
    camera.frame().await;
    camera.ended().await;
    camera.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_no_video_and_streams_of_nobody_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.mp4");
    let camera = Camera::start(settings(&path)).await;
    assert!(camera.failure().await.contains("No such file"));
    std::fs::write(&path, "not a video").unwrap();
    shunt_testkit::eventually(SOON, || async {
        camera.health.failing().iter().any(|(_, reason)| reason.contains("it is no video that FFmpeg knows"))
    })
    .await;
    camera.stop().await;

    let nobody = shunt_testkit::fresh_address().unwrap();
    let source = format!("rtsp://viewer:secret@{nobody}/1");
    let camera = Camera::start(CameraSettings { source, ..settings("/") }).await;
    let failure = camera.failure().await;
    assert!(failure.starts_with(&format!("rtsp://{nobody}/1: OpenCV cannot open it")), "{failure}");
    camera.stop().await;
}
