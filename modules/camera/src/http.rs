//! The camera's own routes: the newest frame, and all of them as Motion JPEG.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use shunt_module::HttpProblem;
use tokio::{
    io::{AsyncWriteExt, DuplexStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};
use tokio_util::{io::ReaderStream, sync::CancellationToken, task::TaskTracker};

use crate::{control::SourceState, latest::Frame};

/// How long `/snapshot.jpg` waits for a first frame.
pub(crate) const FIRST_FRAME: Duration = Duration::from_secs(5);
/// How long a viewer may take to read one frame.
const SLOW: Duration = Duration::from_secs(10);
/// Most viewers at once; a further one is answered 503.
const MAX_VIEWERS: usize = 8;
/// Bytes on the way to a viewer. When it is full the viewer gets the newest frame once there is room again; those
/// between are not sent.
const ON_THE_WAY: usize = 64 << 10;

const PAGE: &str = "<!doctype html><meta charset=utf-8><title>camera</title>\
    <h1>camera</h1><p><img src=stream.mjpg alt=\"the newest frames\"></p>\
    <p><a href=snapshot.jpg>snapshot.jpg</a> <a href=stream.mjpg>stream.mjpg</a> \
    <a href=readyz>readyz</a> <a href=metrics>metrics</a></p>";

/// What the routes need.
#[derive(Debug, Clone)]
pub(crate) struct Pages {
    pub(crate) latest: watch::Receiver<Option<Arc<Frame>>>,
    pub(crate) state: Arc<SourceState>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

#[derive(Debug, Clone)]
struct Viewers {
    pages: Pages,
    permits: Arc<Semaphore>,
}

/// `/`, `/snapshot.jpg` and `/stream.mjpg`.
pub(crate) fn routes(pages: Pages) -> Router {
    let viewers = Viewers { pages, permits: Arc::new(Semaphore::new(MAX_VIEWERS)) };
    Router::new()
        .route("/", get(|| async { Html(PAGE) }))
        .route("/snapshot.jpg", get(snapshot))
        .route("/stream.mjpg", get(stream))
        .with_state(viewers)
}

/// The newest frame.
async fn snapshot(State(viewers): State<Viewers>) -> Result<Response, HttpProblem> {
    let mut latest = viewers.pages.latest.clone();
    let jpeg = timeout(FIRST_FRAME, next(&mut latest)).await.ok().flatten().ok_or_else(|| {
        let reason = viewers.pages.state.problem();
        let reason = reason.unwrap_or_else(|| "the source has given no picture yet".to_owned());
        HttpProblem::new(StatusCode::SERVICE_UNAVAILABLE, "there is no frame", reason)
    })?;
    Ok(([(header::CONTENT_TYPE, "image/jpeg"), (header::CACHE_CONTROL, "no-store")], jpeg).into_response())
}

/// All frames from now on, for as long as the viewer wants.
async fn stream(State(viewers): State<Viewers>) -> Result<Response, HttpProblem> {
    let permit = Arc::clone(&viewers.permits).try_acquire_owned().map_err(|_| {
        let detail = format!("{MAX_VIEWERS} viewers are allowed at once");
        HttpProblem::new(StatusCode::SERVICE_UNAVAILABLE, "there are too many viewers", detail)
    })?;
    let (near, far) = tokio::io::duplex(ON_THE_WAY);
    let Pages { latest, shutdown, tasks, .. } = viewers.pages;
    tasks.spawn(async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = feed(latest, near, permit) => {}
        }
    });
    let headers = [
        (header::CONTENT_TYPE, "multipart/x-mixed-replace; boundary=frame"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Body::from_stream(ReaderStream::new(far))).into_response())
}

/// Writes each newest frame until the viewer is gone or too slow.
async fn feed(
    mut latest: watch::Receiver<Option<Arc<Frame>>>,
    mut viewer: DuplexStream,
    _permit: OwnedSemaphorePermit,
) {
    while let Some(jpeg) = next(&mut latest).await {
        let head = format!("--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n", jpeg.len());
        let write = async {
            viewer.write_all(head.as_bytes()).await?;
            viewer.write_all(&jpeg).await?;
            viewer.write_all(b"\r\n").await
        };
        match timeout(SLOW, write).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
        if latest.changed().await.is_err() {
            return;
        }
    }
}

/// The newest frame as JPEG, waiting for one if there is none; nothing when the camera has ended.
async fn next(latest: &mut watch::Receiver<Option<Arc<Frame>>>) -> Option<Bytes> {
    let frame = latest.wait_for(Option::is_some).await.ok()?.clone()?;
    // Encoding is heavy work (law 6).
    tokio::task::spawn_blocking(move || frame.jpeg()).await.ok()?.ok()
}
