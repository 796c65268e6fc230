//! The data of each kind of event.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Body, Envelope, EnvelopeError, Name};

/// A rectangle in a picture, in pixels of that picture, origin at the upper left; may be partly outside.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rect {
    /// Left edge.
    pub x: f32,
    /// Upper edge.
    pub y: f32,
    /// Width.
    pub width: f32,
    /// Height.
    pub height: f32,
}

/// How the pixels of a frame lie in memory: rows from the top, no padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PixelFormat {
    /// Three bytes a pixel: red, green, blue.
    Rgb8,
    /// One byte a pixel.
    Grey8,
}

// === impl PixelFormat ===

impl PixelFormat {
    /// Bytes a pixel.
    pub const fn bytes_per_pixel(self) -> usize {
        match self {
            Self::Rgb8 => 3,
            Self::Grey8 => 1,
        }
    }
}

/// Where the pixels of a frame are: a slot of a ring in shared memory, and which write to that slot is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FrameRef {
    /// The ring: a file of this name in the frames folder of the device.
    pub ring: Name,
    /// The slot in the ring.
    pub slot: u32,
    /// The generation of the slot's content; another one there means that the frame is gone.
    pub generation: u64,
}

/// The data of a `frame` event: the picture's measures, and its pixels or where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Running number of the frame at its source, from 0; skipped frames leave gaps.
    pub sequence: u64,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The pixels.
    pub pixels: FramePixels,
}

/// The pixels of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FramePixels {
    /// In shared memory.
    Shared {
        /// How they lie there.
        format: PixelFormat,
        /// Where.
        reference: FrameRef,
    },
    /// In the event itself, as a JPEG file.
    Jpeg(Bytes),
}

/// The JSON data of a frame event whose pixels are in shared memory.
#[derive(Serialize, Deserialize)]
struct SharedFrame {
    sequence: u64,
    width: u32,
    height: u32,
    format: PixelFormat,
    #[serde(flatten)]
    reference: FrameRef,
}

const JPEG: &str = "image/jpeg";
const SEQUENCE: &str = "framesequence";
const WIDTH: &str = "framewidth";
const HEIGHT: &str = "frameheight";

// === impl Frame ===

impl Frame {
    /// Puts the frame into an event: JSON data for a reference; a JPEG body with the measures as extension
    /// attributes (`framesequence`, `framewidth`, `frameheight`) otherwise.
    pub fn write(&self, envelope: Envelope) -> Result<Envelope, EnvelopeError> {
        match &self.pixels {
            FramePixels::Shared { format, reference } => envelope.with_json(&SharedFrame {
                sequence: self.sequence,
                width: self.width,
                height: self.height,
                format: *format,
                reference: reference.clone(),
            }),
            FramePixels::Jpeg(jpeg) => Ok(envelope
                .with_extension(SEQUENCE, self.sequence)
                .with_extension(WIDTH, self.width)
                .with_extension(HEIGHT, self.height)
                .with_body(JPEG, jpeg.clone())),
        }
    }

    /// Reads the frame of an event.
    pub fn read(envelope: &Envelope) -> Result<Self, EnvelopeError> {
        if let Some(Body { content_type, bytes }) = &envelope.body
            && content_type == JPEG
        {
            return Ok(Self {
                sequence: number(envelope, SEQUENCE)?,
                width: number(envelope, WIDTH)?,
                height: number(envelope, HEIGHT)?,
                pixels: FramePixels::Jpeg(bytes.clone()),
            });
        }
        let SharedFrame { sequence, width, height, format, reference } = envelope.json()?;
        Ok(Self { sequence, width, height, pixels: FramePixels::Shared { format, reference } })
    }
}

fn number<T: std::str::FromStr>(envelope: &Envelope, name: &'static str) -> Result<T, EnvelopeError> {
    let value = envelope.extension(name).ok_or(EnvelopeError::Missing(name))?;
    value.parse().map_err(|_| EnvelopeError::Attribute {
        attribute: name.to_owned(),
        value: value.to_owned(),
        rule: "it must be a whole number",
    })
}

/// The data of a `face` event: one face in one frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Face {
    /// The frame's number at its source.
    pub sequence: u64,
    /// Width of the frame in pixels.
    pub width: u32,
    /// Height of the frame in pixels.
    pub height: u32,
    /// The same number as long as the same face stays in view; unique for the source.
    pub track: u64,
    /// Where the face is.
    pub bounds: Rect,
    /// How sure the face finder is, 0 to 1.
    pub score: f32,
}

/// The data of an `emotion` event: the expression of one face in one frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Emotion {
    /// The face.
    #[serde(flatten)]
    pub face: Face,
    /// The most likely expression.
    pub emotion: Expression,
    /// Its probability, 0 to 1.
    pub probability: f32,
    /// All probabilities by name, in FER+'s order; they sum to 1.
    pub probabilities: Probabilities,
    /// Which models answered: face finder and expression.
    pub models: Vec<String>,
    /// Milliseconds from the frame's pixels to the expressions of all its faces: fitting the frame and each face into
    /// the models' inputs, the models, decoding their outputs.
    pub inference_ms: f64,
    /// Of these, milliseconds inside the models themselves.
    pub model_ms: f64,
}

/// The eight expressions of FER+, in the order of its outputs.
///
/// Source: microsoft/FERPlus; gbaeke/emotion prints other names for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say all")]
pub enum Expression {
    Neutral,
    Happiness,
    Surprise,
    Sadness,
    Anger,
    Disgust,
    Fear,
    Contempt,
}

/// The probabilities of the eight expressions, each 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say all")]
pub struct Probabilities {
    pub neutral: f32,
    pub happiness: f32,
    pub surprise: f32,
    pub sadness: f32,
    pub anger: f32,
    pub disgust: f32,
    pub fear: f32,
    pub contempt: f32,
}

