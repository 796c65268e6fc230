//! Who runs a model.

use std::{fmt, num::NonZeroUsize};

use crate::{Element, Format, Input, Tensor};

/// An input or an output of a loaded model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// The type of its values.
    pub element: Element,
    /// The length of each axis; `None` where any length is taken.
    pub shape: Vec<Option<usize>>,
}

/// What a loaded model says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The back end: `tract`.
    pub backend: &'static str,
    /// What it runs on: `cpu`, `cuda`.
    pub device: &'static str,
    /// The inputs, in the order in which [`Loaded::run`] takes them.
    pub inputs: Vec<Port>,
    /// The outputs, in the order in which [`Loaded::run`] gives them.
    pub outputs: Vec<Port>,
}

/// How a model is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunOptions {
    /// Threads that one run of a model may use, where the back end can use several.
    pub threads: NonZeroUsize,
    /// May an accelerator be used, where the back end finds one?
    pub accelerator: bool,
}

/// A model to be loaded.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// How the file is written.
    pub format: Format,
    /// The file.
    pub file: &'a [u8],
    /// What the catalog says of the one input that takes a picture; `None` where a model takes bare tensors.
    pub input: Option<&'a Input>,
    /// How it is to be run.
    pub options: RunOptions,
}

/// What a back end says when it cannot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BackendError(pub String);

/// Something that can run models.
pub trait Backend: Send + Sync + fmt::Debug {
    /// Its name: `tract`.
    fn name(&self) -> &'static str;

    /// Its version, for people: `ONNX Runtime 1.23.2`.
    fn version(&self) -> String;

    /// Can it load files that are written so? Whether it knows all that is in a file is seen when it loads it.
    fn takes(&self, format: Format) -> bool;

    /// Loads a model from the bytes of its file.
    fn load(&self, order: &Order<'_>) -> Result<Box<dyn Loaded>, BackendError>;

    /// Why a model that it has loaded serves only where this back end is asked for by name.
    fn doubt(&self, _format: Format, _description: &Description) -> Option<&'static str> {
        None
    }
}

/// A model that a back end has loaded.
pub trait Loaded: Send + Sync + fmt::Debug {
    /// Its inputs and outputs.
    fn describe(&self) -> &Description;

    /// Runs it on one tensor for each input, in the order of [`Loaded::describe`]. Heavy: not on an async thread.
    /// May be called by several threads at a time.
    fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, BackendError>;

    /// Bytes of memory that it holds, weights included; an estimate. `None` where the back end cannot tell.
    fn memory(&self) -> Option<u64>;
}

// === impl BackendError ===

impl BackendError {
    /// The whole chain of causes: the last often says what the matter is.
    pub(crate) fn from_chain(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let error = error.into();
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        // A graph is printed at full length otherwise.
        let end = text.char_indices().nth(600).map_or(text.len(), |(end, _)| end);
        text.truncate(end);
        Self(text)
    }
}

// === impl Port ===

impl Port {
    /// Does a tensor of this shape fit?
    pub fn takes(&self, shape: &[usize]) -> bool {
        self.shape.len() == shape.len()
            && self.shape.iter().zip(shape).all(|(own, given)| own.is_none_or(|own| own == *given))
    }
}

/// Type and shape: `UINT8 [1, 224, 224, 3]`, with `-1` for an axis of any length.
impl fmt::Display for Port {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape = self.shape.iter().map(|length| length.map_or(-1, |length| length as i64));
        write!(formatter, "{} {:?}", self.element.datatype(), shape.collect::<Vec<_>>())
    }
}

// === impl Description ===

impl Description {
    /// May several requests be put together along the first axis? Only where each input and each output leaves
    /// that axis open.
    pub fn batches(&self) -> bool {
        let open = |port: &Port| matches!(port.shape.first(), Some(None));
        !self.inputs.is_empty() && self.inputs.iter().chain(&self.outputs).all(open)
    }
}

// === impl RunOptions ===

impl Default for RunOptions {
    fn default() -> Self {
        Self { threads: NonZeroUsize::MIN, accelerator: true }
    }
}
