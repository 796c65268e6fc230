//! Each operator as those of ONNX.

mod conv;
mod elementwise;
mod pool;
mod shape;

use tract_tflite::tflite::{ActivationFunctionType, BuiltinOperator as Code, Padding};

use super::{
    ConvertError,
    converter::{Axes, Converter},
    source::Operator,
};

/// Writes one operator.
pub(super) fn convert(
    converter: &mut Converter<'_, '_>,
    operator: &Operator<'_>,
) -> Result<(), ConvertError> {
    match operator.code {
        Code::CONV_2D => conv::plain(converter, operator),
        Code::DEPTHWISE_CONV_2D => conv::depthwise(converter, operator),
        Code::FULLY_CONNECTED => conv::fully_connected(converter, operator),
        Code::TRANSPOSE_CONV => conv::transposed(converter, operator),
        Code::AVERAGE_POOL_2D => pool::average(converter, operator),
        Code::MAX_POOL_2D => pool::max(converter, operator),
        Code::MEAN => pool::reduce(converter, operator, "ReduceMean"),
        Code::REDUCE_MAX => pool::reduce(converter, operator, "ReduceMax"),
        Code::REDUCE_MIN => pool::reduce(converter, operator, "ReduceMin"),
        Code::ARG_MAX => pool::arg_max(converter, operator),
        Code::RESHAPE | Code::SQUEEZE | Code::EXPAND_DIMS => shape::reshape(converter, operator),
        Code::TRANSPOSE => shape::transpose(converter, operator),
        Code::CONCATENATION => shape::concatenation(converter, operator),
        Code::PAD | Code::PADV2 => shape::pad(converter, operator),
        Code::SLICE => shape::slice(converter, operator),
        Code::STRIDED_SLICE => shape::strided_slice(converter, operator),
        Code::SPLIT => shape::split(converter, operator),
        Code::RESIZE_BILINEAR => shape::resize_bilinear(converter, operator),
        Code::RESIZE_NEAREST_NEIGHBOR => shape::resize_nearest(converter, operator),
        Code::DEPTH_TO_SPACE => shape::depth_to_space(converter, operator),
        Code::SPACE_TO_DEPTH => shape::space_to_depth(converter, operator),
        Code::DENSIFY => shape::densify(converter, operator),
        _ => elementwise::convert(converter, operator),
    }
}

/// The tensor of an input that must be there.
fn input(operator: &Operator<'_>, index: usize) -> Result<usize, ConvertError> {
    optional(operator, index).ok_or_else(|| operator.wrong(format!("it has no input {index}")))
}

/// The tensor of an input that may be left out.
fn optional(operator: &Operator<'_>, index: usize) -> Option<usize> {
    operator.inputs.get(index).copied().flatten()
}

/// What an operator says beside its tensors.
fn options<T>(operator: &Operator<'_>, options: Option<T>) -> Result<T, ConvertError> {
    options.ok_or_else(|| operator.wrong("it has no options, or those of another operator"))
}

/// The four lengths of a shape.
fn four(operator: &Operator<'_>, shape: &[usize]) -> Result<[i64; 4], ConvertError> {
    match *shape {
        [first, second, third, fourth] => Ok([first, second, third, fourth].map(|length| length as i64)),
        _ => Err(operator
            .unsupported(format!("a tensor of the shape {shape:?} where one with four axes is usual"))),
    }
}

/// The order in which an operator that treats all axes alike is to work: channels second as soon as one of its
/// tensors is only there so, else as in the file.
fn common_order(converter: &mut Converter<'_, '_>, tensors: &[usize]) -> Result<Axes, ConvertError> {
    let mut any = false;
    for tensor in tensors {
        if converter.is_constant(*tensor) {
            if converter.source.tensor(*tensor).is_some_and(|tensor| tensor.shape.len() > 4) {
                return Ok(Axes::Own);
            }
            continue;
        }
        if converter.value(*tensor)?.shape.len() != 4 {
            return Ok(Axes::Own);
        }
        any |= converter.order(*tensor)? == Axes::Nchw;
    }
    Ok(if any { Axes::Nchw } else { Axes::Own })
}

/// How a window moves over a picture.
#[derive(Debug, Clone, Copy)]
struct Window {
    /// Height and width.
    kernel: [i64; 2],
    stride: [i64; 2],
    dilation: [i64; 2],
    padding: Padding,
    activation: ActivationFunctionType,
}

// === impl Window ===

impl Window {
    /// The window, if its numbers are possible.
    fn checked(self, operator: &Operator<'_>) -> Result<Self, ConvertError> {
        let numbers = [self.kernel, self.stride, self.dilation];
        if numbers.as_flattened().iter().any(|number| !(1..=1 << 20).contains(number)) {
            return Err(operator.wrong(format!("its window {numbers:?} is impossible")));
        }
        if self.padding != Padding::SAME && self.padding != Padding::VALID {
            return Err(operator.unsupported(format!("the padding {}", self.padding.0)));
        }
        Ok(self)
    }

    /// Rows above, columns to the left, rows below, columns to the right that make an output of the input's size
    /// through the stride; more of them after than before where they are odd. `edges` are there already.
    fn pads(&self, size: [i64; 2], edges: [i64; 4]) -> [i64; 4] {
        let [top, left, bottom, right] = edges;
        let [height, width] = size;
        let [first, second] = match self.padding {
            Padding::SAME => [self.missing(0, height + top + bottom), self.missing(1, width + left + right)],
            _ => [0, 0],
        };
        [top + first / 2, left + second / 2, bottom + first - first / 2, right + second - second / 2]
    }

    fn missing(&self, axis: usize, size: i64) -> i64 {
        let at = |pair: [i64; 2]| pair.get(axis).copied().unwrap_or(1);
        let (stride, reach) = (at(self.stride), (at(self.kernel) - 1) * at(self.dilation) + 1);
        let outputs = (size + stride - 1) / stride;
        ((outputs - 1) * stride + reach - size).max(0)
    }
}
