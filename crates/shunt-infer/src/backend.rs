//! Who runs a model.

use std::fmt;

use crate::{Format, Input};

/// The values of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// 32 bits, floating point.
    F32(Vec<f32>),
    /// Bytes.
    U8(Vec<u8>),
}

/// Values and their shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// The length of each axis.
    pub shape: Vec<usize>,
    /// The values, last axis fastest.
    pub values: Values,
}

/// An input or an output of a loaded model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its type and shape as the back end writes them.
    pub shape: String,
}

/// What a loaded model says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The back end.
    pub backend: &'static str,
    /// The inputs.
    pub inputs: Vec<Port>,
    /// The outputs, in the order in which [`Loaded::run`] gives them.
    pub outputs: Vec<Port>,
}

/// What a back end says when it cannot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BackendError(pub String);

/// Something that can run models.
pub trait Backend: Send + Sync + fmt::Debug {
    /// Its name: `tract`.
    fn name(&self) -> &'static str;

    /// Loads a model from the bytes of its file, for an input of this shape.
    fn load(&self, format: Format, input: &Input, file: &[u8]) -> Result<Box<dyn Loaded>, BackendError>;
}

/// A model that a back end has loaded.
pub trait Loaded: Send + Sync + fmt::Debug {
    /// Its inputs and outputs.
    fn describe(&self) -> Description;

    /// Runs it. Heavy: not on an async thread.
    fn run(&self, input: Tensor) -> Result<Vec<Tensor>, BackendError>;
}

// === impl Tensor ===

impl Tensor {
    /// The values as floating point numbers.
    pub fn into_f32(self) -> Vec<f32> {
        match self.values {
            Values::F32(values) => values,
            Values::U8(values) => values.into_iter().map(f32::from).collect(),
        }
    }
}
