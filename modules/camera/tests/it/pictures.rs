//! Folders of pictures.

use std::collections::BTreeSet;

use camera::{CameraSettings, Motion};
use shunt_testkit::{eventually, sample_picture};
use shunt_vision::{Picture, encode_png, fill};

use crate::camera::{BLACK, BLUE, Camera, GREEN, RED, SOON, all, is, settings, write_picture};

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_shown_in_the_order_of_its_names_again_and_again() {
    let pictures = tempfile::tempdir().unwrap();
    write_picture(&pictures.path().join("1.png"), 160, 120, RED);
    write_picture(&pictures.path().join("2.png"), 320, 240, GREEN);
    write_picture(&pictures.path().join("3.png"), 80, 60, BLUE);
    let mut camera = Camera::start(settings(pictures.path())).await;
    let mut order = Vec::new();
    let mut sequence = None;
    while order.len() < 7 {
        let frame = camera.frame().await;
        assert!(sequence < Some(frame.sequence), "numbers rise");
        sequence = Some(frame.sequence);
        assert_eq!(frame.source.as_str(), "front-door");
        assert!(frame.shared);
        assert_eq!((frame.picture.width, frame.picture.height), (160, 120));
        let colour = [RED, GREEN, BLUE].into_iter().find(|&colour| all(&frame.picture, colour)).unwrap();
        if order.last() != Some(&colour) {
            order.push(colour);
        }
    }
    let start = [RED, GREEN, BLUE].iter().position(|colour| *colour == order[0]).unwrap();
    let expected: Vec<_> = [RED, GREEN, BLUE].into_iter().cycle().skip(start).take(7).collect();
    assert_eq!(order, expected);
    assert!(camera.health.is_ready());
    camera.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_is_held_for_its_time_at_the_rate_that_was_set() {
    let pictures = tempfile::tempdir().unwrap();
    for (name, colour) in [("1.png", RED), ("2.png", GREEN)] {
        write_picture(&pictures.path().join(name), 160, 120, colour);
    }
    let mut camera =
        Camera::start(CameraSettings { fps: 20.0, hold_s: 1.0, ..settings(pictures.path()) }).await;
    let mut last = camera.frame_where(|frame| all(&frame.picture, RED)).await;
    let green = camera.frame_where(|frame| all(&frame.picture, GREEN)).await;
    while let red = camera.frame().await
        && all(&red.picture, GREEN)
    {
        last = red;
    }
    // Numbers and capture times are the source's own, so a busy machine does not disturb them.
    let held = last.stamps.capture().since(green.stamps.capture()).as_secs_f64();
    assert!((0.7..3.0).contains(&held), "held for {held} s");
    let count = last.sequence - green.sequence + 1;
    assert!((3..=22).contains(&count), "{count} frames in a second at 20 a second");
    camera.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_picture_may_be_the_source_and_once_means_once() {
    let pictures = tempfile::tempdir().unwrap();
    let path = pictures.path().join("only.png");
    write_picture(&path, 160, 120, BLUE);
    let mut camera = Camera::start(CameraSettings { r#loop: false, ..settings(&path) }).await;
    assert!(all(&camera.frame().await.picture, BLUE));
    // It ends: the number of frames stands still, and the camera is ready as before.
    let mut before = -1.0;
    let ended = async || {
        let frames = camera.metric("shunt_camera_frames_total").await;
        let (_, _, page) = camera.get("/readyz").await;
        let stands = frames <= before && String::from_utf8(page).unwrap().contains("the source has ended");
        before = frames;
        stands
    };
    let mut ended = ended;
    tokio::time::timeout(SOON, async { while !ended().await {} }).await.unwrap();
    assert!((1.0..=12.0).contains(&before), "{before} frames in 0.2 s at 50 a second");
    assert!(camera.health.is_ready());
    camera.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_of_another_shape_gets_bars_and_is_not_distorted() {
    let pictures = tempfile::tempdir().unwrap();
    write_picture(&pictures.path().join("wide.png"), 320, 120, RED);
    let mut camera = Camera::start(settings(pictures.path())).await;
    let frame = camera.frame().await.picture;
    // 320x120 in 160x120 is 160x60 in the middle.
    assert!(is(&frame, 80, 20, BLACK) && is(&frame, 80, 100, BLACK));
    assert!(is(&frame, 3, 60, RED) && is(&frame, 156, 60, RED) && is(&frame, 80, 35, RED));
    camera.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_motion_moves_the_picture_and_keeps_the_middle_in_view() {
    let pictures = tempfile::tempdir().unwrap();
    let mut picture = Picture::filled(320, 240, [60, 60, 60]);
    fill(&mut picture, 140, 100, 40, 40, [255, 255, 255]);
    std::fs::write(pictures.path().join("1.png"), encode_png(&picture).unwrap()).unwrap();
    let mut camera =
        Camera::start(CameraSettings { hold_s: 60.0, motion: Motion::PanZoom, ..settings(pictures.path()) })
            .await;
    let mut corners = BTreeSet::new();
    while corners.len() < 10 {
        let frame = camera.frame().await.picture;
        // The middle is in view.
        let left = (0..160).find(|&x| is(&frame, x, 60, [255, 255, 255])).unwrap();
        let right = (0..160).rev().find(|&x| is(&frame, x, 60, [255, 255, 255])).unwrap();
        corners.insert((left, right));
    }
    camera.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_added_later_are_shown_in_the_next_round() {
    let pictures = tempfile::tempdir().unwrap();
    write_picture(&pictures.path().join("1.png"), 160, 120, RED);
    let mut camera = Camera::start(settings(pictures.path())).await;
    camera.frame_where(|frame| all(&frame.picture, RED)).await;
    write_picture(&pictures.path().join("2.png"), 160, 120, GREEN);
    camera.frame_where(|frame| all(&frame.picture, GREEN)).await;
    camera.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_pictures_are_all_shown() {
    let Some(face) = sample_picture("face.jpg") else {
        println!("skipped: the sample pictures are not there");
        return;
    };
    let folder = face.parent().unwrap();
    let count = std::fs::read_dir(folder)
        .unwrap()
        .filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|name| name != "google-coral"))
        .count();
    let mut camera =
        Camera::start(CameraSettings { width: 640, height: 480, hold_s: 0.1, fps: 20.0, ..settings(folder) })
            .await;
    let mut shown = BTreeSet::new();
    while shown.len() < count {
        let picture = camera.frame().await.picture;
        assert_eq!((picture.width, picture.height), (640, 480));
        shown.insert(picture.pixels.iter().map(|&byte| u64::from(byte)).sum::<u64>());
    }
    assert!(camera.metric("shunt_camera_frames_damaged_total").await < 1.0);
    eventually(SOON, || async { camera.health.is_ready() }).await;
    camera.stop().await;
}
