//! A user's model file becomes an entry of the catalog.
//!
//! A `TensorFlow` Lite file is converted to ONNX and the result is compared with what LiteRT makes of the original;
//! only a proven conversion is served. One that cannot be made or is not proven leaves the original as the file that
//! is served, by LiteRT. An ONNX file is taken as it is, if it runs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use prost::Message as _;
use serde::Serialize;
use shunt_vision::{Colour, Fit, Layout, Picture, PixelFormat};

use tract_onnx::pb::ModelProto;

use crate::{
    Activation, Backend as _, BackendError, Backends, ConvertError, Converted, Element, Format, Golden,
    Input, LiteRt, Loaded, ModelEntry, Normalise, Order, Output, Port, RunOptions, Source, SourceKind, Task,
    Tensor, Tract, Values, Verdict,
    classify::best_classes,
    compare, convert, digest, golden,
    model::picture_tensor,
    tensor::{LARGEST, size},
    tflite_to_onnx, zeros,
};

/// How often each model is run to tell how long it takes.
const TIMED_RUNS: usize = 15;
/// Places of the golden answer, beside the best five.
const GOLDEN_PLACES: usize = 7;
/// Values of a model of real numbers may differ so far from golden ones, as a part of the largest.
const GOLDEN_TOLERANCE: f32 = 1e-3;
/// Those of a quantised model as a part of all that its output spans: two steps of a byte.
const GOLDEN_STEPS: f32 = 2.0 / 255.0;
/// And so many times as far as another back end is off.
const GOLDEN_DIFFERENCE: f32 = 3.0;
/// Operators that only a quantised graph has.
const QUANTISED: [&str; 6] = [
    "QuantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
];
/// What a probability is, with what rounding adds.
const PROBABILITY: std::ops::RangeInclusive<f32> = 0.0..=1.0001;

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
    let inputs = samples(order, reference.as_ref())?;
    let (verdict, other) = prove(&converted, reference.as_ref(), &inputs, backends);
    let (steps, notes) = (converted.steps, converted.notes);
    let other = match other {
        Some((by, served)) if verdict.wrong.is_none() => {
            let ready = Ready { served, by, file: converted.onnx, format: Format::Onnx, steps, notes };
            return describe(order, ready, Some((litert.version(), reference)), Some(Ok(verdict)));
        }
        other => other,
    };
    let file = order.file.to_vec();
    let ready = Ready { served: reference, by: litert.version(), file, format: Format::Tflite, steps, notes };
    describe(order, ready, other, Some(Ok(verdict)))
}

/// What serves a file, by its version.
type By = (String, Box<dyn Loaded>);

/// Compares a converted file with its original. One that no back end runs is not proven; who ran it, if anybody did.
fn prove(
    converted: &Converted,
    reference: &dyn Loaded,
    inputs: &[(String, Vec<Tensor>)],
    backends: &Backends,
) -> (Verdict, Option<By>) {
    let wrong = |problem: String| Verdict { inputs: 0, largest: 0.0, wrong: Some(problem) };
    let (served, chosen) = match backends.load(Format::Onnx, None, &converted.onnx) {
        Ok(loaded) => loaded,
        Err(error) => return (wrong(format!("no back end loads it ({error})")), None),
    };
    match compare(reference, served.as_ref(), &converted.steps, inputs) {
        Ok(verdict) => (verdict, Some((chosen.version, served))),
        Err(error) => (wrong(format!("{} does not run it ({error})", chosen.version)), None),
    }
}

