//! Convolutions, and the layers of which each value looks at all others.

use tract_onnx::pb::tensor_proto::DataType;

use crate::Element;

use super::{
    super::{
        ConvertError, constant,
        converter::{Activation, Axes, Converter, Kind, Scale, lengths, output},
        graph::Attribute,
        source::Operator,
    },
    Window, four, input, optional, options,
};

/// Height, width, channels in and out as weights have them: out, height, width, in.
const PLAIN: [usize; 4] = [0, 3, 1, 2];
/// Of a depthwise convolution: 1, height, width, out.
const DEPTHWISE: [usize; 4] = [3, 0, 1, 2];
/// Of a transposed convolution: out, height, width, in; ONNX wants them by the input.
const TRANSPOSED: [usize; 4] = [3, 0, 1, 2];

pub(super) fn plain(converter: &mut Converter<'_, '_>, operator: &Operator<'_>) -> Result<(), ConvertError> {
    let said = options(operator, operator.options.builtin_options_as_conv_2_doptions())?;
    let weights = input(operator, 1)?;
    let [_, height, width, depth] = weights_shape(converter, operator, weights)?;
    let window = Window {
        kernel: [height, width],
        stride: [said.stride_h().into(), said.stride_w().into()],
        dilation: [said.dilation_h_factor().into(), said.dilation_w_factor().into()],
        padding: said.padding(),
        activation: said.fused_activation_function(),
    };
    let channels = channels(converter, operator)?;
    if depth == 0 || channels % depth != 0 {
        return Err(operator.wrong(format!("its weights take {depth} channels, its input has {channels}")));
    }
    convolution(converter, operator, window, &PLAIN, channels / depth)
}

pub(super) fn depthwise(
    converter: &mut Converter<'_, '_>,
    operator: &Operator<'_>,
) -> Result<(), ConvertError> {
    let said = options(operator, operator.options.builtin_options_as_depthwise_conv_2_doptions())?;
    let weights = input(operator, 1)?;
    let [_, height, width, outputs] = weights_shape(converter, operator, weights)?;
    let window = Window {
        kernel: [height, width],
        stride: [said.stride_h().into(), said.stride_w().into()],
        dilation: [said.dilation_h_factor().into(), said.dilation_w_factor().into()],
        padding: said.padding(),
        activation: said.fused_activation_function(),
    };
    let channels = channels(converter, operator)?;
    if channels == 0 || outputs % channels != 0 {
        return Err(operator.wrong(format!("its weights give {outputs} channels, its input has {channels}")));
    }
    convolution(converter, operator, window, &DEPTHWISE, channels)
}

/// The shape of weights, of which no length is nought.
fn weights_shape(
    converter: &Converter<'_, '_>,
    operator: &Operator<'_>,
    weights: usize,
) -> Result<[i64; 4], ConvertError> {
    let shape = converter.source.tensor(weights).map(|tensor| tensor.shape.clone()).unwrap_or_default();
    four(operator, &shape)
}

/// The channels of the first input.
fn channels(converter: &mut Converter<'_, '_>, operator: &Operator<'_>) -> Result<i64, ConvertError> {
    let [_, _, _, channels] = four(operator, &converter.value(input(operator, 0)?)?.shape)?;
    Ok(channels)
}

fn convolution(
    converter: &mut Converter<'_, '_>,
    operator: &Operator<'_>,
    window: Window,
    axes: &[usize; 4],
    group: i64,
) -> Result<(), ConvertError> {
    let window = window.checked(operator)?;
    let mut pixels = input(operator, 0)?;
    let mut edges = [0; 4];
    // The zeros around become its own.
    if let Some(padded) = converter.value(pixels)?.padded {
        (pixels, edges) = (padded.tensor, padded.edges);
    }
    let [_, height, width, _] = four(operator, &converter.value(pixels)?.shape)?;
    let kind = converter.value(pixels)?.kind;
    let real = converter.real(pixels, Axes::Nchw)?;
    let (weights, scales) = weights(converter, operator, axes, kind)?;
    let bias = bias(converter, operator, 2, scales)?;
    let mut inputs = vec![real.as_str(), weights.as_str()];
    inputs.extend(bias.as_deref());
    let attributes = [
        ("dilations", Attribute::Ints(&window.dilation)),
        ("group", Attribute::Int(group)),
        ("kernel_shape", Attribute::Ints(&window.kernel)),
        ("pads", Attribute::Ints(&window.pads([height, width], edges))),
        ("strides", Attribute::Ints(&window.stride)),
    ];
    let wish = format!("{}.conv", wish(converter, operator)?);
    let name = converter.graph.node("Conv", &inputs, &attributes, &wish);
    converter.put_real(operator, Axes::Nchw, &name, Activation::fused(operator, window.activation)?)
}

fn wish(converter: &Converter<'_, '_>, operator: &Operator<'_>) -> Result<String, ConvertError> {
    let index = output(operator)?;
    Ok(converter.source.tensor(index).map(|tensor| tensor.name.clone()).unwrap_or_default())
}

