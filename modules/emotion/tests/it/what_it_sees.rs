//! Faces and expressions in the events.

use shunt_frames::FrameWriter;
use shunt_testkit::eventually;
use shunt_vision::{Picture, fill};
use shunt_wire::{
    Name,
    events::{Expression, Face, FramePixels, PixelFormat},
};

use crate::stage::{LIMIT, Stage, TRACEPARENT, astronaut, jpeg, sample};
use emotion::EmotionSettings;

#[tokio::test]
async fn the_astronaut_is_happy_and_the_events_follow_their_frame() {
    let mut stage = Stage::start().await;
    let frame = stage.show(&astronaut()).await;
    let event = stage.emotion_event().await;
    let emotion: shunt_wire::events::Emotion = event.json().unwrap();
    assert_eq!(emotion.emotion, Expression::Happiness);
    assert!(emotion.probability > 0.85, "{emotion:?}");
    let sum: f32 = emotion.probabilities.to_fer_plus().iter().sum();
    assert!((sum - 1.0).abs() < 1e-4);
    assert_eq!(emotion.models, ["blazeface-full-range", "ferplus-small"]);
    assert!(emotion.model_ms > 0.0 && emotion.model_ms < emotion.inference_ms, "{emotion:?}");
    assert_eq!((emotion.face.width, emotion.face.height), (360, 300));
    let middle = emotion.face.bounds.x + emotion.face.bounds.width / 2.0;
    assert!((120.0..170.0).contains(&middle), "{:?}", emotion.face.bounds);

    assert_eq!(event.source, frame.source);
    assert_eq!(event.subject, Some(emotion.face.track.to_string()));
    assert_eq!(event.traceparent.as_deref(), Some(TRACEPARENT));
    let (stamps, frame_stamps) = (event.stamps.unwrap(), frame.stamps.unwrap());
    assert_eq!(stamps.capture(), frame_stamps.capture());
    let hops: Vec<_> = stamps.hops().iter().map(|hop| hop.module.to_string()).collect();
    assert_eq!(hops, ["tester", "emotion"]);

    let face = stage.face_event().await;
    assert_eq!(face.json::<Face>().unwrap(), emotion.face);
    stage.stop.cancel();
    tokio::time::timeout(LIMIT, stage.running).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn four_people_are_seen_and_no_dog_or_cat() {
    let mut stage = Stage::start().await;
    for (name, expected) in
        [("face.jpg", 4), ("pets.jpg", 0), ("cat_720p.jpg", 0), ("chelsea.png", 0), ("grace_hopper.bmp", 1)]
    {
        let Some(picture) = sample(name) else { continue };
        let found = stage.emotions_of(&picture).await;
        assert_eq!(found.len(), expected, "{name}: {found:?}");
        let mut tracks: Vec<_> = found.iter().map(|emotion| emotion.face.track).collect();
        tracks.sort_unstable();
        tracks.dedup();
        assert_eq!(tracks.len(), expected, "{name}");
    }
}

#[tokio::test]
async fn a_picture_without_a_face_brings_no_event() {
    let mut stage = Stage::start().await;
    let mut picture = Picture::filled(640, 480, [80, 110, 140]);
    fill(&mut picture, 200, 100, 200, 300, [220, 190, 60]);
    assert_eq!(stage.emotions_of(&picture).await, []);
}

#[tokio::test]
async fn frames_are_read_from_shared_memory() {
    let frames = tempfile::tempdir().unwrap();
    let mut stage = Stage::start_with(EmotionSettings::default(), |common| {
        common.frames_dir = Some(frames.path().to_owned());
    })
    .await;
    stage.until_ready().await;
    let picture = astronaut();
    let ring: Name = "front-door".parse().unwrap();
    let mut writer = FrameWriter::create(frames.path(), &ring, 4, picture.pixels.len()).unwrap();
    let mut write = |picture: &Picture| {
        let Picture { width, height, .. } = *picture;
        let fill = |pixels: &mut [u8]| pixels.copy_from_slice(&picture.pixels);
        let reference = writer.write(width, height, PixelFormat::Rgb8, fill).unwrap();
        FramePixels::Shared { format: PixelFormat::Rgb8, reference }
    };
    let pixels = write(&picture);
    stage.send(pixels.clone()).await;
    assert_eq!(stage.emotion().await.emotion, Expression::Happiness);

    // Its slot is written over before the event comes: the frame is gone, which is counted and no harm.
    for _ in 0..8 {
        write(&picture);
    }
    stage.send(pixels).await;
    let gone = "shunt_emotion_frames_skipped_total{reason=\"gone\"}";
    eventually(LIMIT, || async { stage.count(gone).await == 1 }).await;
    stage.send(write(&picture)).await;
    assert_eq!(stage.emotion().await.emotion, Expression::Happiness);
}

#[tokio::test]
async fn the_newest_frame_wins_and_skipped_ones_are_counted() {
    let stage = Stage::start().await;
    let pixels = jpeg(&astronaut());
    let (judged, skipped) =
        ("shunt_emotion_frames_total", "shunt_emotion_frames_skipped_total{reason=\"newer\"}");
    let before = stage.count(judged).await + stage.count(skipped).await;
    for _ in 0..40 {
        stage.send(pixels.clone()).await;
    }
    let dropped = "shunt_bus_dropped_events_total{direction=\"receiving\"}";
    eventually(LIMIT, || async {
        let seen = stage.count(judged).await + stage.count(skipped).await - before;
        seen + stage.count(dropped).await + stage.bus.counters().dropped_sending >= 40
    })
    .await;
    assert!(stage.count(skipped).await > 0);
    let happy = "shunt_emotion_emotions_total{emotion=\"happiness\"}";
    eventually(LIMIT, || async { stage.count(happy).await == stage.count(judged).await }).await;
}
