//! `TensorFlow` Lite files as ONNX.
//!
//! A file is read whole, each operator is written as the ONNX operators that give the same numbers, and what is
//! not known is named: nothing is guessed. Three things make the result quick:
//!
//! - *Order of the axes.* `TensorFlow` Lite keeps channels last, ONNX's convolutions want them second. A value is
//!   turned around only where somebody wants the other order, so that in a usual network two transpositions stay,
//!   one at each end.
//! - *Quantised graphs* are written as `DequantizeLinear`, the operator, `QuantizeLinear`, which ONNX Runtime puts
//!   together into one operator on bytes. Values between operators are unsigned bytes and weights signed ones,
//!   the pair that processors multiply fastest: signed values and unsigned weights are moved by 128 together with
//!   their zero point, which changes no number.
//! - *Padding* that stands before a convolution becomes the convolution's own.
//!
//! The inputs keep their names, types and order of axes. The outputs keep their names and order of axes, and are
//! real numbers: a quantised output is dequantised in the graph, so that whoever reads it needs no scale. Where a
//! file has signatures, the names are those of the first one, as with LiteRT.

mod constant;
mod converter;
mod graph;
mod ops;
mod source;
mod sparse;
mod verdict;

use crate::digest;

use self::{converter::Converter, source::Source};

pub(crate) use self::source::{check, is_quantised};
pub use self::verdict::{Verdict, compare};

/// A file in the other format.
#[derive(Debug, Clone, PartialEq)]
pub struct Converted {
    /// The ONNX file.
    pub onnx: Vec<u8>,
    /// The step of each output, in the order of the outputs: what one bit more makes of a quantised output. Also of one
    /// that the file makes real numbers of at its end.
    pub steps: Vec<Option<f32>>,
    /// What a reader should know: where the two files may differ in more than rounding. A sentence each.
    pub notes: Vec<String>,
}

/// Why a file cannot be converted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// It is not a `TensorFlow` Lite file, or a damaged one.
    #[error("this is not a TensorFlow Lite file: {0}")]
    File(String),
    /// It has several graphs, for example for a loop.
    #[error("the file has several subgraphs, only files with one are converted")]
    Subgraphs,
    /// It says something of a tensor that cannot be.
    #[error("tensor {index} ({name:?}): {problem}")]
    Tensor {
        /// The tensor's index in the subgraph.
        index: usize,
        /// Its name.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// It has a tensor of a kind that the converter does not know.
    #[error("tensor {index} ({name:?}) is not converted: {problem}")]
    Kind {
        /// The tensor's index in the subgraph.
        index: usize,
        /// Its name.
        name: String,
        /// What of it is not known.
        problem: String,
    },
    /// The converter does not know this, which says nothing against the file.
    #[error("operator {index} ({operator}) of subgraph 0 is not converted: {problem}")]
    Unsupported {
        /// The operator's index in the subgraph.
        index: usize,
        /// Its name, for example `CONV_2D`.
        operator: String,
        /// What of it is not known.
        problem: String,
    },
    /// An operator contradicts itself or its tensors.
    #[error("operator {index} ({operator}) of subgraph 0 is wrong: {problem}")]
    Operator {
        /// The operator's index in the subgraph.
        index: usize,
        /// Its name.
        operator: String,
        /// What is wrong.
        problem: String,
    },
    /// The result would be out of all proportion to the file.
    #[error("the file of {file} bytes would become one of more than {limit} bytes")]
    Size {
        /// Bytes of the file.
        file: usize,
        /// The largest result allowed.
        limit: usize,
    },
}

// === impl ConvertError ===

impl ConvertError {
    /// Does it say that the file itself is wrong? Otherwise the file may be right and only the converter cannot.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::File(_) | Self::Tensor { .. } | Self::Operator { .. })
    }
}

/// The bytes of a `TensorFlow` Lite file as those of an ONNX file.
///
/// The result is always the same for the same file. Memory stays below some multiple of the file's size, whatever
/// the file says.
///
/// # Errors
///
/// The file is damaged, or has something that the converter does not know; the error names it.
pub fn tflite_to_onnx(file: &[u8]) -> Result<Converted, ConvertError> {
    let source = Source::read(file)?;
    let mut converter = Converter::new(&source, file.len())?;
    for operator in &source.operators {
        ops::convert(&mut converter, operator)?;
    }
    converter.finish(&digest(file))
}
