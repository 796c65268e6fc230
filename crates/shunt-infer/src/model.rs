//! A loaded model.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use shunt_vision::{Colour, Picture, PixelFormat, Rect, TensorError};

use crate::{
    Activation, BackendError, Backends, Chosen, Description, Element, Input, Loaded, ModelEntry, ModelStore,
    Proof, Task, Tensor, Values, golden, store::digest, zeros,
};

/// A model that is loaded and checked.
#[derive(Debug)]
pub struct Model {
    name: String,
    entry: ModelEntry,
    file: PathBuf,
    digest: String,
    chosen: Chosen,
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
    /// No back end that is wanted can load it.
    #[error("the model {model:?} cannot be loaded from {}: {source}", file.display())]
    Load {
        /// The model.
        model: String,
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
    /// It takes no picture.
    #[error("the model {model:?} takes tensors, no pictures")]
    NoPictures {
        /// The model.
        model: String,
    },
    /// The picture cannot be fitted into its input.
    #[error("the picture cannot go into the model {model:?}: {source}")]
    Picture {
        /// The model.
        model: String,
        /// Why.
        source: TensorError,
    },
    /// So many inputs were put in.
    #[error("the model {model:?} takes {expected} inputs, not {found}")]
    Inputs {
        /// The model.
        model: String,
        /// Inputs it has.
        expected: usize,
        /// Inputs given.
        found: usize,
    },
    /// Its answer has NaN or an infinity in it.
    #[error("the model {model:?} answered with what is no number")]
    NotFinite {
        /// The model.
        model: String,
    },
    /// Its answer is not the golden one.
    #[error("the model {model:?} does not answer as the catalog says: {problem}")]
    Golden {
        /// The model.
        model: String,
        /// What is different.
        problem: String,
    },
    /// What was put in does not fit.
    #[error("the input {input:?} of the model {model:?} takes {expected}, not {found}")]
    Shape {
        /// The model.
        model: String,
        /// The input.
        input: String,
        /// The type and shape it takes: `UINT8 [1, 224, 224, 3]`; an axis of any length is `-1`.
        expected: String,
        /// The type and shape given.
        found: String,
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
    /// Loads a model with the back end that these choose; its file's digest is checked before.
    pub fn load(store: &ModelStore, name: &str, backends: &Backends) -> Result<Self, ModelError> {
        let entry = store.entry(name)?.clone();
        let (file, bytes) = store.read(name)?;
        let started = Instant::now();
        let loaded = backends.load(entry.format, entry.input.as_ref(), &bytes);
        let (loaded, chosen) = loaded.map_err(|source| ModelError::Load {
            model: name.to_owned(),
            file: file.clone(),
            source,
        })?;
        let ms = started.elapsed().as_millis();
        let Chosen { version, why, .. } = &chosen;
        tracing::info!(model = name, ms, "Loaded {} with {version}: {why}.", file.display());
        Ok(Self { name: name.to_owned(), entry, digest: digest(&bytes), file, chosen, loaded })
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

    /// The sha256 of that file in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The back end that runs it, and why that one.
    pub fn chosen(&self) -> &Chosen {
        &self.chosen
    }

    /// Bytes of memory that it holds, where the back end can tell.
    pub fn memory(&self) -> Option<u64> {
        self.loaded.memory()
    }

    /// Its inputs and outputs as the back end sees them.
    pub fn describe(&self) -> &Description {
        self.loaded.describe()
    }

    /// Runs it once, so that the first real run is as quick as the others: on a black picture, or on zeros with an
    /// open axis of length 1.
    pub fn warm_up(&self) -> Result<(), ModelError> {
        self.first_run().map(drop)
    }

    /// What it answers when it is warmed up.
    pub(crate) fn first_run(&self) -> Result<Vec<Tensor>, ModelError> {
        let inputs = match &self.entry.input {
            Some(input) => {
                let format = if input.colour == Colour::Rgb { PixelFormat::Rgb8 } else { PixelFormat::Grey8 };
                vec![self.whole(&Picture::black(input.width(), input.height(), format))?.0]
            }
            None => self.zeros()?,
        };
        self.run(inputs)
    }

    /// Zeros for each input, an open axis with a length of 1.
    pub(crate) fn zeros(&self) -> Result<Vec<Tensor>, ModelError> {
        zeros(&self.describe().inputs).map_err(|source| ModelError::Run { model: self.name.clone(), source })
    }

    /// Runs it on the golden picture of the catalog and compares. `None` where the catalog has no golden answer.
    ///
    /// # Errors
    ///
    /// [`ModelError::Golden`]: it answers otherwise. And as [`Model::run`].
    pub fn prove(&self) -> Result<Option<Proof>, ModelError> {
        let (Some(golden), Some(input)) = (&self.entry.golden, &self.entry.input) else { return Ok(None) };
        let format = if input.colour == Colour::Rgb { PixelFormat::Rgb8 } else { PixelFormat::Grey8 };
        let wrong = |problem: String| ModelError::Golden { model: self.name.clone(), problem };
        let picture = Picture::new(input.width(), input.height(), format, golden::pattern(input))
            .map_err(|error| wrong(error.to_string()))?;
        let outputs = self.run(vec![self.whole(&picture)?.0])?;
        let names = self.describe().outputs.iter().map(|port| port.name.clone());
        golden.compare(&self.name, &names.zip(outputs).collect::<Vec<_>>()).map(Some)
    }

    /// Do these inputs fit: their number, and each one's type, shape and count of values?
    ///
    /// # Errors
    ///
    /// [`ModelError::Inputs`], [`ModelError::Shape`].
    pub fn check(&self, inputs: &[Tensor]) -> Result<(), ModelError> {
        let ports = &self.describe().inputs;
        if ports.len() != inputs.len() {
            return Err(ModelError::Inputs {
                model: self.name.clone(),
                expected: ports.len(),
                found: inputs.len(),
            });
        }
        for (port, tensor) in ports.iter().zip(inputs) {
            let element = tensor.values.element();
            if element != port.element || !port.takes(&tensor.shape) || !tensor.is_whole() {
                return Err(ModelError::Shape {
                    model: self.name.clone(),
                    input: port.name.clone(),
                    expected: port.to_string(),
                    found: format!(
                        "{} {:?} with {} values",
                        element.datatype(),
                        tensor.shape,
                        tensor.values.len()
                    ),
                });
            }
        }
        Ok(())
    }

    /// Runs it on one tensor for each input. Inputs and outputs come in the order of [`Model::describe`].
    pub fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, ModelError> {
        self.check(&inputs)?;
        self.loaded.run(inputs).map_err(|source| ModelError::Run { model: self.name.clone(), source })
    }

    /// As [`Model::run`], and how long it took.
    pub(crate) fn run_timed(&self, input: Tensor) -> Result<(Vec<Tensor>, Duration), ModelError> {
        let started = Instant::now();
        let outputs = self.run(vec![input])?;
        Ok((outputs, started.elapsed()))
    }

    /// What one output of a run says of so many labels, as probabilities.
    pub(crate) fn probabilities(
        &self,
        outputs: Vec<Tensor>,
        output: usize,
        expected: usize,
        activation: Activation,
    ) -> Result<Vec<f32>, ModelError> {
        let mut values = outputs.into_iter().nth(output).map(Tensor::into_f32).unwrap_or_default();
        if values.len() != expected {
            return Err(ModelError::Answer { model: self.name.clone(), expected, found: values.len() });
        }
        activation.apply(&mut values);
        Ok(values)
    }

    /// The position of an output.
    pub(crate) fn output(&self, name: &str) -> Result<usize, ModelError> {
        let outputs = &self.describe().outputs;
        outputs.iter().position(|output| output.name == name).ok_or_else(|| ModelError::Output {
            model: self.name.clone(),
            output: name.to_owned(),
            outputs: outputs.iter().map(|output| output.name.clone()).collect(),
        })
    }

    /// How a picture goes in.
    ///
    /// # Errors
    ///
    /// [`ModelError::NoPictures`]: it takes bare tensors.
    pub fn input(&self) -> Result<&Input, ModelError> {
        self.entry.input.as_ref().ok_or_else(|| ModelError::NoPictures { model: self.name.clone() })
    }

    /// The whole picture as this model's input, and which part of the picture (in its pixels) the input shows.
    pub fn whole(&self, picture: &Picture) -> Result<(Tensor, Rect), ModelError> {
        self.fitted(picture, None)
    }

    /// A part of the picture as this model's input.
    pub fn part(&self, picture: &Picture, part: Rect) -> Result<Tensor, ModelError> {
        Ok(self.fitted(picture, Some(part))?.0)
    }

    /// A part of the picture, or all of it, as this model's input, and which part of the picture (in its pixels) the
    /// input shows: more than was asked for where the input has padding.
    pub fn fitted(&self, picture: &Picture, part: Option<Rect>) -> Result<(Tensor, Rect), ModelError> {
        let input = self.input()?;
        picture_tensor(input, picture, part)
            .map_err(|source| ModelError::Picture { model: self.name.clone(), source })
    }
}

/// A picture, or a part of it, as the catalog says that it goes in, and what the input shows of it.
pub(crate) fn picture_tensor(
    input: &Input,
    picture: &Picture,
    part: Option<Rect>,
) -> Result<(Tensor, Rect), TensorError> {
    let plan = input.plan();
    let count = plan.values();
    let (shown, values) = match input.element {
        Element::U8 => {
            let mut values = vec![0; count];
            (plan.fill(picture, part, &mut values)?, Values::U8(values))
        }
        // As quantised models mean it: 128 is zero.
        Element::I8 => {
            let mut values = vec![0; count];
            (plan.fill(picture, part, &mut values)?, Values::I8(values))
        }
        _ => {
            let mut values = vec![0.0; count];
            (plan.fill(picture, part, &mut values)?, Values::F32(values))
        }
    };
    Ok((Tensor { shape: input.shape.to_vec(), values }, shown))
}
