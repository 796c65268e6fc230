//! Pictures in, what they show out: `POST /image`, `/classify` and `/url`, as a container that Custom Vision exports has
//! them.

use std::time::{Duration, Instant};

use axum::{
    Json,
    extract::{Query, Request, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shunt_vision::{DecodeError, DecodeLimits, Rect, decode_for};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use crate::{
    api::{Api, Room},
    engine::Engine,
    multipart,
    problem::{Code, Problem},
    seen::{Prepared, Seen},
};

/// The part of a form that is the picture.
const PART: &str = "imageData";
/// Most classes or faces that are told.
const TOP: u32 = 1_000;

/// What can be asked for in the address.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Wishes {
    /// A served model instead of that of the setting `model`.
    model: Option<String>,
    /// Instead of the setting `top`.
    top: Option<u32>,
    /// The least score of a face.
    min_score: Option<f32>,
}

/// The answer: first what clients of Custom Vision read, then ours.
#[derive(Debug, Serialize)]
struct Answer {
    created: String,
    id: String,
    iteration: &'static str,
    predictions: Vec<Prediction>,
    project: &'static str,
    model: String,
    digest: String,
    width: u32,
    height: u32,
    /// Requests that the model answered in the same run, this one among them.
    batch: usize,
    times: Times,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Prediction {
    probability: f32,
    tag_id: String,
    tag_name: String,
    bounding_box: Option<BoundingBox>,
}

/// In parts of the picture's width and height.
#[derive(Debug, Serialize)]
struct BoundingBox {
    left: f32,
    top: f32,
    width: f32,
    height: f32,
}

/// Where the time went, in milliseconds.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "whoever reads the answer needs the unit")]
struct Times {
    decode_ms: f64,
    resize_ms: f64,
    queue_ms: f64,
    inference_ms: f64,
}

/// A picture that is ready for its model.
struct Ready {
    prepared: Prepared,
    /// So many pixels of the file does a pixel of the decoded picture stand for, along each side.
    reduced: u32,
    width: u32,
    height: u32,
    decode: Duration,
    resize: Duration,
}

/// `POST /image`, `POST /classify`: the bytes of a picture, or a form with the part `imageData`.
pub(crate) async fn image(
    State(api): State<Api>,
    wishes: Result<Query<Wishes>, QueryRejection>,
    request: Request,
) -> Response {
    let form =
        request.headers().get(header::CONTENT_TYPE).and_then(|content_type| content_type.to_str().ok());
    let form = form.and_then(multipart::boundary);
    let look = async {
        let wishes = Wishes::read(wishes)?;
        let (mut body, room) = api.body(request).await?;
        if let Some(boundary) = form {
            let find = move || {
                boundary
                    .and_then(|boundary| multipart::part(&body, &boundary, PART))
                    .map_err(|error| Problem::bad("not a form with a picture", error.to_string()))
            };
            body = api.heavy(find).await?;
        }
        look(&api, wishes, body, room).await
    };
    answer(&api, "image", look.await)
}

/// `POST /url`: `{"url": "..."}`, the address of a picture.
pub(crate) async fn url(
    State(api): State<Api>,
    wishes: Result<Query<Wishes>, QueryRejection>,
    request: Request,
) -> Response {
    /// As Custom Vision's container has it, and as its cloud has it.
    #[derive(Deserialize)]
    struct Address {
        #[serde(alias = "Url")]
        url: String,
    }

    let look = async {
        let wishes = Wishes::read(wishes)?;
        let (body, room) = api.body(request).await?;
        let read = move || {
            serde_json::from_slice(&body).map_err(|error| {
                Problem::bad("not an address", format!("{error}; wanted is {{\"url\": \"...\"}}"))
            })
        };
        let Address { url } = api.heavy(read).await?;
        drop(room);
        let settings = api.served.settings();
        let mut room = api.room(0, settings.max_body())?;
        let picture = api.pictures.fetch(&url, &settings.url_hosts, settings.max_body(), &mut room).await;
        let picture = picture.map_err(|problem| problem.with_code(Code::ImageUrl))?;
        look(&api, wishes, picture, room).await
    };
    answer(&api, "url", look.await)
}

fn answer(api: &Api, route: &str, answer: Result<Answer, Problem>) -> Response {
    match answer {
        Ok(answer) => Json(answer).into_response(),
        Err(problem) => {
            api.note(route, &problem);
            problem.into_custom_vision_response()
        }
    }
}

async fn look(api: &Api, wishes: Wishes, picture: Bytes, room: Room) -> Result<Answer, Problem> {
    let engine = match &wishes.model {
        None => api.served.classifier().ok_or_else(Problem::no_model)?,
        Some(name) => api.served.get(name).ok_or_else(|| unknown(api, name))?,
    };
    let (engine, ready) = api
        .heavy(move || {
            let ready = prepare(&engine, &picture);
            drop((picture, room));
            ready.map(|ready| (engine, ready))
        })
        .await?;
    let answered = engine.infer(ready.prepared.inputs).await?;
    let top = wishes.top.unwrap_or_else(|| api.served.settings().top) as usize;
    let least = wishes.min_score.unwrap_or_else(|| engine.pipeline().least());
    let seen = engine.pipeline().read(answered.outputs, ready.prepared.shown, top, least)?;
    let size = (ready.width, ready.height);
    let model = engine.pipeline().model();
    Ok(Answer {
        created: now(),
        id: Uuid::new_v4().to_string(),
        iteration: "",
        predictions: seen.into_iter().map(|seen| Prediction::new(seen, ready.reduced, size)).collect(),
        project: "",
        model: model.name().to_owned(),
        digest: model.digest().to_owned(),
        width: ready.width,
        height: ready.height,
        batch: answered.batch,
        times: Times {
            decode_ms: ms(ready.decode),
            resize_ms: ms(ready.resize),
            queue_ms: ms(answered.queued),
            inference_ms: ms(answered.model),
        },
    })
}

/// Decodes a picture and fits it into the model's input. Heavy.
fn prepare(engine: &Engine, file: &[u8]) -> Result<Ready, Problem> {
    let pipeline = engine.pipeline();
    let input = pipeline.model().input()?;
    let started = Instant::now();
    let decoded =
        decode_for(file, &DecodeLimits::default(), input.width(), input.height()).map_err(|error| {
            let code = if matches!(error, DecodeError::TooLarge { .. }) {
                Code::ImageSizeBytes
            } else {
                Code::ImageFormat
            };
            Problem::bad("not a picture", error.to_string()).with_code(code)
        })?;
    let decode = started.elapsed();
    let prepared = pipeline.prepare(&decoded.picture, None)?;
    let resize = started.elapsed().saturating_sub(decode);
    let (reduced, width, height) = (decoded.reduced, decoded.width, decoded.height);
    Ok(Ready { prepared, reduced, width, height, decode, resize })
}

fn unknown(api: &Api, name: &str) -> Problem {
    let served: Vec<_> =
        api.served.list().iter().map(|engine| engine.pipeline().model().name().to_owned()).collect();
    let detail = format!("{name:?} is not served; served are {}", served.join(", "));
    Problem::new(StatusCode::NOT_FOUND, "no such model", detail)
}

/// The time now, to the microsecond: some readers take no more digits.
fn now() -> String {
    let now = OffsetDateTime::now_utc();
    let now = now.replace_nanosecond(now.microsecond() * 1_000).unwrap_or(now);
    // Fails only beyond the year 9999.
    now.format(&Rfc3339).unwrap_or_default()
}

fn ms(time: Duration) -> f64 {
    // Microseconds are fine enough.
    (time.as_secs_f64() * 1e6).round() / 1e3
}

// === impl Wishes ===

impl Wishes {
    fn read(query: Result<Query<Self>, QueryRejection>) -> Result<Self, Problem> {
        let Query(wishes) = query.map_err(|rejection| Problem::bad("not a query", rejection.body_text()))?;
        if wishes.top.is_some_and(|top| !(1..=TOP).contains(&top)) {
            return Err(Problem::bad("not a query", format!("top must be from 1 to {TOP}")));
        }
        if wishes.min_score.is_some_and(|least| !(0.0..=1.0).contains(&least)) {
            return Err(Problem::bad("not a query", "min_score must be from 0 to 1"));
        }
        Ok(wishes)
    }
}

// === impl Prediction ===

impl Prediction {
    fn new(seen: Seen, reduced: u32, (width, height): (u32, u32)) -> Self {
        let bounding_box = seen.bounds.map(|Rect { x, y, width: across, height: down }| {
            let (width, height) = (width.max(1) as f32, height.max(1) as f32);
            let factor = reduced as f32;
            BoundingBox {
                left: x * factor / width,
                top: y * factor / height,
                width: across * factor / width,
                height: down * factor / height,
            }
        });
        Self {
            probability: seen.probability,
            tag_id: seen.index.to_string(),
            tag_name: seen.label,
            bounding_box,
        }
    }
}
