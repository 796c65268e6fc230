//! The same number as long as a face stays.

use emotion::EmotionSettings;
use shunt_vision::{Picture, Rect, resize_region};

use crate::stage::{Stage, astronaut};

/// What a camera sees that looks at this part of the picture.
fn view(picture: &Picture, x: f32, y: f32, width: f32) -> Picture {
    resize_region(picture, Rect { x, y, width, height: width * 0.75 }, 320, 240)
}

#[tokio::test]
async fn a_face_keeps_its_number_while_the_camera_pans_and_zooms() {
    let mut stage = Stage::start().await;
    // On some views a patch of the suit looks a little like a face.
    stage.settings.propose(EmotionSettings { max_faces: 1, ..EmotionSettings::default() }).await.unwrap();
    let picture = astronaut();
    let mut numbers = Vec::new();
    let mut middles = Vec::new();
    for step in 0..25_u8 {
        let step = f32::from(step);
        // On one or two views it is not found: it must be the same face afterwards.
        if stage.emotions_without_face(&view(&picture, step * 3.0, step, 320.0 - step * 4.0)).await {
            continue;
        }
        let face = stage.emotion().await.face;
        numbers.push(face.track);
        middles.push(face.bounds.x + face.bounds.width / 2.0);
    }
    assert!(numbers.len() >= 20, "found in {} of 25 views", numbers.len());
    numbers.dedup();
    assert_eq!(numbers.len(), 1, "{numbers:?}");
    assert!((middles[0] - middles[middles.len() - 1]).abs() > 20.0, "the face did not move: {middles:?}");
}

#[tokio::test]
async fn a_face_that_was_away_for_long_gets_a_new_number() {
    let mut stage = Stage::start().await;
    let (picture, empty) = (astronaut(), Picture::filled(360, 300, [70; 3]));
    stage.show(&picture).await;
    let first = stage.emotion().await.face.track;
    for _ in 0..8 {
        assert!(stage.emotions_without_face(&empty).await);
    }
    stage.show(&picture).await;
    let second = stage.emotion().await.face.track;
    assert!(second > first, "{second} after {first}");
}

#[tokio::test]
async fn a_restarted_module_gives_other_numbers() {
    let mut stage = Stage::start().await;
    stage.show(&astronaut()).await;
    let first = stage.emotion().await.face.track;
    let file = stage.folder.path().join("data/emotion/tracks");
    let reserved: u64 = std::fs::read_to_string(file).unwrap().parse().unwrap();
    assert!(reserved > first);
}