/// The weights with their axes in this order, as real numbers; and, where they and the input are quantised, the
/// scales of the bias.
fn weights(
    converter: &mut Converter<'_, '_>,
    operator: &Operator<'_>,
    axes: &[usize],
    input_kind: Kind,
) -> Result<(String, Option<Vec<f32>>), ConvertError> {
    let index = input(operator, 1)?;
    let Some(tensor) = converter.source.tensor(index) else {
        return Err(operator.wrong("it has no weights"));
    };
    converter.graph.room(tensor.count().saturating_mul(4))?;
    let Some(constant) = converter.constant(index)? else {
        return Err(operator.unsupported("weights that are computed"));
    };
    let shape: Vec<usize> = axes.iter().filter_map(|axis| tensor.shape.get(*axis).copied()).collect();
    let quantised =
        tensor.quantisation.as_ref().filter(|_| matches!(tensor.element, Some(Element::U8 | Element::I8)));
    let (Kind::Quantised(input_scale), Some(quantisation)) = (input_kind, quantised) else {
        let values = constant::transposed(&constant.reals(), &tensor.shape, axes);
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let name = converter.graph.constant(&tensor.name, DataType::Float, &lengths(&shape), data)?;
        if quantised.is_some() {
            converter.note(
                "Only its weights are quantised. They are written as real numbers; LiteRT would also round what \
                 goes into each layer.",
            );
        }
        return Ok((name, None));
    };
    if quantisation.scales.len() > 1 && axes.first() != Some(&quantisation.axis) {
        return Err(operator.unsupported(format!("weights with scales along the axis {}", quantisation.axis)));
    }
    // Signed weights with unsigned values are multiplied fastest.
    let move_by = if tensor.element == Some(Element::U8) { 128 } else { 0 };
    let data = constant::transposed(constant.bytes(), &tensor.shape, axes);
    let data = data.into_iter().map(|byte| byte ^ move_by).collect();
    let zero_points =
        quantisation.zero_points.iter().map(|zero_point| i8::try_from(zero_point - i64::from(move_by)));
    let zero_points: Vec<i8> = zero_points
        .collect::<Result<_, _>>()
        .map_err(|_| operator.wrong("a zero point of its weights is outside of their type"))?;
    let stored = format!("{}.bytes", tensor.name);
    let graph = &mut converter.graph;
    let stored = graph.constant(&stored, DataType::Int8, &lengths(&shape), data)?;
    let (scale, zero_point) = match (quantisation.scales.as_slice(), zero_points.as_slice()) {
        ([scale], [zero_point]) => (graph.f32(*scale)?, graph.i8(*zero_point)?),
        (scales, zero_points) => (graph.f32s(scales)?, graph.i8s(zero_points)?),
    };
    let first_axis = [("axis", Attribute::Int(0))];
    let name = graph.node("DequantizeLinear", &[&stored, &scale, &zero_point], &first_axis, &tensor.name);
    let scales = quantisation.scales.iter().map(|scale| scale * input_scale.scale).collect();
    Ok((name, Some(scales)))
}

/// The bias as real numbers; of a quantised layer out of whole ones with these scales.
fn bias(
    converter: &mut Converter<'_, '_>,
    operator: &Operator<'_>,
    position: usize,
    scales: Option<Vec<f32>>,
) -> Result<Option<String>, ConvertError> {
    let Some(index) = optional(operator, position) else { return Ok(None) };
    let Some(tensor) = converter.source.tensor(index) else { return Err(operator.wrong("it has no bias")) };
    let Some(constant) = converter.constant(index)? else {
        return Err(operator.unsupported("a bias that is computed"));
    };
    let dims = [tensor.count() as i64];
    let Some(scales) = scales else {
        let data = constant.reals().iter().flat_map(|value| value.to_le_bytes()).collect();
        return converter.graph.constant(&tensor.name, DataType::Float, &dims, data).map(Some);
    };
    if tensor.element != Some(Element::I32) {
        return Err(operator.unsupported("a quantised layer whose bias has not 32 bits"));
    }
    if scales.len() > 1 && scales.len() != tensor.count() {
        return Err(operator.wrong(format!("it has {} scales and {} biases", scales.len(), tensor.count())));
    }
    let data = constant.bytes().to_vec();
    let graph = &mut converter.graph;
    let stored = graph.constant(&format!("{}.integers", tensor.name), DataType::Int32, &dims, data)?;
    let scale = match scales.as_slice() {
        [scale] => graph.f32(*scale)?,
        scales => graph.f32s(scales)?,
    };
    let zero_point = graph.zeros(if scales.len() == 1 { None } else { Some(scales.len()) })?;
    let first_axis = [("axis", Attribute::Int(0))];
    Ok(Some(graph.node("DequantizeLinear", &[&stored, &scale, &zero_point], &first_axis, &tensor.name)))
}