// === impl Expression ===

impl Expression {
    /// All, in FER+'s order.
    pub const ALL: [Self; 8] = [
        Self::Neutral,
        Self::Happiness,
        Self::Surprise,
        Self::Sadness,
        Self::Anger,
        Self::Disgust,
        Self::Fear,
        Self::Contempt,
    ];

    /// The name, in lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Neutral => "neutral",
            Self::Happiness => "happiness",
            Self::Surprise => "surprise",
            Self::Sadness => "sadness",
            Self::Anger => "anger",
            Self::Disgust => "disgust",
            Self::Fear => "fear",
            Self::Contempt => "contempt",
        }
    }
}

impl std::fmt::Display for Expression {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

// === impl Probabilities ===

impl Probabilities {
    /// From a model's output in FER+'s order.
    pub fn from_fer_plus(values: [f32; 8]) -> Self {
        let [neutral, happiness, surprise, sadness, anger, disgust, fear, contempt] = values;
        Self { neutral, happiness, surprise, sadness, anger, disgust, fear, contempt }
    }

    /// In FER+'s order.
    pub fn to_fer_plus(self) -> [f32; 8] {
        let Self { neutral, happiness, surprise, sadness, anger, disgust, fear, contempt } = self;
        [neutral, happiness, surprise, sadness, anger, disgust, fear, contempt]
    }

    /// The most likely expression and its probability; the first of equals.
    pub fn best(self) -> (Expression, f32) {
        let mut best = (Expression::Neutral, self.neutral);
        for (expression, probability) in Expression::ALL.into_iter().zip(self.to_fer_plus()) {
            if probability > best.1 {
                best = (expression, probability);
            }
        }
        best
    }
}

/// The data of a `label` event: what one frame, or a part of it, shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Label {
    /// The frame's number at its source.
    pub sequence: u64,
    /// Width of the frame in pixels.
    pub width: u32,
    /// Height of the frame in pixels.
    pub height: u32,
    /// The part of the frame that was looked at; not given: all of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub region: Option<Rect>,
    /// The most probable class.
    pub label: String,
    /// Its probability, 0 to 1.
    pub probability: f32,
    /// The most probable classes, the best first.
    pub classes: Vec<LabelClass>,
    /// Which model answered, by its name in the catalog.
    pub model: String,
    /// The sha256 of its file in hexadecimal.
    pub digest: String,
    /// Who ran it: `tract`, `onnxruntime`, `litert`.
    pub backend: String,
    /// Milliseconds from the frame's pixels to the classes.
    pub inference_ms: f64,
    /// Of these, milliseconds inside the model itself.
    pub model_ms: f64,
}

/// A class of a [`Label`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelClass {
    /// Its name.
    pub label: String,
    /// Its number in the model's output, from 0.
    pub index: u32,
    /// Its probability, 0 to 1.
    pub probability: f32,
    /// Where it is, in pixels of the frame; not given where the model does not tell that.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bounds: Option<Rect>,
}

/// The data of a `text` event: a text to be judged. A body of `text/plain` is taken for the text alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// The text.
    pub text: String,
    /// Its language: `en`, `nl`; not given: what the module that judges takes then.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub language: Option<String>,
}

/// The data of a `sentiment` event: how positive one text is. It does not hold the text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sentiment {
    /// The id of the text's event.
    pub text: String,
    /// 0 (negative) to 1 (positive).
    pub score: f64,
    /// The language that the text was taken to have.
    pub language: String,
    /// Characters of the text.
    pub characters: u64,
    /// Who judged: the name of the local model, or `cognitive` for an Azure Cognitive Services container.
    pub model: String,
    /// Why the local model judged although another was wanted; not given where none was.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fallback: Option<String>,
    /// Milliseconds that judging took.
    pub inference_ms: f64,
}

/// The data of a `presence` event (retained; the broker publishes `online: false` as the module's last will).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Is the module there?
    pub online: bool,
    /// Its version.
    pub version: String,
    /// The port of its HTTP interface, where it has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub port: Option<u16>,
    /// The host name or address at which others reach it; not given: its own name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host: Option<String>,
}

/// The data of a `dead-letter` event: something that a module could not use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The topic it came on.
    pub topic: String,
    /// Why it could not be used.
    pub reason: String,
    /// Its first bytes, 1,024 at most, as text; what is no text is replaced.
    pub excerpt: String,
}

/// The data of a `window` event: what a rule computed of the events in one window of one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// The rule.
    pub rule: String,
    /// What the group's events have in common, by name; empty where the rule has no groups.
    pub group: Map<String, Value>,
    /// When the window begins, RFC 3339 in UTC.
    pub start: String,
    /// When it ends.
    pub end: String,
    /// Events in it.
    pub events: u64,
    /// The rule's values, by name; null where the events give none.
    pub values: Map<String, Value>,
}

/// What an alert tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlertState {
    /// The condition holds from now on.
    Raised,
    /// It still holds.
    Repeated,
    /// It holds no more.
    Cleared,
    /// The rule itself does not work; the message says why.
    Failed,
}

/// The data of an `alert` event: what a rule has to tell of one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// The rule.
    pub rule: String,
    /// What the group's events have in common, by name; empty where the rule has no groups.
    pub group: Map<String, Value>,
    /// What it tells.
    pub state: AlertState,
    /// How bad it is: `info`, `warning`, `critical`.
    pub severity: String,
    /// For people.
    pub message: String,
    /// When it was raised, RFC 3339 in UTC.
    pub since: String,
    /// When this was found, in the time of the events.
    pub at: String,
    /// Whether it asks to be sent upstream.
    pub upstream: bool,
    /// What the rule computed, by name.
    pub values: Map<String, Value>,
}
