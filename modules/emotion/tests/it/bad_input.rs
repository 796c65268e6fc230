//! Events that cannot be used: counted, told, and the module goes on.

use bytes::Bytes;
use shunt_bus::Delivery;
use shunt_testkit::eventually;
use shunt_vision::encode_jpeg;
use shunt_wire::{
    Envelope, Kind, Name,
    events::{FramePixels, FrameRef, PixelFormat},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::stage::{LIMIT, Stage, astronaut};

const MALFORMED: &str = "shunt_emotion_frames_failed_total{reason=\"malformed\"}";
const PICTURE: &str = "shunt_emotion_frames_failed_total{reason=\"picture\"}";

/// Sends frames with these pixels until a dead letter (one a second at most) tells of them.
async fn check_picture(pixels: FramePixels, reason: &str) {
    let mut stage = Stage::start().await;
    let before = stage.count(PICTURE).await;
    // Sends on its own handle of the bus while the letters are read.
    let bus = stage.bus.clone();
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
        let letter = stage.letter(reason).await;
        // The stage itself began with frames of another source that are no pictures.
        if letter.topic == "shunt/frame/gate" {
            break letter;
        }
    };
    assert!(letter.reason.starts_with("event bad: "), "{}", letter.reason);
    sender.abort();
    assert!(stage.count(PICTURE).await > before);
    stage.check_alive().await;
}

#[tokio::test]
async fn bytes_that_are_no_picture_are_told_and_the_next_frame_is_judged() {
    check_picture(FramePixels::Jpeg(Bytes::from_static(b"\x00\x01 nothing")), "that are no JPEG").await;
}

#[tokio::test]
async fn a_truncated_jpeg_is_told_and_the_next_frame_is_judged() {
    let mut jpeg = encode_jpeg(&astronaut(), 90).unwrap();
    jpeg.truncate(jpeg.len() / 2);
    let end = jpeg.len();
    check_picture(FramePixels::Jpeg(jpeg.into()), &format!("the JPEG file is cut off after {end} bytes"))
        .await;
}

#[tokio::test]
async fn a_picture_of_fifty_megapixels_is_told_and_the_next_frame_is_judged() {
    let mut jpeg = encode_jpeg(&astronaut(), 90).unwrap();
    let header = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    jpeg[header + 5..header + 7].copy_from_slice(&5_000_u16.to_be_bytes());
    jpeg[header + 7..header + 9].copy_from_slice(&10_000_u16.to_be_bytes());
    let reason = "the picture has 10000x5000 pixels, 40 million are allowed";
    check_picture(FramePixels::Jpeg(jpeg.into()), reason).await;
}

#[tokio::test]
async fn a_frame_in_shared_memory_that_is_not_mounted_is_told() {
    let reference = FrameRef { ring: Name::from_static("gate"), slot: 0, generation: 1 };
    let pixels = FramePixels::Shared { format: PixelFormat::Rgb8, reference };
    check_picture(pixels, "SHUNT_FRAMES_DIR is not set").await;
}

#[tokio::test]
async fn an_event_that_is_no_frame_is_told_and_the_next_frame_is_judged() {
    let mut stage = Stage::start().await;
    let event = Envelope::new("1", Kind::FRAME, Name::from_static("gate"), "2026-11-21T09:00:00Z");
    let event = event.with_json(&serde_json::json!({"sequence": "first", "width": -1})).unwrap();
    stage.bus.publish(event, Delivery::Fast).await.unwrap();
    let letter = stage.letter("not readable JSON").await;
    assert_eq!(letter.topic, "shunt/frame/gate");
    assert!(letter.excerpt.contains("first"), "{letter:?}");
    assert_eq!(stage.count(MALFORMED).await, 1);
    stage.check_alive().await;
}

/// Publishes bytes as an MQTT 3.1.1 client without any attribute does.
async fn publish_plain(stage: &Stage, topic: &str, payload: &[u8]) {
    let mut socket = TcpStream::connect(stage.broker.addr()).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let mut packets = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00".to_vec();
    let length = 2 + topic.len() + payload.len();
    packets.extend([0x30, u8::try_from(length).unwrap(), 0, u8::try_from(topic.len()).unwrap()]);
    packets.extend(topic.as_bytes());
    packets.extend(payload);
    packets.extend(b"\xe0\x00");
    socket.write_all(&packets).await.unwrap();
    socket.shutdown().await.unwrap();
}

#[tokio::test]
async fn bytes_that_are_no_event_are_told_and_the_next_frame_is_judged() {
    let mut stage = Stage::start().await;
    publish_plain(&stage, "shunt/frame/gate", b"\xff\xfe not an event").await;
    let letter = stage.letter("has no attribute").await;
    assert_eq!(letter.topic, "shunt/frame/gate");
    assert!(letter.excerpt.contains("not an event"), "{letter:?}");
    assert_eq!(stage.count(MALFORMED).await, 1);
    stage.check_alive().await;
}

#[tokio::test]
async fn a_flood_of_broken_frames_is_counted_whole_and_told_in_short() {
    let mut stage = Stage::start().await;
    for _ in 0..50 {
        publish_plain(&stage, "shunt/frame/gate", b"broken").await;
    }
    // The bus drops fast events that are not taken in time, and counts them.
    let dropped = "shunt_bus_dropped_events_total{direction=\"receiving\"}";
    eventually(LIMIT, || async { stage.count(MALFORMED).await + stage.count(dropped).await == 50 }).await;
    stage.letter("has no attribute").await;
    stage.check_alive().await;
}

#[tokio::test]
async fn the_module_goes_on_when_the_broker_comes_back() {
    let mut stage = Stage::start().await;
    stage.check_alive().await;
    stage.broker.restart().await.unwrap();
    let frames = stage.count("shunt_emotion_frames_total").await;
    eventually(LIMIT, || async {
        stage.show(&astronaut()).await;
        stage.count("shunt_emotion_frames_total").await > frames
    })
    .await;
    stage.check_alive().await;
}
