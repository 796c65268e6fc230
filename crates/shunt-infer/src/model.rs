//! A loaded model.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use shunt_vision::{Picture, PixelFormat, Rect, letterbox, resize, resize_region, to_grey, to_rgb};

use crate::{
    Backend, BackendError, Channels, Colour, Description, Fit, Input, Layout, Loaded, ModelEntry, ModelStore,
    Task, Tensor, ValueType, Values,
};

/// A model that is loaded and checked.
#[derive(Debug)]
pub struct Model {
    name: String,
    entry: ModelEntry,
    file: PathBuf,
    loaded: Box<dyn Loaded>,
}

/// Why a model cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The catalog has no model of that name.
    #[error("there is no model {model:?} in the catalog; it knows {}", known.join(", "))]
    Unknown {
        /// The model.
        model: String,
        /// All names.
        known: Vec<String>,
    },
    /// The model is for something else.
    #[error("the model {model:?} is for {task:?}, not for {wanted:?}; for that there are {}", known.join(", "))]
    Task {
        /// The model.
        model: String,
        /// What it is for.
        task: Task,
        /// What was wanted.
        wanted: Task,
        /// The names of those that are for it.
        known: Vec<String>,
    },
    /// Its file is nowhere.
    #[error(
        "the file {} of the model {model:?} is in none of {}; get it with `shunt models fetch {model}`",
        file.display(),
        folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    Missing {
        /// The model.
        model: String,
        /// Its file, relative to a folder.
        file: PathBuf,
        /// The folders searched.
        folders: Vec<PathBuf>,
    },
    /// Its file is there and cannot be read.
    #[error("the file {} of the model {model:?} cannot be read: {source}", file.display())]
    Read {
        /// The model.
        model: String,
        /// Its file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its file is another one than the catalog means.
    #[error(
        "the file {} of the model {model:?} has the wrong digest: expected sha256 {expected}, found {found}; get it \
         again with `shunt models fetch {model}`",
        file.display()
    )]
    Digest {
        /// The model.
        model: String,
        /// The file.
        file: PathBuf,
        /// The digest in the catalog.
        expected: String,
        /// The digest of the file.
        found: String,
    },
    /// The back end cannot load it.
    #[error("the model {model:?} cannot be loaded by {backend} from {}: {source}", file.display())]
    Load {
        /// The model.
        model: String,
        /// The back end.
        backend: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        source: BackendError,
    },
    /// It has no output of the name that the catalog gives.
    #[error("the model {model:?} has no output {output:?}, only {}", outputs.join(", "))]
    Output {
        /// The model.
        model: String,
        /// The name in the catalog.
        output: String,
        /// The names it has.
        outputs: Vec<String>,
    },
    /// What was put in does not fit.
    #[error("the model {model:?} takes {expected:?} values, not {found:?}")]
    Shape {
        /// The model.
        model: String,
        /// The shape it takes.
        expected: Vec<usize>,
        /// The shape given.
        found: Vec<usize>,
    },
    /// Its answer has another size than the catalog says.
    #[error("the model {model:?} answered with {found} values where {expected} were expected")]
    Answer {
        /// The model.
        model: String,
        /// Values expected.
        expected: usize,
        /// Values found.
        found: usize,
    },
    /// The back end failed while running it.
    #[error("the model {model:?} failed: {source}")]
    Run {
        /// The model.
        model: String,
        /// Why.
        source: BackendError,
    },
}

// === impl Model ===

impl Model {
    /// Loads a model with this back end; its file's digest is checked before.
    pub fn load(store: &ModelStore, name: &str, backend: &dyn Backend) -> Result<Self, ModelError> {
        let entry = store.entry(name)?.clone();
        let (file, bytes) = store.read(name)?;
        let started = Instant::now();
        let loaded = backend.load(entry.format, &entry.input, &bytes).map_err(|source| ModelError::Load {
            model: name.to_owned(),
            backend: backend.name(),
            file: file.clone(),
            source,
        })?;
        let ms = started.elapsed().as_millis();
        tracing::info!(model = name, ms, "Loaded the model {}.", file.display());
        Ok(Self { name: name.to_owned(), entry, file, loaded })
    }

    /// Its name in the catalog.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the catalog says of it.
    pub fn entry(&self) -> &ModelEntry {
        &self.entry
    }

    /// The file it was loaded from.
    pub fn file(&self) -> &std::path::Path {
        &self.file
    }

    /// Its inputs and outputs as the back end sees them.
    pub fn describe(&self) -> Description {
        self.loaded.describe()
    }

