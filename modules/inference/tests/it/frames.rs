//! Frames from the bus: what is told of them, which are passed over, and which cannot be used.

use std::collections::BTreeMap;

use bytes::Bytes;
use inference::{InferenceSettings, Motion, Region, SourceSettings};
use shunt_bus::Delivery;
use shunt_frames::FrameWriter;
use shunt_testkit::eventually;
use shunt_vision::{Picture, encode_jpeg, fill};
use shunt_wire::{
    Envelope, Kind, Name,
    events::{FramePixels, FrameRef, Label, PixelFormat},
};

use crate::yard::{LIMIT, TRACEPARENT, Yard, blue, red, red_and_blue, with_model};

#[tokio::test]
async fn a_label_says_what_a_frame_shows_and_follows_its_frame() {
    let mut yard = Yard::start(with_model("colours")).await;
    let frame = yard.show("front-door", &red()).await;
    let event = yard.label_event().await;
    let label: Label = event.json().unwrap();
    assert_eq!((label.label.as_str(), label.width, label.height), ("red", 64, 48));
    assert!(label.probability > 0.99, "{label:?}");
    assert_eq!((label.classes[0].label.as_str(), label.classes[0].index), ("red", 0));
    assert_eq!(label.model, "colours");
    assert_eq!(label.digest, "ff0825ddaef037fc184e840f6e798da07ab8307678ddb4e9787ce9dcc87a98f6");
    assert!(!label.backend.is_empty());
    assert!(label.model_ms > 0.0 && label.model_ms < label.inference_ms, "{label:?}");
    assert_eq!(label.region, None);

    assert_eq!(event.source, frame.source);
    assert_eq!(event.traceparent.as_deref(), Some(TRACEPARENT));
    let (stamps, frame_stamps) = (event.stamps.unwrap(), frame.stamps.unwrap());
    assert_eq!(stamps.capture(), frame_stamps.capture());
    let hops: Vec<_> = stamps.hops().iter().map(|hop| hop.module.to_string()).collect();
    assert_eq!(hops, ["tester", "inference"]);
    yard.end().await;
}

#[tokio::test]
async fn frames_are_read_from_shared_memory() {
    let frames = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut yard = Yard::start_with(with_model("colours"), folder, |common| {
        common.frames_dir = Some(frames.path().to_owned());
    })
    .await;
    yard.until_ready().await;
    let ring: Name = "front-door".parse().unwrap();
    let mut writer = FrameWriter::create(frames.path(), &ring, 4, red().pixels.len()).unwrap();
    let mut write = |picture: &Picture| {
        let Picture { width, height, .. } = *picture;
        let fill = |pixels: &mut [u8]| pixels.copy_from_slice(&picture.pixels);
        let reference = writer.write(width, height, PixelFormat::Rgb8, fill).unwrap();
        FramePixels::Shared { format: PixelFormat::Rgb8, reference }
    };
    let pixels = write(&blue());
    yard.send("front-door", pixels.clone()).await;
    assert_eq!(yard.label().await.label, "blue");

    // Its slot is written over before the event comes: the frame is gone, which is counted and no harm.
    for _ in 0..8 {
        write(&red());
    }
    yard.pause().await;
    yard.send("front-door", pixels).await;
    eventually(LIMIT, || async { yard.skipped("gone").await == 1 }).await;
    yard.pause().await;
    yard.send("front-door", write(&red())).await;
    assert_eq!(yard.label().await.label, "red");
}

#[tokio::test]
async fn each_source_has_its_region_its_least_score_and_its_switch() {
    let right = Region { x: 0.5, y: 0.0, width: 0.5, height: 1.0 };
    let sources = [
        ("right", SourceSettings { region: Some(right), ..SourceSettings::default() }),
        ("sure", SourceSettings { min_score: Some(0.6), ..SourceSettings::default() }),
        ("off", SourceSettings { enabled: Some(false), ..SourceSettings::default() }),
    ];
    let sources = sources.into_iter().map(|(name, source)| (name.to_owned(), source)).collect();
    let settings = InferenceSettings { sources, top: 2, ..with_model("colours") };
    let mut yard = Yard::start(settings).await;
    let label = yard.judged("right", &red_and_blue()).await;
    assert_eq!(label.label, "blue");
    let region = label.region.unwrap();
    assert_eq!([region.x, region.y, region.width, region.height], [32.0, 0.0, 32.0, 48.0]);

    // Half red, half blue: two classes of about a half each, and no more than two are told.
    let both = yard.judged("door", &red_and_blue()).await;
    let mut names: Vec<_> = both.classes.iter().map(|class| class.label.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["blue", "red"]);
    let grey = Picture::filled(64, 48, [100, 100, 100]);
    assert_eq!(yard.judged("door", &grey).await.classes.len(), 2);

    // No class is probable enough: no event, and it is counted.
    yard.settled("sure", &red_and_blue()).await;
    assert_eq!(yard.count("shunt_inference_frames_unsure_total").await, 1);
    yard.settled("off", &red()).await;
    assert_eq!(yard.skipped("off").await, 1);
    // What comes next is of neither of them.
    assert_eq!(yard.judged("sure", &red()).await.label, "red");
}

