//! The module's HTTP routes, put together, and what they share.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{StatusCode, header},
    routing::{get, post},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use shunt_infer::Port;
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    engine::Engine,
    fetch_picture::PictureFetcher,
    open_inference, openapi, picture,
    problem::Problem,
    score,
    served::{Engines, Served},
    tally::Tally,
};

/// All bodies that are in work together may take so many times what one may. A further one is answered 503.
const BODIES: usize = 4;

/// How long the body of a request may take to come.
const READING: Duration = Duration::from_mins(1);

/// What the routes share.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) served: Served,
    pub(crate) tally: Tally,
    pub(crate) pictures: PictureFetcher,
    /// How long the body of a request, or a message of a stream, may take to come.
    pub(crate) reading: Duration,
    /// Places for heavy work: as many as there are cores. The others wait; how many can, the room for bodies bounds.
    work: Arc<Semaphore>,
    /// Bytes of the bodies in work.
    taken: Arc<AtomicUsize>,
}

/// Room for a body; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    taken: Arc<AtomicUsize>,
    bytes: usize,
}

/// The routes.
pub(crate) fn routes(api: Api) -> Router {
    let others = open_inference::routes(api.clone());
    // Those of a container that Custom Vision exports; its clients put the project, and the iteration, in front.
    let router = Router::new()
        .route("/score", post(score::score))
        .route("/image", post(picture::image))
        .route("/classify", post(picture::image))
        .route("/url", post(picture::url))
        .route("/{project}/image", post(picture::image))
        .route("/{project}/url", post(picture::url))
        .route("/{project}/{task}/iterations/{name}/image", post(picture::image))
        .route("/{project}/{task}/iterations/{name}/url", post(picture::url))
        .route("/models", get(models));
    router.with_state(api).merge(others).merge(openapi::routes())
}

/// `GET /models`: the models that are served.
async fn models(State(api): State<Api>) -> Json<Value> {
    let now = api.served.now();
    let is = |engine: &Arc<Engine>, other: &Option<Arc<Engine>>| {
        other.as_ref().is_some_and(|other| Arc::ptr_eq(engine, other))
    };
    let served = api.served.list();
    let served = served.iter().map(|engine| {
        let role = if is(engine, &now.classifier) {
            "pictures"
        } else if is(engine, &now.expression) {
            "faces of /score"
        } else {
            "requests that name it"
        };
        describe(engine, role, &now)
    });
    Json(json!({
        "served": served.collect::<Vec<_>>(),
        "shadow": now.shadow.as_ref().map(|shadow| shadow.report()),
    }))
}

fn describe(engine: &Engine, role: &str, now: &Engines) -> Value {
    let model = engine.pipeline().model();
    let told = now.engine(model.name()).map(|(_, serving)| serving);
    let description = model.describe();
    let ports = |ports: &[Port]| {
        ports.iter().map(|port| json!({"name": port.name, "shape": port.to_string()})).collect::<Vec<_>>()
    };
    json!({
        "name": model.name(),
        "title": model.entry().title,
        "task": model.entry().task,
        "serves": role,
        "licence": model.entry().licence,
        "digest": model.digest(),
        "file": model.file(),
        "backend": model.chosen().version,
        "because": model.chosen().why,
        "device": description.device,
        "proof": told.map(|serving| &serving.proof),
        "load_ms": told.map(|serving| serving.load_ms),
        "batches": engine.batches(),
        "memory": model.memory(),
        "inputs": ports(&description.inputs),
        "outputs": ports(&description.outputs),
    })
}

// === impl Api ===

impl Api {
    pub(crate) fn new(served: Served, tally: Tally) -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            served,
            tally,
            pictures: PictureFetcher::default(),
            reading: READING,
            work: Arc::new(Semaphore::new(cores)),
            taken: Arc::default(),
        }
    }

    /// The body of a request, and the room that it takes: keep it as long as the body. One that says beforehand that it
    /// is too large is not read.
    pub(crate) async fn body(&self, request: Request) -> Result<(Bytes, Room), Problem> {
        let limit = self.served.settings().max_body();
        let said = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok());
        let too_large = || {
            let detail = format!("the setting max_body_mb allows {limit} bytes");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large", detail)
        };
        if said.is_some_and(|bytes: usize| bytes > limit) {
            return Err(too_large());
        }
        // Room is taken for what came, not for what was promised: who promises much and sends nothing takes none.
        let mut room = self.room(0, limit)?;
        let mut coming = request.into_body();
        let reading = async {
            let mut body = BytesMut::new();
            while let Some(frame) = coming.frame().await {
                let frame =
                    frame.map_err(|error| Problem::bad("the body cannot be read", error.to_string()))?;
                let Ok(piece) = frame.into_data() else { continue };
                if body.len() + piece.len() > limit {
                    return Err(too_large());
                }
                room.grow(piece.len(), limit)?;
                body.extend_from_slice(&piece);
            }
            Ok(body.freeze())
        };
        let body = timeout(self.reading, reading).await.unwrap_or_else(|_| {
            let detail = format!("the body did not come within {} s", self.reading.as_secs_f64());
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body is too slow", detail))
        })?;
        Ok((body, room))
    }

    /// Notes a request that is refused for what is wrong with it.
    pub(crate) fn note(&self, route: &str, problem: &Problem) {
        if problem.status.is_client_error() {
            self.tally.bad_request(route);
        }
    }

    /// Room for so many bytes, where one body may have `limit`.
    pub(crate) fn room(&self, bytes: usize, limit: usize) -> Result<Room, Problem> {
        let mut room = Room { taken: Arc::clone(&self.taken), bytes: 0 };
        room.grow(bytes, limit)?;
        Ok(room)
    }

    /// Does heavy work on a thread for it, when its turn comes (law 6).
    pub(crate) async fn heavy<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let ended =
            |detail: String| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the work ended early", detail);
        let turn = Arc::clone(&self.work).acquire_owned().await.map_err(|error| ended(error.to_string()))?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        done.await.map_err(|error| ended(error.to_string()))?
    }
}

// === impl Room ===

impl Room {
    /// Room for so many bytes more.
    pub(crate) fn grow(&mut self, bytes: usize, limit: usize) -> Result<(), Problem> {
        self.bytes += bytes;
        let before = self.taken.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > limit.saturating_mul(BODIES) {
            let detail = "the requests in work take all the memory that bodies may take";
            let busy = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail);
            return Err(Problem { retry_after: Some(1), ..busy });
        }
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        pin::Pin,
        task::{Context, Poll},
    };

    use axum::body::{Body, HttpBody};
    use hyper::body::Frame;

    use super::*;
    use crate::InferenceSettings;

    /// Ten bytes, and then nothing any more.
    struct Stuck(bool);

    impl HttpBody for Stuck {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if std::mem::replace(&mut self.0, true) {
                return Poll::Pending;
            }
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"0123456789")))))
        }
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_takes_room_for_what_came_and_that_not_for_ever() {
        let served = Served::new(Arc::new(InferenceSettings::default()));
        let api = Api { reading: Duration::from_millis(1), ..Api::new(served, Tally::new().unwrap()) };
        let asked = Request::new(Body::new(Stuck(false)));
        let mut reading = Box::pin(api.body(asked));
        assert!(
            std::future::poll_fn(|context| Poll::Ready(reading.as_mut().poll(context))).await.is_pending()
        );
        assert_eq!(api.taken.load(Ordering::Relaxed), 10);
        let problem = reading.await.unwrap_err();
        assert_eq!(problem.status, StatusCode::REQUEST_TIMEOUT);
        assert_eq!(api.taken.load(Ordering::Relaxed), 0);
    }
}