fn describe(
    order: &ImportOrder<'_>,
    ready: Ready,
    other: Option<By>,
    verdict: Option<Result<Verdict, ConvertError>>,
) -> Result<Imported, ImportError> {
    let inputs = samples(order, ready.served.as_ref())?;
    let (input, output, labels) = match order.task {
        Task::Classify => {
            let input = picture_input(order, ready.served.as_ref())?;
            let runs = inputs.iter().map(|(_, input)| ready.served.run(input.clone()));
            let answers = runs.collect::<Result<Vec<_>, _>>()?;
            let (output, labels) = classes(order, ready.served.as_ref(), answers)?;
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
    let Ok(input) = picture_input(order, model) else { return Ok(drawn(&model.describe().inputs)?) };
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
fn drawn(ports: &[Port]) -> Result<Vec<(String, Vec<Tensor>)>, BackendError> {
    let noughts = zeros(ports)?;
    let of_shape = |tensor: &Tensor| {
        let count = tensor.values.len();
        let noise = Noise(count as u64).take(count);
        let values = match tensor.values.element() {
            Element::F32 => Values::F32(noise.map(|byte| f32::from(byte) / 127.5 - 1.0).collect()),
            Element::U8 => Values::U8(noise.collect()),
            Element::I8 => Values::I8(noise.map(u8::cast_signed).collect()),
            _ => tensor.values.clone(),
        };
        Tensor { shape: tensor.shape.clone(), values }
    };
    let noise = noughts.iter().map(of_shape).collect();
    Ok(vec![("noughts".to_owned(), noughts), ("noise".to_owned(), noise)])
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
    let fits = size(&[second, third, fourth], port.element).is_some_and(|bytes| bytes <= LARGEST);
    if !matches!(port.element, Element::F32 | Element::U8 | Element::I8) || !fits {
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

/// How the classes come out, and the file of their names. The answers are those to all samples.
fn classes(
    order: &ImportOrder<'_>,
    model: &dyn Loaded,
    answers: Vec<Vec<Tensor>>,
) -> Result<(Output, (PathBuf, String)), ImportError> {
    let text = order.labels.ok_or(ImportError::NoLabels)?;
    let ports = &model.describe().outputs;
    let [port] = ports.as_slice() else {
        let said: Vec<_> = ports.iter().map(ToString::to_string).collect();
        return Err(ImportError::Output(said.join(" and ")));
    };
    let labels = text.lines().count();
    let mut rows = Vec::new();
    for answer in answers.into_iter().flatten() {
        if answer.shape.iter().filter(|length| **length > 1).count() > 1 {
            return Err(ImportError::Output(port.to_string()));
        }
        if labels != answer.values.len() {
            return Err(ImportError::Labels { labels, classes: answer.values.len() });
        }
        rows.push(answer.into_f32());
    }
    let file = Path::new("labels").join(format!("{}.txt", order.name));
    let output = Output::Classes {
        values: port.name.clone(),
        activation: activation(&rows),
        classes: labels,
        labels: file.clone(),
    };
    Ok((output, (file, text.to_owned())))
}

/// Logits go beyond 0 and 1 on one of so different samples; what never does are probabilities, whether they add up to
/// one or not: each class may have its own, and small ones may be rounded to nought.
fn activation(rows: &[Vec<f32>]) -> Activation {
    let probable = rows.iter().flatten().all(|value| PROBABILITY.contains(value));
    if probable { Activation::None } else { Activation::Softmax }
}

/// What the model says to the picture that every machine can draw.
fn golden_answer(ready: &Ready, input: &Input) -> Result<Golden, ImportError> {
    let format = if input.colour == Colour::Rgb { PixelFormat::Rgb8 } else { PixelFormat::Grey8 };
    let refused = |problem: String| ImportError::Picture { name: "waves".to_owned(), problem };
    let picture = Picture::new(input.width(), input.height(), format, golden::pattern(input))
        .map_err(|error| refused(error.to_string()))?;
    let (tensor, _) = picture_tensor(input, &picture, None).map_err(|error| refused(error.to_string()))?;
    let quantised = ready.is_quantised();
    let difference = if quantised { ready.difference(input, &tensor) } else { 0.0 };
    let answers = ready.served.run(vec![tensor])?;
    let mut outputs = BTreeMap::new();
    let mut tolerance = GOLDEN_DIFFERENCE * difference;
    for (index, (port, answer)) in ready.served.describe().outputs.iter().zip(answers).enumerate() {
        let values = answer.into_f32();
        let step = ready.steps.get(index).copied().flatten();
        tolerance = tolerance.max(step.unwrap_or_default()).max(least_tolerance(&values, quantised));
        let mut places: Vec<usize> = best_classes(&values, 5).into_iter().map(|(place, _)| place).collect();
        places.extend((0..GOLDEN_PLACES).map(|part| part * values.len() / GOLDEN_PLACES));
        places.sort_unstable();
        places.dedup();
        let said = places.into_iter().filter_map(|place| Some((place, *values.get(place)?)));
        outputs.insert(port.name.clone(), said.collect());
    }
    Ok(Golden { pattern: 1, tolerance, outputs })
}

/// How far a value may be off another back end's, or another processor's.
fn least_tolerance(values: &[f32], quantised: bool) -> f32 {
    let largest = values.iter().fold(1.0_f32, |largest, value| largest.max(value.abs()));
    if !quantised {
        return largest * GOLDEN_TOLERANCE;
    }
    let highest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let lowest = values.iter().copied().fold(f32::INFINITY, f32::min);
    // A constant answer spans nothing, and is not to be the same to the last bit either.
    ((highest - lowest) * GOLDEN_STEPS).max(largest * GOLDEN_TOLERANCE)
}

// === impl Ready ===

impl Ready {
    /// Are bytes computed with, which back ends and processors round differently?
    fn is_quantised(&self) -> bool {
        if self.format == Format::Tflite {
            return convert::is_quantised(&self.file);
        }
        let graph = ModelProto::decode(self.file.as_slice()).ok().and_then(|model| model.graph);
        graph.is_some_and(|graph| graph.node.iter().any(|node| QUANTISED.contains(&node.op_type.as_str())))
    }

    /// The most by which any value of tract's answer is another; nought where tract does not run the file.
    fn difference(&self, input: &Input, tensor: &Tensor) -> f32 {
        let tract = Backends::of(vec![Arc::new(Tract)]);
        let run = |model: &dyn Loaded| model.run(vec![tensor.clone()]).ok();
        let own = run(self.served.as_ref());
        let other = tract.load(self.format, Some(input), &self.file).ok();
        let (Some(own), Some(other)) = (own, other.and_then(|(other, _)| run(other.as_ref()))) else {
            return 0.0;
        };
        let pairs = own.into_iter().zip(other);
        let pairs = pairs.flat_map(|(own, other)| own.into_f32().into_iter().zip(other.into_f32()));
        pairs.map(|(own, other)| (own - other).abs()).filter(|off| off.is_finite()).fold(0.0, f32::max)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_leaves_nought_to_one_is_a_probability_whatever_the_sum() {
        // A sigmoid for each label; a softmax in bytes whose small scores are nought; logits on a picture that says
        // little, and on one that says much.
        assert_eq!(activation(&[vec![0.9, 0.8, 0.1]]), Activation::None);
        assert_eq!(activation(&[vec![0.25, 0.0, 0.0], vec![1.0, 0.0, 0.0]]), Activation::None);
        assert_eq!(activation(&[vec![0.5, 0.3, 0.2], vec![7.0, -3.0, 0.1]]), Activation::Softmax);
        assert_eq!(activation(&[vec![0.5, f32::NAN]]), Activation::Softmax);
    }

    #[test]
    fn a_quantised_answer_may_be_off_by_two_steps_of_what_it_spans() {
        assert!((least_tolerance(&[-1.0, 4.1], true) - 0.04).abs() < 1e-6);
        assert!((least_tolerance(&[-1.0, 4.1], false) - 0.0041).abs() < 1e-6);
        assert!(least_tolerance(&[0.5, 0.5], true) > 0.0);
    }

    #[test]
    fn inputs_out_of_all_proportion_are_refused_and_not_drawn() {
        let shape = vec![Some(1 << 20), Some(1 << 20)];
        let error = drawn(&[Port { name: "x".to_owned(), element: Element::F32, shape }]).unwrap_err();
        assert!(error.0.contains("too large"), "{error}");
    }
}
