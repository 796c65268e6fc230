//! Operators that treat each value, or each row of values, alike.

use tract_onnx::pb::tensor_proto::DataType;
use tract_tflite::tflite::{ActivationFunctionType as Function, BuiltinOperator as Code};

use crate::Element;

use super::{
    super::{
        ConvertError,
        converter::{Activation, Axes, Converter, Kind, output},
        graph::Attribute,
        source::{Operator, SourceTensor},
    },
    common_order, input, options,
};

/// Below this length a row is not divided by its own any more.
const SHORTEST_ROW: f32 = 1e-6;

pub(super) fn convert(
    converter: &mut Converter<'_, '_>,
    operator: &Operator<'_>,
) -> Result<(), ConvertError> {
    let said = &operator.options;
    match operator.code {
        Code::ADD => {
            let fused = said.builtin_options_as_add_options().map(|said| said.fused_activation_function());
            binary(converter, operator, "Add", fused)
        }
        Code::SUB => {
            let fused = said.builtin_options_as_sub_options().map(|said| said.fused_activation_function());
            binary(converter, operator, "Sub", fused)
        }
        Code::MUL => {
            let fused = said.builtin_options_as_mul_options().map(|said| said.fused_activation_function());
            binary(converter, operator, "Mul", fused)
        }
        Code::DIV => {
            let fused = said.builtin_options_as_div_options().map(|said| said.fused_activation_function());
            binary(converter, operator, "Div", fused)
        }
        Code::MAXIMUM => binary(converter, operator, "Max", None),
        Code::MINIMUM => binary(converter, operator, "Min", None),
        Code::POW => binary(converter, operator, "Pow", None),
        Code::PRELU => binary(converter, operator, "PRelu", None),
        Code::RELU => activation(converter, operator, Activation::Clamp(0.0, f32::INFINITY)),
        Code::RELU6 => activation(converter, operator, Activation::Clamp(0.0, 6.0)),
        Code::RELU_N1_TO_1 => activation(converter, operator, Activation::Clamp(-1.0, 1.0)),
        Code::LEAKY_RELU => {
            let alpha = options(operator, said.builtin_options_as_leaky_relu_options())?.alpha();
            unary(converter, operator, &[("LeakyRelu", &[("alpha", Attribute::Float(alpha))])])
        }
        Code::HARD_SWISH => unary(converter, operator, &[("HardSwish", &[])]),
        Code::ELU => unary(converter, operator, &[("Elu", &[])]),
        Code::TANH => unary(converter, operator, &[("Tanh", &[])]),
        Code::EXP => unary(converter, operator, &[("Exp", &[])]),
        Code::LOG => unary(converter, operator, &[("Log", &[])]),
        Code::ABS => unary(converter, operator, &[("Abs", &[])]),
        Code::NEG => unary(converter, operator, &[("Neg", &[])]),
        Code::FLOOR => unary(converter, operator, &[("Floor", &[])]),
        Code::SQRT => unary(converter, operator, &[("Sqrt", &[])]),
        Code::RSQRT => unary(converter, operator, &[("Sqrt", &[]), ("Reciprocal", &[])]),
        Code::LOGISTIC => logistic(converter, operator),
        Code::SOFTMAX => softmax(converter, operator),
        Code::L2_NORMALIZATION => l2_normalisation(converter, operator),
        Code::QUANTIZE => quantise(converter, operator),
        Code::DEQUANTIZE => dequantise(converter, operator),
        Code::CAST => cast(converter, operator),
        _ => Err(operator.unsupported("the converter does not know it")),
    }
}

fn binary(
    converter: &mut Converter<'_, '_>,
    operator: &Operator<'_>,
    name: &str,
    fused: Option<Function>,
) -> Result<(), ConvertError> {
    let (one, other) = (input(operator, 0)?, input(operator, 1)?);
    let activation = Activation::fused(operator, fused.unwrap_or(Function::NONE))?;
    let order = common_order(converter, &[one, other])?;
    let one = converter.real(one, order)?;
    let other = converter.real(other, order)?;
    let name = converter.graph.node(name, &[&one, &other], &[], &name.to_lowercase());
    converter.put_real(operator, order, &name, activation)
}

