//! A user's model file becomes an entry of the catalog.
//!
//! A `TensorFlow` Lite file is converted to ONNX and the result is compared with what LiteRT makes of the original;
//! only a proven conversion is served. One that cannot be made or is not proven leaves the original as the file that
//! is served, by LiteRT. An ONNX file is taken as it is, if it runs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::Serialize;
use shunt_vision::{Colour, Fit, Layout, Picture, PixelFormat};

use crate::{
    Activation, Backend as _, BackendError, Backends, ConvertError, Element, Format, Golden, Input, LiteRt,
    Loaded, ModelEntry, Normalise, Order, Output, Port, RunOptions, Source, SourceKind, Task, Tensor, Values,
    Verdict, classify::best_classes, compare, digest, golden, model::picture_tensor, tflite_to_onnx,
};

/// How often each model is run to tell how long it takes.
const TIMED_RUNS: usize = 15;
/// Places of the golden answer, beside the best five.
const GOLDEN_PLACES: usize = 7;
/// Values of an output without a scale may differ so far from golden ones, as a part of the largest.
const GOLDEN_TOLERANCE: f32 = 1e-3;
/// Probabilities of all classes add up to one, or, where each is rounded to a byte, to something near.
const PROBABILITIES: std::ops::RangeInclusive<f32> = 0.9..=1.1;

/// A model file to be imported, and what its owner says of it.
#[derive(Debug)]
pub struct ImportOrder<'a> {
    /// Its name in the catalog: lower-case letters, digits and hyphens.
    pub name: &'a str,
    /// The file.
    pub file: &'a [u8],
    /// What the file is called, for people.
    pub file_name: &'a str,
    /// How it is written.
    pub format: Format,
    /// What it is for: [`Task::Classify`] or [`Task::Tensors`].
    pub task: Task,
    /// The names of the classes, a line each; for [`Task::Classify`].
    pub labels: Option<&'a str>,
    /// How a picture's values go into a model that takes real numbers.
    pub normalise: Normalise,
    /// How a picture is brought to the model's size.
    pub fit: Fit,
    /// Its licence.
    pub licence: &'a str,
    /// Pictures on which it is tried, by name, beside drawn ones.
    pub pictures: &'a [(String, Picture)],
}

/// A model that is ready to be put into a folder of models.
#[derive(Debug)]
pub struct Imported {
    /// What the catalog is to say of it.
    pub entry: ModelEntry,
    /// The file that is to be served.
    pub file: Vec<u8>,
    /// The names of the classes and the file for them.
    pub labels: Option<(PathBuf, String)>,
    /// What came of the conversion; `None` for a file that was not converted.
    pub verdict: Option<Result<Verdict, ConvertError>>,
    /// How long a run takes, by back end; the one that serves first.
    pub times: Vec<(String, Duration)>,
    /// What a reader should know. A sentence each.
    pub notes: Vec<String>,
}

/// Why a file is not imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// Such a name has no model.
    #[error("{0:?} is no name for a model: lower-case letters, digits and hyphens, 1 to 64")]
    Name(String),
    /// Models for this have more to say than a file can.
    #[error("a model for {0:?} cannot be imported, only one for classify or tensors")]
    Task(Task),
    /// The file is damaged.
    #[error(transparent)]
    File(ConvertError),
    /// Without LiteRT nothing is proven.
    #[error("what LiteRT makes of the file must be known, but LiteRT is not there: {0}")]
    Litert(String),
    /// No back end runs it.
    #[error("no back end runs it: {0}")]
    Run(#[from] BackendError),
    /// It takes no pictures.
    #[error("a classifier takes one picture as F32, U8 or I8 with 1 or 3 channels; this model takes {0}")]
    Input(String),
    /// It has several outputs, or an odd one.
    #[error("a classifier gives one row of numbers; this model gives {0}")]
    Output(String),
    /// It has no labels.
    #[error("a classifier needs the names of its classes, a line each")]
    NoLabels,
    /// It has others.
    #[error("there are {labels} labels, but the model tells {classes} classes apart")]
    Labels {
        /// Names given.
        labels: usize,
        /// Classes of the model.
        classes: usize,
    },
    /// A picture does not go in.
    #[error("the picture {name} does not go in: {problem}")]
    Picture {
        /// The picture.
        name: String,
        /// Why.
        problem: String,
    },
}

/// A file that a back end has loaded, and what it is compared with.
struct Ready {
    /// What is served.
    served: Box<dyn Loaded>,
    by: String,
    file: Vec<u8>,
    format: Format,
    steps: Vec<Option<f32>>,
    notes: Vec<String>,
}