    /// Runs it once on a black picture, so that the first real one is as quick as the others.
    pub fn warm_up(&self) -> Result<(), ModelError> {
        let Input { colour, .. } = self.entry.input;
        let format = if colour == Colour::Rgb { PixelFormat::Rgb8 } else { PixelFormat::Grey8 };
        let picture = Picture::black(self.entry.input.width(), self.entry.input.height(), format);
        self.run(self.tensor(&picture)).map(|_| ())
    }

    /// Runs it. The outputs come in the order of [`Model::describe`].
    pub fn run(&self, input: Tensor) -> Result<Vec<Tensor>, ModelError> {
        let length = match &input.values {
            Values::F32(values) => values.len(),
            Values::U8(values) => values.len(),
        };
        if input.shape != self.entry.input.shape || length != input.shape.iter().product::<usize>() {
            return Err(ModelError::Shape {
                model: self.name.clone(),
                expected: self.entry.input.shape.to_vec(),
                found: input.shape,
            });
        }
        self.loaded.run(input).map_err(|source| ModelError::Run { model: self.name.clone(), source })
    }

    /// As [`Model::run`], and how long it took.
    pub(crate) fn run_timed(&self, input: Tensor) -> Result<(Vec<Tensor>, Duration), ModelError> {
        let started = Instant::now();
        let outputs = self.run(input)?;
        Ok((outputs, started.elapsed()))
    }

    /// The position of an output.
    pub(crate) fn output(&self, name: &str) -> Result<usize, ModelError> {
        let outputs = self.describe().outputs;
        outputs.iter().position(|output| output.name == name).ok_or_else(|| ModelError::Output {
            model: self.name.clone(),
            output: name.to_owned(),
            outputs: outputs.into_iter().map(|output| output.name).collect(),
        })
    }

    /// The whole picture as this model's input, and which part of the picture (in its pixels) the input shows.
    pub fn whole(&self, picture: &Picture) -> (Tensor, Rect) {
        let (width, height) = (self.entry.input.width(), self.entry.input.height());
        match self.entry.input.fit {
            Fit::Letterbox => {
                let (square, place) = letterbox(picture, width);
                let shown = Rect { x: place.x, y: place.y, width: place.side, height: place.side };
                (self.tensor(&square), shown)
            }
            Fit::Stretch => {
                let shown =
                    Rect { x: 0.0, y: 0.0, width: picture.width as f32, height: picture.height as f32 };
                (self.tensor(&resize(picture, width, height)), shown)
            }
        }
    }

    /// A part of the picture as this model's input.
    pub fn part(&self, picture: &Picture, part: Rect) -> Tensor {
        let (width, height) = (self.entry.input.width(), self.entry.input.height());
        self.tensor(&resize_region(picture, part, width, height))
    }

    /// A picture of the input's size as a tensor, in the colours and by the scale of the catalog.
    fn tensor(&self, picture: &Picture) -> Tensor {
        let input = &self.entry.input;
        let coloured = match (input.colour, picture.format) {
            (Colour::Rgb, PixelFormat::Grey8) => Some(to_rgb(picture.clone())),
            (Colour::Grey, PixelFormat::Rgb8) => Some(to_grey(picture)),
            _ => None,
        };
        let pixels = &coloured.as_ref().unwrap_or(picture).pixels;
        let channels = if input.colour == Colour::Rgb { 3 } else { 1 };
        let values = match input.value_type {
            ValueType::U8 => Values::U8(ordered(pixels, input.layout, channels, |value, _| value)),
            ValueType::F32 => {
                let tables: Vec<_> =
                    (0..channels).map(|channel| table(input.scale, input.offset, channel)).collect();
                Values::F32(ordered(pixels, input.layout, channels, |value, channel| {
                    let of_channel = tables.get(channel);
                    of_channel.and_then(|table| table.get(usize::from(value))).copied().unwrap_or_default()
                }))
            }
        };
        Tensor { shape: input.shape.to_vec(), values }
    }
}

/// What each value from 0 to 255 becomes.
fn table(scale: Channels, offset: Channels, channel: usize) -> Vec<f32> {
    (0..=255_u8).map(|value| f32::from(value) * scale.of(channel) + offset.of(channel)).collect()
}

/// The values of pixels, in the order of the layout.
fn ordered<T>(pixels: &[u8], layout: Layout, channels: usize, value: impl Fn(u8, usize) -> T) -> Vec<T> {
    match layout {
        Layout::Nhwc => {
            let pixels = pixels.chunks_exact(channels);
            pixels
                .flat_map(|pixel| pixel.iter().zip(0..).map(|(&byte, channel)| value(byte, channel)))
                .collect()
        }
        Layout::Nchw => (0..channels)
            .flat_map(|channel| {
                pixels.iter().skip(channel).step_by(channels).map(move |&byte| (byte, channel))
            })
            .map(|(byte, channel)| value(byte, channel))
            .collect(),
    }
}
