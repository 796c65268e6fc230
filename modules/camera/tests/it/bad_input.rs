//! Sources that fail, in part or wholly: reported by name, skipped or tried again, never fatal.

use shunt_testkit::eventually;
use shunt_vision::{Picture, encode_jpeg};

use crate::camera::{Camera, GREEN, RED, SOON, all, jpeg, settings, write_picture};

/// The head of a PNG file of 10000x5000 pixels; there are no pixels behind it.
fn fifty_megapixels() -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    png.extend(10_000_u32.to_be_bytes());
    png.extend(5_000_u32.to_be_bytes());
    png.extend([8, 2, 0, 0, 0]);
    // CRC-32 of IHDR, as PNG wants it.
    let mut crc = u32::MAX;
    for byte in &png[12..] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    png.extend((!crc).to_be_bytes());
    png.extend(b"\0\0\0\0IDAT");
    png
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_pictures_of_a_folder_are_skipped_and_the_good_ones_shown() {
    let pictures = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(pictures.path().join(name), bytes).unwrap();
    put("1-text.jpg", b"not a picture");
    put("2-empty.png", b"");
    let whole = encode_jpeg(&Picture::filled(400, 300, RED), 90).unwrap();
    put("3-truncated.jpg", &whole[..whole.len() / 2]);
    put("4-huge.png", &fifty_megapixels());
    std::fs::create_dir(pictures.path().join("5-folder.png")).unwrap();
    std::os::unix::fs::symlink("/nowhere", pictures.path().join("6-dangling.png")).unwrap();
    write_picture(&pictures.path().join("7-good.png"), 160, 120, GREEN);
    let mut camera = Camera::start(settings(pictures.path())).await;
    for _ in 0..30 {
        assert!(all(&camera.frame().await.picture, GREEN));
    }
    assert!(camera.metric("shunt_camera_frames_damaged_total").await >= 6.0);
    assert!(camera.health.is_ready());
    camera.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_with_no_readable_picture_is_reported_with_the_reason_and_tried_again() {
    let pictures = tempfile::tempdir().unwrap();
    for (bytes, reason) in [
        (b"no picture".to_vec(), "1.jpg: 10 bytes that are no JPEG, PNG, BMP, GIF or WebP picture"),
        (jpeg(RED)[..400].to_vec(), "1.jpg: the JPEG file is cut off after 400 bytes"),
        (fifty_megapixels(), "1.jpg: the picture has 10000x5000 pixels, 40 million are allowed"),
    ] {
        std::fs::write(pictures.path().join("1.jpg"), bytes).unwrap();
        let mut camera = Camera::start(settings(pictures.path())).await;
        let failure = camera.failure().await;
        assert!(
            failure
                .starts_with(&format!("{}: none of its 1 pictures can be read", pictures.path().display()))
        );
        assert!(failure.ends_with(reason), "{failure}");
        let (status, _, page) = camera.get("/readyz").await;
        assert_eq!(status, 503);
        assert!(String::from_utf8(page).unwrap().contains("none of its 1 pictures can be read"));
        assert!(camera.metric("shunt_camera_source_errors_total").await >= 1.0);
        write_picture(&pictures.path().join("1.jpg"), 160, 120, GREEN);
        camera.frame_where(|frame| all(&frame.picture, GREEN)).await;
        eventually(SOON, || async { camera.health.is_ready() }).await;
        camera.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_not_there_is_used_when_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = folder.path().join("pictures");
    let mut camera = Camera::start(settings(&pictures)).await;
    let failure = camera.failure().await;
    assert!(
        failure.ends_with("pictures: it cannot be read: No such file or directory (os error 2)"),
        "{failure}"
    );
    std::fs::create_dir(&pictures).unwrap();
    eventually(SOON, || async {
        camera.health.failing().iter().any(|(_, reason)| reason.contains("the folder has no picture"))
    })
    .await;
    write_picture(&pictures.join("1.png"), 160, 120, RED);
    camera.frame_where(|frame| all(&frame.picture, RED)).await;
    // The folder goes again, while the camera runs.
    std::fs::remove_dir_all(&pictures).unwrap();
    camera.failure().await;
    camera.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webcam_that_is_not_there_is_reported_and_another_source_taken_by_twin() {
    let pictures = tempfile::tempdir().unwrap();
    write_picture(&pictures.path().join("1.png"), 160, 120, RED);
    let mut camera = Camera::start(settings("/dev/video-nobody-has")).await;
    let failure = camera.failure().await;
    assert!(failure.starts_with("/dev/video-nobody-has: it cannot be read: No such file"), "{failure}");
    camera.change(|settings| pictures.path().to_str().unwrap().clone_into(&mut settings.source)).await;
    camera.frame_where(|frame| all(&frame.picture, RED)).await;
    eventually(SOON, || async { camera.health.is_ready() }).await;
    camera.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_camera_goes_on_while_the_broker_is_away() {
    let pictures = tempfile::tempdir().unwrap();
    write_picture(&pictures.path().join("1.png"), 160, 120, RED);
    let mut camera = Camera::start(settings(pictures.path())).await;
    let before = camera.frame().await.sequence;
    camera.broker.stop().await.unwrap();
    tokio::time::timeout(SOON, async {
        while camera.metric("shunt_camera_frames_unpublished_total").await < 3.0 {}
    })
    .await
    .unwrap();
    assert_eq!(camera.get("/snapshot.jpg").await.0, 200);
    camera.broker.restart().await.unwrap();
    assert!(camera.frame().await.sequence > before);
    camera.stop().await;
}