/// Tries a model file and says what the catalog is to say of it.
///
/// Heavy: the model is run some dozens of times. Not on an async thread.
///
/// # Errors
///
/// The file is damaged, nobody can run it, or what its owner says of it is not so.
pub fn import(order: &ImportOrder<'_>, backends: &Backends) -> Result<Imported, ImportError> {
    let valid = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if !(1..=64).contains(&order.name.len()) || !order.name.bytes().all(valid) {
        return Err(ImportError::Name(order.name.to_owned()));
    }
    if !matches!(order.task, Task::Classify | Task::Tensors) {
        return Err(ImportError::Task(order.task));
    }
    if order.format == Format::Onnx {
        let (served, chosen) = backends.load(Format::Onnx, None, order.file)?;
        let file = order.file.to_vec();
        let ready =
            Ready { served, by: chosen.version, file, format: Format::Onnx, steps: vec![], notes: vec![] };
        return describe(order, ready, None, None);
    }
    let litert = LiteRt::find().map_err(|missing| ImportError::Litert(missing.why))?;
    let options = RunOptions::default();
    let original = Order { format: Format::Tflite, file: order.file, input: None, options };
    let converted = match tflite_to_onnx(order.file) {
        Ok(converted) => converted,
        Err(error) if error.is_damage() => return Err(ImportError::File(error)),
        Err(error) => {
            let ready = Ready {
                served: litert.load(&original)?,
                by: litert.version(),
                file: order.file.to_vec(),
                format: Format::Tflite,
                steps: vec![],
                notes: vec![],
            };
            return describe(order, ready, None, Some(Err(error)));
        }
    };
    let reference = litert.load(&original)?;
    let (served, chosen) = backends.load(Format::Onnx, None, &converted.onnx)?;
    let inputs = samples(order, served.as_ref())?;
    let verdict = compare(reference.as_ref(), served.as_ref(), &converted.steps, &inputs)?;
    let (steps, notes) = (converted.steps, converted.notes);
    if verdict.wrong.is_none() {
        let ready =
            Ready { served, by: chosen.version, file: converted.onnx, format: Format::Onnx, steps, notes };
        return describe(order, ready, Some((litert.version(), reference)), Some(Ok(verdict)));
    }
    let file = order.file.to_vec();
    let ready = Ready { served: reference, by: litert.version(), file, format: Format::Tflite, steps, notes };
    describe(order, ready, Some((chosen.version, served)), Some(Ok(verdict)))
}

fn describe(
    order: &ImportOrder<'_>,
    ready: Ready,
    other: Option<(String, Box<dyn Loaded>)>,
    verdict: Option<Result<Verdict, ConvertError>>,
) -> Result<Imported, ImportError> {
    let inputs = samples(order, ready.served.as_ref())?;
    let answers = ready.served.run(first(&inputs))?;
    let (input, output, labels) = match order.task {
        Task::Classify => {
            let input = picture_input(order, ready.served.as_ref())?;
            let (output, labels) = classes(order, ready.served.as_ref(), &answers)?;
            (Some(input), Some(output), Some(labels))
        }
        _ => (None, None, None),
    };
    let golden = match &input {
        Some(input) => Some(golden_answer(&ready, input)?),
        None => None,
    };
    let mut times = vec![(ready.by.clone(), time(ready.served.as_ref(), &inputs)?)];
    if let Some((name, other)) = other {
        times.push((name, time(other.as_ref(), &inputs)?));
    }
    let folder = if order.task == Task::Classify { "classify" } else { "tensors" };
    let extension = if ready.format == Format::Onnx { "onnx" } else { "tflite" };
    let entry = ModelEntry {
        title: format!("{}, imported", order.file_name),
        task: order.task,
        file: Path::new(folder).join(format!("{}.{extension}", order.name)),
        format: ready.format,
        bytes: ready.file.len() as u64,
        sha256: Some(digest(&ready.file)),
        licence: order.licence.to_owned(),
        note: Some(note(&ready, verdict.as_ref())),
        card: None,
        source: Source {
            kind: SourceKind::Manual,
            registry: None,
            package: None,
            version: None,
            members: vec![],
            convert: None,
            url: None,
            note: Some(format!(
                "imported from {} with the sha256 {}: shunt models import",
                order.file_name,
                digest(order.file)
            )),
        },
        quantised_from: None,
        accuracy: None,
        golden,
        input,
        output,
    };
    Ok(Imported { entry, file: ready.file, labels, verdict, times, notes: ready.notes })
}

