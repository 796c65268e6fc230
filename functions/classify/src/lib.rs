//! `classify`: says what a picture shows, with a model that the host runs (`wasi:nn`).
//!
//! A JPEG or PNG file gives `macaw is detected with 250/255 confidence`. `?model=NAME` chooses one of [`MODELS`];
//! without it the first one is taken that was granted and is there. A model's name, the form of its numbers and its
//! words are those of `models/catalog.toml`.
#![allow(missing_docs, reason = "what the bindings generator makes has no comments")]

wit_bindgen::generate!({
    path: "../../modules/functions/wit",
    world: "shunt:functions/function",
    generate_all,
});

use exports::shunt::functions::handler::{Guest, Request, Response};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer, images::Image};
use picture::{Format, Picture};
use wasi::nn::{
    graph::{self, Graph},
    tensor::{Tensor, TensorType},
};

/// One class a line; `background` first, which models with 1,000 classes do not have.
const LABELS: &str = include_str!("../../../models/labels/imagenet_labels_1001.txt");
/// Width and height of the picture that the models take.
const SIDE: u32 = 224;
/// ImageNet's mean and deviation of red, green and blue.
const NORM: [(f32, f32); 3] = [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)];

/// A model that this function knows how to ask.
struct Known {
    name: &'static str,
    input: &'static str,
    form: Form,
}

/// How a model wants its numbers, and what it answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Bytes, pixel by pixel; answers probabilities, with background.
    Bytes,
    /// Floats, one plane after the other, normed; answers logits, without background.
    Planes,
}

/// In the order in which they are tried.
const MODELS: &[Known] = &[
    Known { name: "mobilenet-v1-quant", input: "input", form: Form::Bytes },
    Known { name: "mobilenet-v2-quant", input: "input", form: Form::Bytes },
    Known { name: "efficientnet-lite0-int8", input: "data", form: Form::Planes },
    Known { name: "efficientnet-lite0", input: "data", form: Form::Planes },
    Known { name: "resnet50v2-zoo", input: "data", form: Form::Planes },
];

struct Classify;

impl Guest for Classify {
    fn handle(request: Request) -> Result<Response, String> {
        let picture = match Format::of(&request.body) {
            Some(Format::Jpeg) => picture::jpeg(&request.body, false)?,
            Some(Format::Png) => picture::png(&request.body)?,
            Some(Format::Gif) | None => return Err("this is neither a JPEG nor a PNG file".to_owned()),
        };
        let wanted = request.query.split('&').find_map(|part| part.strip_prefix("model="));
        let (known, graph) = model(wanted)?;
        let pixels = small(picture.into_rgb())?;
        let answer = ask(&graph, known, &pixels)?;
        let (label, of_255) = best(known.form, &answer)?;
        let body = format!("{label} is detected with {of_255}/255 confidence").into_bytes();
        Ok(Response { content_type: "text/plain; charset=utf-8".to_owned(), body })
    }
}

/// The model of this name, or the first one that there is.
fn model(wanted: Option<&str>) -> Result<(&'static Known, Graph), String> {
    let names = || MODELS.iter().map(|known| known.name).collect::<Vec<_>>().join(", ");
    let mut reason = None;
    for known in MODELS.iter().filter(|known| wanted.is_none_or(|name| name == known.name)) {
        match graph::load_by_name(known.name) {
            Ok(graph) => return Ok((known, graph)),
            Err(error) => reason = reason.or_else(|| Some(error.data())),
        }
    }
    match (reason, wanted) {
        (None, Some(name)) => Err(format!("this function does not know the model {name:?}; it knows {}", names())),
        (Some(reason), Some(_)) => Err(reason),
        (reason, None) => {
            let reason = reason.unwrap_or_default();
            Err(format!("grant this function one of the models {} ({reason})", names()))
        }
    }
}

/// The pixels of the picture at the size that the models take.
fn small(picture: Picture) -> Result<Vec<u8>, String> {
    let source = Image::from_vec_u8(picture.width, picture.height, picture.pixels, PixelType::U8x3);
    let source = source.map_err(|error| format!("the picture cannot be resized: {error}"))?;
    let mut made = Image::new(SIDE, SIDE, PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    let done = Resizer::new().resize(&source, &mut made, &options);
    done.map_err(|error| format!("the picture cannot be resized: {error}"))?;
    Ok(made.into_vec())
}

/// What the model answers: one number a class.
fn ask(graph: &Graph, known: &Known, pixels: &[u8]) -> Result<Vec<f32>, String> {
    let tensor = match known.form {
        Form::Bytes => Tensor::new(&[1, SIDE, SIDE, 3], TensorType::U8, pixels),
        Form::Planes => Tensor::new(&[1, 3, SIDE, SIDE], TensorType::Fp32, &planes(pixels)),
    };
    let said = |error: wasi::nn::errors::Error| error.data();
    let context = graph.init_execution_context().map_err(said)?;
    let outputs = context.compute(vec![(known.input.to_owned(), tensor)]).map_err(said)?;
    let (_, output) = outputs.into_iter().next().ok_or("the model answers nothing")?;
    let data = output.data();
    match output.ty() {
        TensorType::Fp32 => Ok(data.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()),
        // The scale of a probability in a byte, in all models of this kind.
        TensorType::U8 => Ok(data.into_iter().map(|byte| f32::from(byte) / 256.0).collect()),
        _ => Err("the model answers in numbers of a kind that this function does not know".to_owned()),
    }
}

/// Red, then green, then blue, normed.
fn planes(pixels: &[u8]) -> Vec<u8> {
    let mut planes = Vec::with_capacity(pixels.len() * 4);
    for (channel, (mean, deviation)) in NORM.into_iter().enumerate() {
        let scale = 1.0 / (255.0 * deviation);
        let offset = -mean / deviation;
        let values = pixels.iter().skip(channel).step_by(3).map(|&value| f32::from(value) * scale + offset);
        planes.extend(values.flat_map(f32::to_le_bytes));
    }
    planes
}

/// The class with the largest number, and how sure the model is in 255ths.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to 255 by then")]
fn best(form: Form, answer: &[f32]) -> Result<(&'static str, u8), String> {
    let (place, &most) =
        answer.iter().enumerate().max_by(|(_, one), (_, other)| one.total_cmp(other)).ok_or("the model answers nothing")?;
    let (skipped, probability) = match form {
        Form::Bytes => (0, most),
        Form::Planes => (1, 1.0 / answer.iter().map(|&logit| (logit - most).exp()).sum::<f32>()),
    };
    let label = LABELS.lines().nth(place + skipped).ok_or("the model knows more classes than there are words")?;
    // A byte of such a model counts 256ths; the largest is 255.
    Ok((label, (probability * 256.0).round().clamp(0.0, 255.0) as u8))
}

export!(Classify);