pub(super) fn fully_connected(
    converter: &mut Converter<'_, '_>,
    operator: &Operator<'_>,
) -> Result<(), ConvertError> {
    let said = options(operator, operator.options.builtin_options_as_fully_connected_options())?;
    if said.weights_format().0 != 0 {
        return Err(operator.unsupported("weights in a shuffled order"));
    }
    let weights_tensor = input(operator, 1)?;
    let shape =
        converter.source.tensor(weights_tensor).map(|tensor| tensor.shape.clone()).unwrap_or_default();
    let [units, depth] = *shape.as_slice() else {
        return Err(operator.unsupported(format!("weights of the shape {shape:?}")));
    };
    let values = input(operator, 0)?;
    let count: usize = converter.value(values)?.shape.iter().product();
    if depth == 0 || !count.is_multiple_of(depth) {
        return Err(operator.wrong(format!("its weights take {depth} values, its input has {count}")));
    }
    let rows = (count / depth) as i64;
    let kind = converter.value(values)?.kind;
    let flat = super::shape::reshaped(converter, values, &[rows, depth as i64])?;
    let real = match kind {
        Kind::Real => flat,
        Kind::Quantised(scale) => dequantised(converter, &flat, scale)?,
        Kind::Other(_) => return Err(operator.unsupported("an input that is not made of real numbers")),
    };
    let (weights, scales) = weights(converter, operator, &[0, 1], kind)?;
    let bias = bias(converter, operator, 2, scales)?;
    let mut inputs = vec![real.as_str(), weights.as_str()];
    inputs.extend(bias.as_deref());
    let wish = wish(converter, operator)?;
    let transposed = [("transB", Attribute::Int(1))];
    let name = converter.graph.node("Gemm", &inputs, &transposed, &format!("{wish}.gemm"));
    let activation = Activation::fused(operator, said.fused_activation_function())?;
    let (kind, name) = converter.finished(operator, &name, activation)?;
    let target = output(operator)?;
    let shape = converter.source.tensor(target).map(|tensor| lengths(&tensor.shape)).unwrap_or_default();
    let name = if shape == [rows, units as i64] {
        name
    } else {
        let shape = converter.graph.i64s(&shape)?;
        converter.graph.node("Reshape", &[&name, &shape], &[], &wish)
    };
    converter.put(target, kind, Axes::Own, name)
}

fn dequantised(converter: &mut Converter<'_, '_>, name: &str, scale: Scale) -> Result<String, ConvertError> {
    let factor = converter.graph.f32(scale.scale)?;
    let zero_point = converter.graph.u8(scale.zero_point)?;
    Ok(converter.graph.node("DequantizeLinear", &[name, &factor, &zero_point], &[], &format!("{name}.real")))
}

/// A convolution backwards, which makes a picture larger.
pub(super) fn transposed(
    converter: &mut Converter<'_, '_>,
    operator: &Operator<'_>,
) -> Result<(), ConvertError> {
    let said = options(operator, operator.options.builtin_options_as_transpose_conv_options())?;
    let pixels = input(operator, 2)?;
    let [_, height, width, _] = weights_shape(converter, operator, input(operator, 1)?)?;
    let window = Window {
        kernel: [height, width],
        stride: [said.stride_h().into(), said.stride_w().into()],
        dilation: [1, 1],
        padding: said.padding(),
        activation: said.fused_activation_function(),
    }
    .checked(operator)?;
    let [_, rows, columns, _] = four(operator, &converter.value(pixels)?.shape)?;
    let target =
        converter.source.tensor(output(operator)?).map(|tensor| tensor.shape.clone()).unwrap_or_default();
    let [_, target_rows, target_columns, _] = four(operator, &target)?;
    let real = converter.real(pixels, Axes::Nchw)?;
    // Real numbers all the way: this operator is rare in quantised files, and nobody has a quick one on bytes.
    let (weights, _) = weights(converter, operator, &TRANSPOSED, Kind::Real)?;
    let bias = bias(converter, operator, 3, None)?;
    let mut inputs = vec![real.as_str(), weights.as_str()];
    inputs.extend(bias.as_deref());
    let [down, right] = window.stride;
    let over = [(rows - 1) * down + height - target_rows, (columns - 1) * right + width - target_columns];
    if over.iter().any(|over| *over < 0) {
        return Err(operator.unsupported(format!("an output of {target_rows}x{target_columns}")));
    }
    let [over_rows, over_columns] = over;
    let pads = [over_rows / 2, over_columns / 2, over_rows - over_rows / 2, over_columns - over_columns / 2];
    let attributes = [
        ("kernel_shape", Attribute::Ints(&window.kernel)),
        ("pads", Attribute::Ints(&pads)),
        ("strides", Attribute::Ints(&window.stride)),
    ];
    let wish = format!("{}.conv", wish(converter, operator)?);
    let name = converter.graph.node("ConvTranspose", &inputs, &attributes, &wish);
    converter.put_real(operator, Axes::Nchw, &name, Activation::fused(operator, window.activation)?)
}
