//! Settings changed while the camera runs.

use camera::{Area, CameraSettings};
use shunt_vision::{DecodeLimits, Picture, decode, encode_png, fill};

use crate::camera::{BLACK, BLUE, Camera, GREEN, RED, all, is, settings, write_picture};

/// A picture whose left half is red and whose right half is green, its upper left corner blue.
fn halves() -> Vec<u8> {
    let mut picture = Picture::filled(160, 120, GREEN);
    fill(&mut picture, 0, 0, 80, 120, RED);
    fill(&mut picture, 0, 0, 30, 30, BLUE);
    encode_png(&picture).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn privacy_areas_are_black_from_the_moment_they_are_accepted() {
    let pictures = tempfile::tempdir().unwrap();
    std::fs::write(pictures.path().join("1.png"), halves()).unwrap();
    let mut camera = Camera::start(CameraSettings { hold_s: 60.0, ..settings(pictures.path()) }).await;
    let frame = camera.frame().await;
    assert!(is(&frame.picture, 20, 60, RED) && is(&frame.picture, 140, 60, GREEN));
    for round in 0..5 {
        let area = Area { x: 0.0, y: 0.25, width: 0.5, height: 0.5 };
        camera.change(|settings| settings.privacy = [("till".to_owned(), area)].into()).await;
        // From here on every picture that leaves must be black there, over every way out.
        let accepted = shunt_bus::clock::now();
        let (status, _, snapshot) = camera.get("/snapshot.jpg").await;
        assert_eq!(status, 200);
        let snapshot = decode(&snapshot, &DecodeLimits::default()).unwrap();
        assert!(is(&snapshot, 40, 60, BLACK), "round {round}");
        let mut after = 0;
        while after < 5 {
            let frame = camera.frame().await;
            let sent = frame.stamps.hops()[0].sent;
            if sent > accepted {
                after += 1;
                for (x, y) in [(0, 30), (79, 30), (0, 89), (79, 89), (40, 60)] {
                    assert_eq!(frame.picture.pixel(x, y), Some(&BLACK[..]), "round {round}: {x}, {y}");
                }
                assert!(is(&frame.picture, 20, 20, BLUE) && is(&frame.picture, 82, 60, GREEN));
            }
        }
        camera.change(|settings| settings.privacy.clear()).await;
        camera.frame_where(|frame| is(&frame.picture, 40, 60, RED)).await;
    }
    camera.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_turns_the_picture_clockwise_and_privacy_follows_the_frame() {
    let pictures = tempfile::tempdir().unwrap();
    std::fs::write(pictures.path().join("1.png"), halves()).unwrap();
    let mut camera = Camera::start(CameraSettings { hold_s: 60.0, ..settings(pictures.path()) }).await;
    camera.frame_where(|frame| is(&frame.picture, 5, 5, BLUE)).await;
    // Turned by a quarter, 160x120 is 120x160, and fits 160x120 as 90x120 with bars left and right.
    camera.change(|settings| settings.rotation = 90).await;
    let frame = camera.frame_where(|frame| is(&frame.picture, 120, 5, BLUE)).await.picture;
    assert_eq!((frame.width, frame.height), (160, 120));
    assert!(is(&frame, 50, 30, RED) && is(&frame, 80, 100, GREEN) && is(&frame, 10, 60, BLACK));
    camera.change(|settings| settings.rotation = 180).await;
    let frame = camera.frame_where(|frame| is(&frame.picture, 155, 115, BLUE)).await.picture;
    assert!(is(&frame, 20, 60, GREEN) && is(&frame, 120, 60, RED));
    camera.change(|settings| settings.rotation = 270).await;
    camera.frame_where(|frame| is(&frame.picture, 40, 115, BLUE)).await;
    let corner = Area { x: 0.5, y: 0.5, width: 0.5, height: 0.5 };
    camera
        .change(|settings| {
            settings.rotation = 180;
            settings.privacy.insert("corner".to_owned(), corner);
        })
        .await;
    camera
        .frame_where(|frame| is(&frame.picture, 155, 115, BLACK) && is(&frame.picture, 20, 60, GREEN))
        .await;
    camera.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn size_rate_name_and_source_change_while_it_runs() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_picture(&first.path().join("1.png"), 160, 120, RED);
    write_picture(&second.path().join("1.png"), 160, 120, GREEN);
    let mut camera = Camera::start(CameraSettings { hold_s: 60.0, ..settings(first.path()) }).await;
    camera.frame_where(|frame| all(&frame.picture, RED)).await;

    camera.change(|settings| (settings.width, settings.height) = (320, 240)).await;
    let frame = camera.frame_where(|frame| frame.picture.width == 320).await;
    assert!(frame.shared && all(&frame.picture, RED) && frame.picture.height == 240);

    camera.change(|settings| settings.fps = 5.0).await;
    camera.frame().await;
    let one = camera.frame().await;
    let other = camera.frame_where(|frame| frame.sequence == one.sequence + 3).await;
    let seconds = other.stamps.capture().since(one.stamps.capture()).as_secs_f64();
    assert!((0.4..3.0).contains(&seconds), "{seconds} s for three frames at 5 a second");

    camera.change(|settings| settings.fps = 50.0).await;
    camera.change(|settings| settings.name = "back-door".parse().unwrap()).await;
    let frame = camera.frame_where(|frame| frame.source.as_str() == "back-door").await;
    assert!(frame.shared && all(&frame.picture, RED));

    camera.change(|settings| second.path().to_str().unwrap().clone_into(&mut settings.source)).await;
    let changed = shunt_bus::clock::now();
    let frame = camera.frame_where(|frame| frame.stamps.capture() > changed).await;
    assert!(all(&frame.picture, GREEN));
    camera.stop().await;
}
