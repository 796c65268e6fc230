//! Operators that make one value of many.

use tract_onnx::pb::tensor_proto::DataType;

use super::{
    super::{
        ConvertError,
        converter::{Activation, Axes, Converter, Kind, output},
        graph::Attribute,
        source::Operator,
    },
    Window, four, input, options,
};

fn window(operator: &Operator<'_>) -> Result<Window, ConvertError> {
    let said = options(operator, operator.options.builtin_options_as_pool_2_doptions())?;
    Window {
        kernel: [said.filter_height().into(), said.filter_width().into()],
        stride: [said.stride_h().into(), said.stride_w().into()],
        dilation: [1, 1],
        padding: said.padding(),
        activation: said.fused_activation_function(),
    }
    .checked(operator)
}

pub(super) fn average(
    converter: &mut Converter<'_, '_>,
    operator: &Operator<'_>,
) -> Result<(), ConvertError> {
    let window = window(operator)?;
    let pixels = input(operator, 0)?;
    let [_, height, width, _] = four(operator, &converter.value(pixels)?.shape)?;
    let real = converter.real(pixels, Axes::Nchw)?;
    let pads = window.pads([height, width], [0; 4]);
    let name = if window.kernel == [height, width] && pads == [0; 4] {
        converter.graph.node("GlobalAveragePool", &[&real], &[], "average")
    } else {
        let attributes = [
            ("count_include_pad", Attribute::Int(0)),
            ("kernel_shape", Attribute::Ints(&window.kernel)),
            ("pads", Attribute::Ints(&pads)),
            ("strides", Attribute::Ints(&window.stride)),
        ];
        converter.graph.node("AveragePool", &[&real], &attributes, "average")
    };
    converter.put_real(operator, Axes::Nchw, &name, Activation::fused(operator, window.activation)?)
}

pub(super) fn max(converter: &mut Converter<'_, '_>, operator: &Operator<'_>) -> Result<(), ConvertError> {
    let window = window(operator)?;
    let pixels = input(operator, 0)?;
    let value = converter.value(pixels)?;
    let kind = value.kind;
    let [_, height, width, _] = four(operator, &value.shape)?;
    // The largest byte stands for the largest number.
    let name = converter.name(pixels, Axes::Nchw)?;
    let attributes = [
        ("kernel_shape", Attribute::Ints(&window.kernel)),
        ("pads", Attribute::Ints(&window.pads([height, width], [0; 4]))),
        ("strides", Attribute::Ints(&window.stride)),
    ];
    let name = converter.graph.node("MaxPool", &[&name], &attributes, "largest");
    converter.put_same(operator, Axes::Nchw, &name, kind, Activation::fused(operator, window.activation)?)
}

/// One value out of all along some axes.
pub(super) fn reduce(
    converter: &mut Converter<'_, '_>,
    operator: &Operator<'_>,
    name: &str,
) -> Result<(), ConvertError> {
    let keep = options(operator, operator.options.builtin_options_as_reducer_options())?.keep_dims();
    let values = input(operator, 0)?;
    let shape = converter.value(values)?.shape.clone();
    let axes = axes(converter, operator, input(operator, 1)?, shape.len())?;
    if name == "ReduceMean" && shape.len() == 4 && axes == [1, 2] {
        let real = converter.real(values, Axes::Nchw)?;
        let mean = converter.graph.node("GlobalAveragePool", &[&real], &[], "average");
        let (kind, mean) = converter.finished(operator, &mean, Activation::None)?;
        let target = output(operator)?;
        if keep {
            return converter.put(target, kind, Axes::Nchw, mean);
        }
        let [batch, _, _, channels] = four(operator, &shape)?;
        let flat = converter.graph.i64s(&[batch, channels])?;
        let mean = converter.graph.node("Reshape", &[&mean, &flat], &[], "average");
        return converter.put(target, kind, Axes::Own, mean);
    }
    let real = converter.real(values, Axes::Own)?;
    let attributes = [("axes", Attribute::Ints(&axes)), ("keepdims", Attribute::Int(keep.into()))];
    let name = converter.graph.node(name, &[&real], &attributes, "reduced");
    converter.put_real(operator, Axes::Own, &name, Activation::None)
}

/// Axes in rising order, each once, none below zero.
fn axes(
    converter: &Converter<'_, '_>,
    operator: &Operator<'_>,
    index: usize,
    rank: usize,
) -> Result<Vec<i64>, ConvertError> {
    let rank = rank as i64;
    let axes = converter.integers(operator, index)?;
    let mut axes: Vec<i64> = axes.into_iter().map(|axis| if axis < 0 { axis + rank } else { axis }).collect();
    axes.sort_unstable();
    axes.dedup();
    if axes.iter().any(|axis| !(0..rank).contains(axis)) {
        return Err(operator.wrong(format!("its axes {axes:?} are not those of its input")));
    }
    Ok(axes)
}

/// Where the largest value is.
pub(super) fn arg_max(
    converter: &mut Converter<'_, '_>,
    operator: &Operator<'_>,
) -> Result<(), ConvertError> {
    let values = input(operator, 0)?;
    let rank = converter.value(values)?.shape.len();
    let along = axes(converter, operator, input(operator, 1)?, rank)?;
    let [axis] = *along.as_slice() else { return Err(operator.wrong("it has not one axis")) };
    let real = converter.real(values, Axes::Own)?;
    let attributes = [("axis", Attribute::Int(axis)), ("keepdims", Attribute::Int(0))];
    let mut name = converter.graph.node("ArgMax", &[&real], &attributes, "place");
    let target = output(operator)?;
    let data_type = match converter.source.tensor(target).and_then(|tensor| tensor.element) {
        Some(crate::Element::I64) => DataType::Int64,
        Some(crate::Element::I32) => {
            let to = [("to", Attribute::Int(DataType::Int32 as i64))];
            name = converter.graph.node("Cast", &[&name], &to, "place");
            DataType::Int32
        }
        _ => return Err(operator.unsupported("a result that is no index")),
    };
    converter.put(target, Kind::Other(data_type), Axes::Own, name)
}