/// The verdict, as the catalog keeps it.
fn note(ready: &Ready, verdict: Option<&Result<Verdict, ConvertError>>) -> String {
    let by = &ready.by;
    let mut text = match verdict {
        None => format!("Ran with {by} when it was imported."),
        Some(Ok(verdict)) if verdict.wrong.is_none() => {
            format!("Converted from TensorFlow Lite. {by} compared with LiteRT: {verdict}.")
        }
        Some(Ok(verdict)) => {
            format!("{by} serves the original, the converted file is not proven: {verdict}.")
        }
        Some(Err(error)) => format!("{by} serves the original: {error}."),
    };
    for note in &ready.notes {
        text = format!("{text} {note}");
    }
    text
}

fn first(inputs: &[(String, Vec<Tensor>)]) -> Vec<Tensor> {
    inputs.first().map(|(_, input)| input.clone()).unwrap_or_default()
}

/// The middle of some runs.
fn time(model: &dyn Loaded, inputs: &[(String, Vec<Tensor>)]) -> Result<Duration, BackendError> {
    let mut times = Vec::new();
    for _ in 0..TIMED_RUNS {
        let input = first(inputs);
        let started = Instant::now();
        model.run(input)?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    Ok(times.get(TIMED_RUNS / 2).copied().unwrap_or_default())
}

/// What models are run on: pictures and drawings where they take a picture, else drawn numbers.
fn samples(order: &ImportOrder<'_>, model: &dyn Loaded) -> Result<Vec<(String, Vec<Tensor>)>, ImportError> {
    let Ok(input) = picture_input(order, model) else { return Ok(drawn(&model.describe().inputs)) };
    let (width, height) = (input.width(), input.height());
    let channels = if input.colour == Colour::Rgb { 3 } else { 1 };
    let format = if input.colour == Colour::Rgb { PixelFormat::Rgb8 } else { PixelFormat::Grey8 };
    let count = width as usize * height as usize * channels;
    let noise = Noise(1).take(count).collect();
    let drawings = [
        ("waves", golden::pattern(&input)),
        ("noise", noise),
        ("black", vec![0; count]),
        ("white", vec![255; count]),
    ];
    let refused = |name: &str, problem: String| ImportError::Picture { name: name.to_owned(), problem };
    let mut samples = Vec::new();
    for (name, picture) in order.pictures {
        let (tensor, _) =
            picture_tensor(&input, picture, None).map_err(|error| refused(name, error.to_string()))?;
        samples.push((name.clone(), vec![tensor]));
    }
    for (name, pixels) in drawings {
        let picture =
            Picture::new(width, height, format, pixels).map_err(|error| refused(name, error.to_string()))?;
        let (tensor, _) =
            picture_tensor(&input, &picture, None).map_err(|error| refused(name, error.to_string()))?;
        samples.push((name.to_owned(), vec![tensor]));
    }
    Ok(samples)
}

/// Numbers for inputs that are no pictures: noughts, and noise from -1 to 1 or of all bytes.
fn drawn(ports: &[Port]) -> Vec<(String, Vec<Tensor>)> {
    let tensor = |port: &Port, noisy: bool| {
        let shape: Vec<usize> = port.shape.iter().map(|length| length.unwrap_or(1)).collect();
        let count = shape.iter().product();
        let noise = Noise(count as u64).take(count);
        let values = match port.element {
            Element::F32 if noisy => Values::F32(noise.map(|byte| f32::from(byte) / 127.5 - 1.0).collect()),
            Element::U8 if noisy => Values::U8(noise.collect()),
            Element::I8 if noisy => Values::I8(noise.map(u8::cast_signed).collect()),
            element => Values::zeros(element, count),
        };
        Tensor { shape, values }
    };
    [("noughts", false), ("noise", true)]
        .map(|(name, noisy)| (name.to_owned(), ports.iter().map(|port| tensor(port, noisy)).collect()))
        .to_vec()
}

/// Bytes without order, the same each time.
struct Noise(u64);

impl Iterator for Noise {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        // Constants of Knuth's MMIX; the high bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some((self.0 >> 56) as u8)
    }
}