#[tokio::test]
async fn the_rate_of_a_source_is_kept_and_no_other_suffers() {
    let sources = BTreeMap::from([(
        "slow".to_owned(),
        SourceSettings { max_per_s: Some(0.001), ..SourceSettings::default() },
    )]);
    let mut yard = Yard::start(InferenceSettings { sources, ..with_model("colours") }).await;
    for _ in 0..6 {
        yard.settled("slow", &red()).await;
    }
    assert_eq!((yard.count("shunt_inference_frames_total").await, yard.skipped("rate").await), (1, 5));
    assert_eq!(yard.label().await.label, "red");
    assert_eq!(yard.judged("quick", &blue()).await.label, "blue");
}

#[tokio::test]
async fn what_does_not_move_is_not_judged_and_counted_until_something_does() {
    let motion = Motion { enabled: true, still_s: 0.0, ..Motion::default() };
    let yard = Yard::start(InferenceSettings { motion, ..with_model("colours") }).await;
    let judged = async || yard.count("shunt_inference_frames_total").await;
    for _ in 0..6 {
        yard.settled("door", &red()).await;
    }
    assert_eq!((judged().await, yard.skipped("motion").await), (1, 5));
    let mut visitor = red();
    fill(&mut visitor, 10, 10, 20, 20, [240, 240, 240]);
    yard.settled("door", &visitor).await;
    assert_eq!((judged().await, yard.skipped("motion").await), (2, 5));
    // Another source has a background of its own.
    yard.settled("gate", &red()).await;
    assert_eq!(judged().await, 3);
    // A new model looks at each source anew.
    yard.settings.propose(InferenceSettings { motion, ..with_model("inverse") }).await.unwrap();
    yard.settled("gate", &red()).await;
    assert_eq!((judged().await, yard.skipped("motion").await), (4, 5));
}

#[tokio::test]
async fn the_newest_frame_wins_and_skipped_ones_are_counted() {
    let yard = Yard::start(with_model("slow")).await;
    for _ in 0..20 {
        yard.show("door", &red()).await;
    }
    let judged = async || yard.count("shunt_inference_frames_total").await;
    let dropped = "shunt_bus_dropped_events_total{direction=\"receiving\"}";
    eventually(LIMIT, || async {
        let sent = yard.bus.counters().dropped_sending + yard.count(dropped).await;
        judged().await + yard.skipped("newer").await + sent >= 20
    })
    .await;
    assert!(yard.skipped("newer").await > 0);
}

/// Sends frames with these pixels until a dead letter (one a second at most) tells of them.
async fn check_picture(pixels: FramePixels, reason: &str) {
    let mut yard = Yard::start(with_model("colours")).await;
    let before = yard.failed("picture").await;
    let bus = yard.bus.clone();
    let sender = tokio::spawn(async move {
        let mut pause = tokio::time::interval(std::time::Duration::from_millis(200));
        loop {
            pause.tick().await;
            let event = Envelope::new("bad", Kind::FRAME, Name::from_static("gate"), "2026-11-21T09:00:00Z");
            let frame =
                shunt_wire::events::Frame { sequence: 1, width: 8, height: 8, pixels: pixels.clone() };
            bus.publish(frame.write(event).unwrap(), Delivery::Fast).await.ok();
        }
    });
    let letter = loop {
        let letter = yard.letter(reason).await;
        // The yard itself began with frames of another source that are no pictures.
        if letter.topic == "shunt/frame/gate" {
            break letter;
        }
    };
    assert!(letter.reason.starts_with("event bad: "), "{}", letter.reason);
    sender.abort();
    assert!(yard.failed("picture").await > before);
    assert_eq!(yard.judged("door", &red()).await.label, "red");
}

#[tokio::test]
async fn a_truncated_jpeg_is_told_and_the_next_frame_is_judged() {
    let mut jpeg = encode_jpeg(&Picture::filled(640, 480, [10, 200, 30]), 90).unwrap();
    jpeg.truncate(jpeg.len() / 2);
    check_picture(FramePixels::Jpeg(jpeg.into()), "JPEG").await;
}

#[tokio::test]
async fn a_picture_of_fifty_megapixels_is_told_and_the_next_frame_is_judged() {
    let mut jpeg = encode_jpeg(&red(), 90).unwrap();
    let header = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    jpeg[header + 5..header + 7].copy_from_slice(&5_000_u16.to_be_bytes());
    jpeg[header + 7..header + 9].copy_from_slice(&10_000_u16.to_be_bytes());
    check_picture(FramePixels::Jpeg(jpeg.into()), "10000x5000").await;
}

#[tokio::test]
async fn a_frame_in_shared_memory_that_is_not_mounted_is_told() {
    let reference = FrameRef { ring: Name::from_static("gate"), slot: 0, generation: 1 };
    let pixels = FramePixels::Shared { format: PixelFormat::Rgb8, reference };
    check_picture(pixels, "SHUNT_FRAMES_DIR is not set").await;
}

#[tokio::test]
async fn an_event_that_is_no_frame_is_told_and_the_next_frame_is_judged() {
    let mut yard = Yard::start(with_model("colours")).await;
    let event = Envelope::new("1", Kind::FRAME, Name::from_static("gate"), "2026-11-21T09:00:00Z");
    let event = event.with_body("image/jpeg", Bytes::from_static(b"no measures"));
    yard.bus.publish(event, Delivery::Fast).await.unwrap();
    let letter = yard.letter("framesequence").await;
    assert_eq!(letter.topic, "shunt/frame/gate");
    assert_eq!(yard.failed("malformed").await, 1);
    assert_eq!(yard.judged("door", &red()).await.label, "red");
}
