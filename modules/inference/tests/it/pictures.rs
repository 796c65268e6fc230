//! Pictures in, what they show out, as clients of Custom Vision's containers ask.

use inference::InferenceSettings;
use serde_json::{Value, json};
use shunt_vision::{Picture, encode_jpeg, encode_png};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::yard::{LIMIT, Yard, blue, red, with_model};

const BYTES: &str = "application/octet-stream";

/// A face, 360x300.
const ASTRONAUT: &[u8] = include_bytes!("../../../emotion/tests/data/astronaut.jpg");

fn png(picture: &Picture) -> Vec<u8> {
    encode_png(picture).unwrap()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// A JPEG file whose header claims other measures.
fn jpeg_of(width: u16, height: u16) -> Vec<u8> {
    let mut jpeg = encode_jpeg(&red(), 90).unwrap();
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
    jpeg[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
    jpeg
}

fn form(name: &str, file: &[u8]) -> Vec<u8> {
    let head = format!(
        "--XyZ\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\nhello\r\n--XyZ\r\nContent-Disposition: form-data; \
         name=\"{name}\"; filename=\"a.png\"\r\nContent-Type: image/png\r\n\r\n"
    );
    [head.as_bytes(), file, b"\r\n--XyZ--\r\n"].concat()
}

#[tokio::test]
async fn a_picture_is_answered_as_custom_vision_does_with_the_time_of_each_step() {
    let yard = Yard::start(with_model("colours")).await;
    let (status, _, answer) = yard.post("/image", BYTES, png(&red())).await;
    assert_eq!(status, 200, "{answer}");
    let expected = [
        "created",
        "id",
        "iteration",
        "predictions",
        "project",
        "model",
        "digest",
        "width",
        "height",
        "batch",
        "times",
    ];
    assert_eq!(keys(&answer), expected);
    assert_eq!((&answer["iteration"], &answer["project"]), (&json!(""), &json!("")));
    assert!(answer["created"].as_str().unwrap().ends_with('Z'));
    let first = &answer["predictions"][0];
    assert_eq!(keys(first), ["probability", "tagId", "tagName", "boundingBox"]);
    assert_eq!(
        (&first["tagName"], &first["tagId"], &first["boundingBox"]),
        (&json!("red"), &json!("0"), &json!(null))
    );
    assert!(first["probability"].as_f64().unwrap() > 0.99);
    assert_eq!((&answer["width"], &answer["height"]), (&json!(64), &json!(48)));
    assert_eq!(answer["model"], "colours");
    assert_eq!(answer["digest"].as_str().unwrap().len(), 64);
    assert_eq!(keys(&answer["times"]), ["decode_ms", "resize_ms", "queue_ms", "inference_ms"]);
    assert!(answer["times"]["inference_ms"].as_f64().unwrap() > 0.0);
    assert!(answer["times"]["decode_ms"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn every_way_in_sees_the_same_picture() {
    let yard = Yard::start(with_model("colours")).await;
    for (path, content_type, body) in [
        ("/image", BYTES, png(&blue())),
        ("/classify", "image/jpeg", encode_jpeg(&blue(), 95).unwrap()),
        // What curl says of --data-binary.
        ("/image", "application/x-www-form-urlencoded", png(&blue())),
        ("/image", "multipart/form-data; boundary=XyZ", form("imageData", &png(&blue()))),
        ("/some-project/image", BYTES, png(&blue())),
        ("/some-project/classify/iterations/Iteration1/image", BYTES, png(&blue())),
    ] {
        let (status, _, answer) = yard.post(path, content_type, body).await;
        assert_eq!(status, 200, "{path} {content_type}: {answer}");
        assert_eq!(answer["predictions"][0]["tagName"], "blue", "{path} {content_type}");
    }
}

#[tokio::test]
async fn a_caller_names_the_model_and_how_much_is_told() {
    let settings = InferenceSettings { models: vec!["inverse".to_owned()], ..with_model("colours") };
    let yard = Yard::start(settings).await;
    let (_, _, answer) = yard.post("/image?model=inverse&top=1", BYTES, png(&blue())).await;
    assert_eq!((&answer["model"], answer["predictions"].as_array().unwrap().len()), (&json!("inverse"), 1));
    assert_ne!(answer["predictions"][0]["tagName"], "blue");
    let (_, _, answer) =
        yard.post("/image?model=moods&top=2", BYTES, png(&Picture::filled(9, 9, [250; 3]))).await;
    assert_eq!(answer["predictions"][0]["tagName"], "happiness", "{answer}");
    for (path, status, detail) in [
        ("/image?model=unknown", 404, "\"unknown\" is not served; served are colours, moods, inverse"),
        ("/image?top=0", 400, "top must be from 1 to 1000"),
        ("/image?top=many", 400, "invalid digit"),
        ("/image?min_score=NaN", 400, "min_score must be from 0 to 1"),
    ] {
        let (found, _, answer) = yard.post(path, BYTES, png(&red())).await;
        assert_eq!(found, status, "{path}: {answer}");
        assert!(answer["detail"].as_str().unwrap().contains(detail), "{answer}");
    }
    let (_, answer) = yard.get("/models").await.unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let served = answer["served"].as_array().unwrap();
    let names: Vec<_> = served.iter().map(|model| model["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["colours", "moods", "inverse"]);
    assert_eq!(served[0]["inputs"][0]["shape"], "FP32 [1, 3, 16, 16]");
}

#[tokio::test]
async fn a_model_for_faces_tells_where_they_are() {
    let settings =
        InferenceSettings { models: vec!["blazeface-full-range".to_owned()], ..with_model("colours") };
    let yard = Yard::start(settings).await;
    let (status, _, answer) = yard.post("/image?model=blazeface-full-range", "image/jpeg", ASTRONAUT).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!((&answer["width"], &answer["height"]), (&json!(360), &json!(300)));
    let faces = answer["predictions"].as_array().unwrap();
    assert_eq!((faces.len(), &faces[0]["tagName"]), (1, &json!("face")), "{answer}");
    let part = |name: &str| faces[0]["boundingBox"][name].as_f64().unwrap();
    let middle = (part("left") + part("width") / 2.0, part("top") + part("height") / 2.0);
    assert!((0.3..0.7).contains(&middle.0) && (0.1..0.7).contains(&middle.1), "{answer}");
    let (_, _, answer) = yard.post("/image?model=blazeface-full-range", BYTES, png(&red())).await;
    assert_eq!(answer["predictions"], json!([]));
}

#[tokio::test]
async fn what_is_no_picture_is_refused_in_both_languages_and_the_module_lives_on() {
    let settings =
        InferenceSettings { models: vec!["waves".to_owned()], max_body_mb: 1, ..with_model("colours") };
    let yard = Yard::start(settings).await;
    let whole = encode_jpeg(&Picture::filled(300, 200, [9, 99, 199]), 90).unwrap();
    for (path, content_type, body, status, code, detail) in [
        ("/image", BYTES, b"I am a text".to_vec(), 400, "BadRequestImageFormat", "11 bytes that are no JPEG"),
        ("/image", BYTES, Vec::new(), 400, "BadRequestImageFormat", "0 bytes that are no JPEG"),
        ("/image", BYTES, whole[..whole.len() / 2].to_vec(), 400, "BadRequestImageFormat", "is cut off"),
        ("/image", BYTES, jpeg_of(10_000, 5_000), 400, "BadRequestImageSizeBytes", "has 10000x5000 pixels"),
        ("/image", "multipart/form-data", form("imageData", &whole), 400, "BadRequest", "has no boundary"),
        (
            "/image",
            "multipart/form-data; boundary=XyZ",
            form("file", &whole),
            400,
            "BadRequest",
            "the form has no part \"imageData\", only note, file",
        ),
        ("/image?model=waves", BYTES, png(&red()), 400, "BadRequest", "takes tensors, no pictures"),
        (
            "/image",
            BYTES,
            vec![0; 2 << 20],
            413,
            "BadRequestImageSizeBytes",
            "max_body_mb allows 1048576 bytes",
        ),
    ] {
        let (found, headers, answer) = yard.post(path, content_type, body).await;
        assert_eq!((found, &answer["status"]), (status, &json!(status)), "{answer}");
        assert_eq!(headers["content-type"], "application/problem+json");
        // Our own readers, and those of Custom Vision.
        assert!(answer["detail"].as_str().unwrap().contains(detail), "{detail:?} is not in {answer}");
        assert_eq!((&answer["code"], &answer["message"]), (&json!(code), &answer["detail"]));
    }
    let (status, _, _) = yard.post("/image", BYTES, whole).await;
    assert_eq!(status, 200);
    assert_eq!(yard.count("shunt_inference_bad_requests_total{route=\"image\"}").await, 8);
}

#[tokio::test]
async fn a_hundred_megabytes_are_refused_without_being_read() {
    let yard = Yard::start(with_model("colours")).await;
    for path in ["/score", "/image", "/url"] {
        // Nothing of the body is sent: the answer comes because of its length alone.
        let mut stream = TcpStream::connect(yard.address).await.unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 12];
        timeout(LIMIT, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer, b"HTTP/1.1 413", "{path}");
    }
    // One that does not say how long it is, is read as far as allowed.
    let chunks = (0..40).map(|_| Ok::<_, std::io::Error>(bytes::Bytes::from(vec![b' '; 1 << 20])));
    let body = reqwest::Body::wrap_stream(tokio_stream(chunks));
    let answer = crate::yard::client().post(format!("http://{}/score", yard.address)).body(body).send().await;
    // The connection may end before all was sent.
    assert!(answer.is_err() || answer.unwrap().status() == 413);
    let (status, _, _) = yard.post("/image", BYTES, png(&red())).await;
    assert_eq!(status, 200);
}

/// A list as a stream.
fn tokio_stream<T: Send + 'static>(
    items: impl Iterator<Item = T> + Send + 'static + Unpin,
) -> impl futures_core::Stream<Item = T> + Send + 'static {
    struct List<I>(I);
    impl<I: Iterator + Unpin> futures_core::Stream for List<I> {
        type Item = I::Item;

        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<I::Item>> {
            std::task::Poll::Ready(self.0.next())
        }
    }
    List(items)
}
