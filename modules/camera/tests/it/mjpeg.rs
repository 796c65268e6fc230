//! Motion JPEG: files, and streams of an HTTP server.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use camera::CameraSettings;
use parking_lot::Mutex;
use shunt_testkit::eventually;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::interval,
};

use crate::camera::{BLUE, Camera, GREEN, RED, SOON, all, jpeg, settings};

/// What a network camera answers.
#[derive(Clone)]
struct Answer {
    head: &'static str,
    /// Sent one after another, a hundred a second, and then again from the first if `again`.
    parts: Vec<Vec<u8>>,
    again: bool,
}

/// A network camera. It closes the connection when it has sent all.
struct NetworkCamera {
    addr: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    requests: Arc<Mutex<Vec<String>>>,
}

const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace;boundary=--x\r\n\r\n";

// === impl NetworkCamera ===

impl NetworkCamera {
    async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (answer, requests) = (Arc::new(Mutex::new(answer)), Arc::new(Mutex::new(Vec::new())));
        let camera = Self { addr, answer: Arc::clone(&answer), requests: Arc::clone(&requests) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answer = answer.lock().clone();
                tokio::spawn(serve(stream, answer, Arc::clone(&requests)));
            }
        });
        camera
    }

    fn url(&self) -> String {
        format!("http://viewer:secret@{}/stream?channel=1", self.addr)
    }
}

async fn serve(
    mut stream: TcpStream,
    answer: Answer,
    requests: Arc<Mutex<Vec<String>>>,
) -> std::io::Result<()> {
    let mut request = vec![0; 4096];
    let count = stream.read(&mut request).await?;
    requests.lock().push(String::from_utf8_lossy(&request[..count]).into_owned());
    stream.write_all(answer.head.as_bytes()).await?;
    let mut beat = interval(Duration::from_millis(10));
    loop {
        for part in &answer.parts {
            beat.tick().await;
            stream.write_all(part).await?;
        }
        if !answer.again {
            return stream.shutdown().await;
        }
    }
}

fn part(jpeg: &[u8]) -> Vec<u8> {
    let mut part =
        format!("--x\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n", jpeg.len()).into_bytes();
    part.extend(jpeg);
    part.extend(b"\r\n");
    part
}

fn colours() -> Vec<Vec<u8>> {
    [RED, GREEN, BLUE].map(|colour| part(&jpeg(colour))).to_vec()
}