/// One operator of ONNX after the other.
fn unary(
    converter: &mut Converter<'_, '_>,
    operator: &Operator<'_>,
    steps: &[(&str, &[(&str, Attribute<'_>)])],
) -> Result<(), ConvertError> {
    let values = input(operator, 0)?;
    let order = converter.order(values)?;
    let mut name = converter.real(values, order)?;
    for (step, attributes) in steps {
        name = converter.graph.node(step, &[&name], attributes, &step.to_lowercase());
    }
    converter.put_real(operator, order, &name, Activation::None)
}

fn activation(
    converter: &mut Converter<'_, '_>,
    operator: &Operator<'_>,
    activation: Activation,
) -> Result<(), ConvertError> {
    let values = input(operator, 0)?;
    let order = converter.order(values)?;
    let name = converter.real(values, order)?;
    converter.put_real(operator, order, &name, activation)
}

fn logistic(converter: &mut Converter<'_, '_>, operator: &Operator<'_>) -> Result<(), ConvertError> {
    let values = input(operator, 0)?;
    let order = converter.order(values)?;
    let name = converter.real(values, order)?;
    let name = converter.graph.node("Sigmoid", &[&name], &[], "sigmoid");
    converter.put_probabilities(operator, order, &name)
}

fn softmax(converter: &mut Converter<'_, '_>, operator: &Operator<'_>) -> Result<(), ConvertError> {
    let beta = operator.options.builtin_options_as_softmax_options().map_or(1.0, |said| said.beta());
    let mut name = converter.real(input(operator, 0)?, Axes::Own)?;
    #[expect(clippy::float_cmp, reason = "it is exactly one where the file says so")]
    if beta != 1.0 {
        let beta = converter.graph.f32(beta)?;
        name = converter.graph.node("Mul", &[&name, &beta], &[], "scaled");
    }
    let name = converter.graph.node("Softmax", &[&name], &[("axis", Attribute::Int(-1))], "softmax");
    converter.put_probabilities(operator, Axes::Own, &name)
}

/// Each row divided by its length.
fn l2_normalisation(converter: &mut Converter<'_, '_>, operator: &Operator<'_>) -> Result<(), ConvertError> {
    let name = converter.real(input(operator, 0)?, Axes::Own)?;
    let graph = &mut converter.graph;
    let attributes = [("axes", Attribute::Ints(&[-1])), ("keepdims", Attribute::Int(1))];
    let length = graph.node("ReduceL2", &[&name], &attributes, "length");
    let shortest = graph.f32(SHORTEST_ROW)?;
    let length = graph.node("Max", &[&length, &shortest], &[], "length");
    let name = graph.node("Div", &[&name, &length], &[], "normalised");
    converter.put_real(operator, Axes::Own, &name, Activation::None)
}

fn quantise(converter: &mut Converter<'_, '_>, operator: &Operator<'_>) -> Result<(), ConvertError> {
    let (values, target) = (input(operator, 0)?, output(operator)?);
    // From signed to unsigned bytes or back with the zero point moved along: nothing changes here.
    if converter.kind_of(values)? == converter.kind(target)? {
        return converter.alias(values, target);
    }
    let order = converter.order(values)?;
    let name = converter.real(values, order)?;
    converter.put_real(operator, order, &name, Activation::None)
}

fn dequantise(converter: &mut Converter<'_, '_>, operator: &Operator<'_>) -> Result<(), ConvertError> {
    let (values, target) = (input(operator, 0)?, output(operator)?);
    let wanted = converter.source.tensor(target).and_then(|tensor| tensor.element);
    if wanted != Some(Element::F32) {
        return Err(operator.unsupported("a result that is not of 32 bits"));
    }
    if converter.is_constant(values) {
        let count = converter.source.tensor(values).map_or(0, SourceTensor::count);
        converter.graph.room(count.saturating_mul(4))?;
        if let Some(constant) = converter.constant(values)? {
            let bytes = constant.reals().iter().flat_map(|value| value.to_le_bytes()).collect();
            return converter.fold(target, bytes);
        }
    }
    // Bytes stay bytes until somebody wants numbers of them.
    converter.alias(values, target)
}

fn cast(converter: &mut Converter<'_, '_>, operator: &Operator<'_>) -> Result<(), ConvertError> {
    let (values, target) = (input(operator, 0)?, output(operator)?);
    let kind = converter.kind(target)?;
    let to = match kind {
        Kind::Real => DataType::Float,
        Kind::Other(data_type) => data_type,
        Kind::Quantised(_) => return Err(operator.unsupported("a quantised result")),
    };
    if matches!(converter.kind_of(values)?, Kind::Quantised(_)) {
        return Err(operator.unsupported("a quantised input"));
    }
    let order = converter.order(values)?;
    let name = converter.name(values, order)?;
    let name = converter.graph.node("Cast", &[&name], &[("to", Attribute::Int(to as i64))], "cast");
    converter.put(target, kind, order, name)
}