/// How a picture goes into a model that takes one.
fn picture_input(order: &ImportOrder<'_>, model: &dyn Loaded) -> Result<Input, ImportError> {
    let ports = &model.describe().inputs;
    let said = || ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    let refused = || ImportError::Input(said());
    let [port] = ports.as_slice() else { return Err(refused()) };
    let [Some(1) | None, Some(second), Some(third), Some(fourth)] = *port.shape.as_slice() else {
        return Err(refused());
    };
    let (layout, channels) = match (second, fourth) {
        (_, 1 | 3) => (Layout::Nhwc, fourth),
        (1 | 3, _) => (Layout::Nchw, second),
        _ => return Err(refused()),
    };
    if !matches!(port.element, Element::F32 | Element::U8 | Element::I8) {
        return Err(refused());
    }
    Ok(Input {
        name: port.name.clone(),
        shape: [1, second, third, fourth],
        layout,
        colour: if channels == 3 { Colour::Rgb } else { Colour::Grey },
        fit: order.fit,
        element: port.element,
        normalise: (port.element == Element::F32).then_some(order.normalise),
        scale: None,
        offset: None,
    })
}

/// How the classes come out, and the file of their names.
fn classes(
    order: &ImportOrder<'_>,
    model: &dyn Loaded,
    answers: &[Tensor],
) -> Result<(Output, (PathBuf, String)), ImportError> {
    let text = order.labels.ok_or(ImportError::NoLabels)?;
    let ports = &model.describe().outputs;
    let ([port], [answer]) = (ports.as_slice(), answers) else {
        let said: Vec<_> = ports.iter().map(ToString::to_string).collect();
        return Err(ImportError::Output(said.join(" and ")));
    };
    let values = answer.clone().into_f32();
    if answer.shape.iter().filter(|length| **length > 1).count() > 1 {
        return Err(ImportError::Output(port.to_string()));
    }
    let labels = text.lines().count();
    if labels != values.len() {
        return Err(ImportError::Labels { labels, classes: values.len() });
    }
    let probable = values.iter().all(|value| (0.0..=1.0).contains(value))
        && PROBABILITIES.contains(&values.iter().sum::<f32>());
    let file = Path::new("labels").join(format!("{}.txt", order.name));
    let output = Output::Classes {
        values: port.name.clone(),
        activation: if probable { Activation::None } else { Activation::Softmax },
        classes: values.len(),
        labels: file.clone(),
    };
    Ok((output, (file, text.to_owned())))
}

/// What the model says to the picture that every machine can draw.
fn golden_answer(ready: &Ready, input: &Input) -> Result<Golden, ImportError> {
    let format = if input.colour == Colour::Rgb { PixelFormat::Rgb8 } else { PixelFormat::Grey8 };
    let refused = |problem: String| ImportError::Picture { name: "waves".to_owned(), problem };
    let picture = Picture::new(input.width(), input.height(), format, golden::pattern(input))
        .map_err(|error| refused(error.to_string()))?;
    let (tensor, _) = picture_tensor(input, &picture, None).map_err(|error| refused(error.to_string()))?;
    let answers = ready.served.run(vec![tensor])?;
    let mut outputs = BTreeMap::new();
    let mut tolerance = 0.0_f32;
    for (index, (port, answer)) in ready.served.describe().outputs.iter().zip(answers).enumerate() {
        let values = answer.into_f32();
        let largest = values.iter().fold(1.0_f32, |largest, value| largest.max(value.abs()));
        let step = ready.steps.get(index).copied().flatten();
        tolerance = tolerance.max(step.unwrap_or(largest * GOLDEN_TOLERANCE));
        let mut places: Vec<usize> = best_classes(&values, 5).into_iter().map(|(place, _)| place).collect();
        places.extend((0..GOLDEN_PLACES).map(|part| part * values.len() / GOLDEN_PLACES));
        places.sort_unstable();
        places.dedup();
        let said = places.into_iter().filter_map(|place| Some((place, *values.get(place)?)));
        outputs.insert(port.name.clone(), said.collect());
    }
    Ok(Golden { pattern: 1, tolerance, outputs })
}

// === impl Imported ===

impl Imported {
    /// The file for `catalog.d`: the entry under its name.
    ///
    /// # Errors
    ///
    /// None: an entry is always something that can be written.
    pub fn catalog(&self, name: &str) -> Result<String, toml::ser::Error> {
        #[derive(Serialize)]
        struct File<'a> {
            models: BTreeMap<&'a str, &'a ModelEntry>,
        }
        let text = toml::to_string_pretty(&File { models: BTreeMap::from([(name, &self.entry)]) })?;
        Ok(format!("# Written by `shunt models import`; read beside the catalog.\n\n{text}"))
    }
}
