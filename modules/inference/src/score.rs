//! `POST /score` of gbaeke/emotion and gbaeke/resnet-score.

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use shunt_infer::{Classifier, ModelError};
use shunt_vision::{Picture, PixelFormat};
use shunt_wire::seed::{ScoreAnswer, ScoreRequest};

use crate::{
    api::Api,
    engine::{Engine, Pipeline},
    problem::Problem,
};

/// A grey face: batch, channels, height, width. FER+'s.
const FACE: [usize; 4] = [1, 1, 64, 64];
/// A picture in red, green, blue. That of `ResNet50v2`.
const PICTURE: [usize; 4] = [1, 3, 224, 224];

/// `POST /score`: the shape of `data` decides the model; scaling and normalising are ours. The answer is flat: eight
/// probabilities in FER+'s order, or a thousand in `ImageNet`'s.
pub(crate) async fn score(State(api): State<Api>, request: Request) -> Response {
    match answer(&api, request).await {
        Ok(answer) => Json(answer).into_response(),
        Err(problem) => {
            api.note("score", &problem);
            problem.into_response()
        }
    }
}

async fn answer(api: &Api, request: Request) -> Result<ScoreAnswer, Problem> {
    let (body, room) = api.body(request).await?;
    let served = api.served.clone();
    let (engine, prepared) = api
        .heavy(move || {
            let request = ScoreRequest::parse(&body)
                .map_err(|error| Problem::bad("not a request to score", error.to_string()))?;
            let engine = match request.shape {
                FACE => served.expression(),
                PICTURE => served.classifier(),
                shape => {
                    let detail = format!(
                        "data has the shape {shape:?}; {FACE:?} is a face for FER+, {PICTURE:?} a picture for the classifier"
                    );
                    return Err(Problem::bad("data of the wrong shape", detail));
                }
            };
            let engine = engine.ok_or_else(Problem::no_model)?;
            let picture = picture(request)?;
            let prepared = engine.pipeline().prepare(&picture, None)?;
            drop((body, room));
            Ok((engine, prepared))
        })
        .await?;
    let answer = engine.infer(prepared.inputs).await?;
    let result = probabilities(&engine, answer.outputs)?;
    Ok(ScoreAnswer { result, time: answer.model.as_secs_f64() })
}

/// The picture whose values came channel by channel.
fn picture(request: ScoreRequest) -> Result<Picture, Problem> {
    let [_, channels, height, width] = request.shape;
    let (format, pixels) = match channels {
        3 => {
            let (red, others) = request.values.split_at(height * width);
            let (green, blue) = others.split_at(height * width);
            let mut pixels = vec![0; request.values.len()];
            let (places, _) = pixels.as_chunks_mut::<3>();
            for (((place, red), green), blue) in places.iter_mut().zip(red).zip(green).zip(blue) {
                *place = [*red, *green, *blue];
            }
            (PixelFormat::Rgb8, pixels)
        }
        _ => (PixelFormat::Grey8, request.values),
    };
    Picture::new(width as u32, height as u32, format, pixels)
        .map_err(|error| Problem::bad("data of the wrong shape", error.to_string()))
}

fn probabilities(engine: &Engine, outputs: Vec<shunt_infer::Tensor>) -> Result<Vec<f32>, Problem> {
    match engine.pipeline() {
        Pipeline::Expression(reader) => {
            let result = reader.probabilities(outputs)?.to_fer_plus().to_vec();
            if result.iter().all(|value| value.is_finite()) {
                return Ok(result);
            }
            Err(ModelError::NotFinite { model: reader.model().name().to_owned() }.into())
        }
        Pipeline::Classifier(classifier) => {
            let mut result = classifier.read(outputs)?;
            if has_background(classifier) {
                result.remove(0);
            }
            Ok(result)
        }
        pipeline => {
            let detail = format!("the model {:?} tells no probabilities of classes", pipeline.model().name());
            Err(Problem::new(StatusCode::CONFLICT, "the model is for something else", detail))
        }
    }
}

/// Is the first class none of `ImageNet`'s thousand? The clients look the others up by their place among the thousand.
fn has_background(classifier: &Classifier) -> bool {
    classifier.labels().len() == 1_001
        && classifier.labels().first().is_some_and(|label| label == "background")
}
