//! The module's own HTTP routes: `POST /score` of gbaeke/emotion, `POST /faces`, `GET /models`.

use std::{path::PathBuf, sync::Arc, time::Instant};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    routing::{get, post},
};
use serde_json::{Value, json};
use shunt_infer::{Model, ModelStore};
use shunt_module::HttpProblem;
use shunt_vision::{DecodeLimits, decode};
use shunt_wire::seed::{ScoreAnswer, ScoreRequest};
use tokio::sync::Semaphore;

use crate::models::{InUse, Models};

/// Bytes of a `/score` body: 4,096 numbers of up to three digits, with commas, brackets and generous white space.
const SCORE_LIMIT: usize = 256 * 1024;
/// Bytes of a picture file. A larger one gets 413.
const PICTURE_LIMIT: usize = 16 * 1024 * 1024;
/// Most requests in work or waiting for their turn. One more gets 503.
const REQUESTS: usize = 16;
/// Requests in work at a time, so that they leave a core to the frames.
const AT_WORK: usize = 1;

/// What the routes share.
#[derive(Debug, Clone)]
struct Api {
    in_use: InUse,
    models_dir: PathBuf,
    places: Arc<Semaphore>,
    work: Arc<Semaphore>,
}

/// The routes.
pub(crate) fn routes(in_use: InUse, models_dir: PathBuf) -> Router {
    let api = Api {
        in_use,
        models_dir,
        places: Arc::new(Semaphore::new(REQUESTS)),
        work: Arc::new(Semaphore::new(AT_WORK)),
    };
    Router::new()
        .route("/score", post(score).layer(DefaultBodyLimit::max(SCORE_LIMIT)))
        .route("/faces", post(faces).layer(DefaultBodyLimit::max(PICTURE_LIMIT)))
        .route("/models", get(models))
        .with_state(api)
}

/// `POST /score`: a grey face of 64x64 pixels, eight probabilities in FER+'s order.
async fn score(State(api): State<Api>, body: Bytes) -> Result<Json<ScoreAnswer>, HttpProblem> {
    api.work(move |models, _| {
        let request =
            ScoreRequest::parse(&body).map_err(|error| bad("not a request to score", &error.to_string()))?;
        if request.shape != [1, 1, 64, 64] {
            let detail = format!("data has the shape {:?}, but must have [1, 1, 64, 64]", request.shape);
            return Err(bad("data of the wrong shape", &detail));
        }
        let started = Instant::now();
        let answer = models.reader.score(&request.values).map_err(failed)?;
        Ok(Json(ScoreAnswer { result: answer.to_fer_plus().to_vec(), time: started.elapsed().as_secs_f64() }))
    })
    .await
}

/// `POST /faces`: a picture file, the faces in it.
async fn faces(State(api): State<Api>, body: Bytes) -> Result<Json<Value>, HttpProblem> {
    api.work(move |models, options| {
        let picture = decode(&body, &DecodeLimits::default())
            .map_err(|error| bad("not a picture", &error.to_string()))?;
        let judgement = models.judge(&picture, &options).map_err(failed)?;
        Ok(Json(json!({
            "width": picture.width,
            "height": picture.height,
            "faces": judgement.faces,
            "models": models.names(),
            "inference_ms": judgement.inference_ms,
            "model_ms": judgement.model_ms,
        })))
    })
    .await
}

/// `GET /models`: the models in use, and those that can be chosen by twin.
async fn models(State(api): State<Api>) -> Result<Json<Value>, HttpProblem> {
    let in_use = api.in_use.get();
    let description = tokio::task::spawn_blocking(move || {
        let store = ModelStore::open(&api.models_dir).map_err(|error| {
            HttpProblem::new(StatusCode::INTERNAL_SERVER_ERROR, "no catalog", error.to_string())
        })?;
        let known = store.catalog().models.iter().map(|(name, entry)| {
            let file =
                store.folders().iter().map(|folder| folder.join(&entry.file)).find(|file| file.is_file());
            json!({
                "name": name,
                "title": entry.title,
                "task": entry.task,
                "licence": entry.licence,
                "sha256": entry.sha256,
                "here": file.is_some(),
            })
        });
        let known: Vec<_> = known.collect();
        let in_use = in_use
            .map(|(models, _)| json!([describe(models.finder.model()), describe(models.reader.model())]));
        Ok(Json(json!({"in_use": in_use.unwrap_or_else(|| json!([])), "known": known})))
    });
    description.await.map_err(|error| ended(&error))?
}

fn describe(model: &Model) -> Value {
    let description = model.describe();
    let ports = |ports: &[shunt_infer::Port]| {
        ports.iter().map(|port| json!({"name": port.name, "shape": port.to_string()})).collect::<Vec<_>>()
    };
    json!({
        "name": model.name(),
        "title": model.entry().title,
        "task": model.entry().task,
        "file": model.file(),
        "backend": model.chosen().version,
        "because": model.chosen().why,
        "inputs": ports(&description.inputs),
        "outputs": ports(&description.outputs),
    })
}

// === impl Api ===

impl Api {
    /// Does heavy work with the models on a thread for it, when its turn comes.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Models, shunt_infer::FaceOptions) -> Result<T, HttpProblem> + Send + 'static,
    ) -> Result<T, HttpProblem> {
        let busy = |detail: &str| HttpProblem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail);
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| busy(&format!("{REQUESTS} requests are waiting already")))?;
        let turn = Arc::clone(&self.work).acquire_owned().await.map_err(|_| busy("the module is ending"))?;
        let Some((models, options)) = self.in_use.get() else {
            let detail = "no models are loaded; /readyz says why";
            return Err(HttpProblem::new(StatusCode::SERVICE_UNAVAILABLE, "no models", detail));
        };
        let answer = tokio::task::spawn_blocking(move || {
            let answer = work(&models, options);
            drop((place, turn));
            answer
        });
        answer.await.map_err(|error| ended(&error))?
    }
}

fn bad(title: &str, detail: &str) -> HttpProblem {
    HttpProblem::new(StatusCode::BAD_REQUEST, title, detail)
}

#[expect(clippy::needless_pass_by_value, reason = "used with map_err")]
fn failed(error: shunt_infer::ModelError) -> HttpProblem {
    HttpProblem::new(StatusCode::INTERNAL_SERVER_ERROR, "the model failed", error.to_string())
}

fn ended(error: &tokio::task::JoinError) -> HttpProblem {
    HttpProblem::new(StatusCode::INTERNAL_SERVER_ERROR, "the work ended early", error.to_string())
}