fn source(address: &str) -> CameraSettings {
    CameraSettings { source: address.to_owned(), ..settings("/") }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_over_http_is_shown_and_thinned_out_to_the_rate() {
    let server = NetworkCamera::start(Answer { head: STREAM, parts: colours(), again: true }).await;
    let mut camera = Camera::start(CameraSettings { fps: 20.0, ..source(&server.url()) }).await;
    for colour in [RED, GREEN, BLUE] {
        camera.frame_where(|frame| all(&frame.picture, colour)).await;
    }
    let first = camera.frame().await;
    let last = camera.frame_where(|frame| frame.sequence >= first.sequence + 100).await;
    let seconds = last.stamps.capture().since(first.stamps.capture()).as_secs_f64();
    assert!(seconds > 0.8, "the server sends no faster than a hundred a second: {seconds} s");
    let (frames, skipped) = (
        camera.metric("shunt_camera_frames_total").await,
        camera.metric("shunt_camera_frames_skipped_total").await,
    );
    assert!(skipped > frames, "{skipped} skipped, {frames} shown of some hundred a second at 20 a second");
    assert!(camera.metric("shunt_camera_frames_damaged_total").await < 1.0);
    // The password of the address goes to the server.
    let request = server.requests.lock()[0].to_ascii_lowercase();
    assert!(
        request.starts_with("get /stream?channel=1 ") && request.contains("authorization: basic"),
        "{request}"
    );
    camera.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_is_reported_without_its_password_and_opened_again() {
    let server = NetworkCamera::start(Answer { head: STREAM, parts: colours(), again: false }).await;
    let mut camera = Camera::start(source(&server.url())).await;
    camera.frame().await;
    let failure = camera.failure().await;
    assert_eq!(failure, format!("http://{}/stream?channel=1: the stream has ended", server.addr));
    eventually(SOON, || async { server.requests.lock().len() >= 3 }).await;
    server.answer.lock().again = true;
    eventually(SOON, || async { camera.health.is_ready() }).await;
    camera.frame().await;
    camera.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_pictures_of_a_stream_are_counted_and_skipped() {
    let whole = jpeg(RED);
    let parts = vec![
        part(&whole[..whole.len() / 2]),
        part(&jpeg(GREEN)),
        // Sound marks around nonsense.
        part(&[0xff, 0xd8, 0xff, 0xda, 0, 4, 1, 2, 3, 4, 5, 0xff, 0xd9]),
    ];
    let server = NetworkCamera::start(Answer { head: STREAM, parts, again: true }).await;
    let mut camera = Camera::start(source(&server.url())).await;
    for _ in 0..10 {
        assert!(all(&camera.frame().await.picture, GREEN));
    }
    assert!(camera.metric("shunt_camera_frames_damaged_total").await >= 10.0);
    assert!(camera.health.is_ready());
    // Nothing but nonsense: now the source does not work.
    let nonsense = part(&[0xff, 0xd8, 0xff, 0xda, 0, 4, 1, 2, 3, 4, 5, 0xff, 0xd9]);
    *server.answer.lock() = Answer { head: STREAM, parts: vec![nonsense], again: true };
    camera.change(|settings| settings.source.push('1')).await;
    let failure = camera.failure().await;
    assert!(failure.contains("10 pictures in a row cannot be read"), "{failure}");
    camera.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_no_stream_are_reported() {
    for (head, reason) in [
        ("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "the server answered 401"),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n",
            "the server sends \"text/html\", not multipart/x-mixed-replace",
        ),
        ("not HTTP\r\n\r\n", "no connection: error sending request: "),
    ] {
        let server = NetworkCamera::start(Answer { head, parts: Vec::new(), again: false }).await;
        let camera = Camera::start(source(&server.url())).await;
        let failure = camera.failure().await;
        assert!(failure.contains(reason) && !failure.contains("secret"), "{failure}");
        camera.stop().await;
    }
    let nobody = shunt_testkit::fresh_address().unwrap();
    let camera = Camera::start(source(&format!("http://{nobody}/"))).await;
    let failure = camera.failure().await;
    assert!(failure.contains("Connection refused"), "{failure}");
    camera.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_motion_jpeg_file_is_shown_at_the_rate_looped_or_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.mjpeg");
    let mut clip = Vec::new();
    for colour in [RED, GREEN, BLUE] {
        for _ in 0..4 {
            clip.extend(jpeg(colour));
        }
    }
    // The last picture is cut off.
    clip.extend(&jpeg(RED)[..300]);
    std::fs::write(&path, &clip).unwrap();
    let mut camera = Camera::start(settings(&path)).await;
    for colour in [BLUE, RED, BLUE] {
        camera.frame_where(|frame| all(&frame.picture, colour)).await;
    }
    assert!(camera.metric("shunt_camera_frames_damaged_total").await >= 1.0);
    camera.change(|settings| settings.r#loop = false).await;
    camera.ended().await;
    camera.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_motion_jpeg_file_without_pictures_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.mjpeg");
    for (content, reason) in [(&b""[..], "it holds no JPEG picture"), (b"text", "it holds no JPEG picture")] {
        std::fs::write(&path, content).unwrap();
        let camera = Camera::start(settings(&path)).await;
        let failure = camera.failure().await;
        assert!(failure.ends_with(reason), "{failure}");
        camera.stop().await;
    }
    let camera = Camera::start(settings(folder.path().join("none.mjpeg"))).await;
    assert!(camera.failure().await.contains("No such file"));
    camera.stop().await;
}
