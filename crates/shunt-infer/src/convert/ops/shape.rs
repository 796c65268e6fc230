//! Operators that move values about.

use super::{
    super::{
        ConvertError,
        converter::{Activation, Axes, Converter, Kind, Padded, TO_NCHW, lengths, output},
        graph::Attribute,
        source::Operator,
    },
    common_order, four, input, optional, options,
};

/// A number beyond the end of every axis.
const END: i64 = i32::MAX as i64;

/// The values of a tensor in another shape; the name.
pub(super) fn reshaped(
    converter: &mut Converter<'_, '_>,
    values: usize,
    shape: &[i64],
) -> Result<String, ConvertError> {
    // Of one pixel the order of the axes makes no difference.
    let single = matches!(*converter.value(values)?.shape.as_slice(), [_, 1, 1, _]);
    let order = if single { converter.order(values)? } else { Axes::Own };
    let name = converter.name(values, order)?;
    if order == Axes::Own && lengths(&converter.value(values)?.shape) == shape {
        return Ok(name);
    }
    let shape = converter.graph.i64s(shape)?;
    Ok(converter.graph.node("Reshape", &[&name, &shape], &[], "reshaped"))
}

pub(super) fn reshape(
    converter: &mut Converter<'_, '_>,
    operator: &Operator<'_>,
) -> Result<(), ConvertError> {
    let values = input(operator, 0)?;
    let target = shape_of(converter, output(operator)?);
    let count: usize = converter.value(values)?.shape.iter().product();
    if count != target.iter().product::<usize>() {
        return Err(operator.wrong(format!("its input has {count} values, its output the shape {target:?}")));
    }
    let kind = converter.value(values)?.kind;
    let name = reshaped(converter, values, &lengths(&target))?;
    converter.put_same(operator, Axes::Own, &name, kind, Activation::None)
}

fn shape_of(converter: &Converter<'_, '_>, tensor: usize) -> Vec<usize> {
    converter.source.tensor(tensor).map(|tensor| tensor.shape.clone()).unwrap_or_default()
}

pub(super) fn transpose(
    converter: &mut Converter<'_, '_>,
    operator: &Operator<'_>,
) -> Result<(), ConvertError> {
    let values = input(operator, 0)?;
    let turn = converter.integers(operator, input(operator, 1)?)?;
    let value = converter.value(values)?;
    let kind = value.kind;
    let mut sorted = turn.clone();
    sorted.sort_unstable();
    if sorted != (0..value.shape.len() as i64).collect::<Vec<_>>() {
        return Err(operator.wrong(format!("{turn:?} is no order of its axes")));
    }
    let name = converter.name(values, Axes::Own)?;
    let name = converter.graph.node("Transpose", &[&name], &[("perm", Attribute::Ints(&turn))], "turned");
    converter.put_same(operator, Axes::Own, &name, kind, Activation::None)
}

pub(super) fn concatenation(
    converter: &mut Converter<'_, '_>,
    operator: &Operator<'_>,
) -> Result<(), ConvertError> {
    let said = options(operator, operator.options.builtin_options_as_concatenation_options())?;
    let parts: Vec<usize> = operator.inputs.iter().flatten().copied().collect();
    let first = *parts.first().ok_or_else(|| operator.wrong("it has no input"))?;
    let rank = converter.value(first)?.shape.len();
    let axis = axis(operator, said.axis().into(), rank)?;
    let order = common_order(converter, &parts)?;
    let axis = match order {
        Axes::Own => axis,
        Axes::Nchw => TO_NCHW.iter().position(|own| *own == axis).unwrap_or(axis),
    };
    let attributes = [("axis", Attribute::Int(axis as i64))];
    let activation = Activation::fused(operator, said.fused_activation_function())?;
    let kind = converter.kind_of(first)?;
    let mut alike = kind != Kind::Real && kind == converter.kind(output(operator)?)?;
    for part in &parts {
        alike &= converter.kind_of(*part)? == kind;
    }
    let mut names = Vec::new();
    for part in parts {
        names.push(if alike { converter.name(part, order)? } else { converter.real(part, order)? });
    }
    let inputs: Vec<&str> = names.iter().map(String::as_str).collect();
    let name = converter.graph.node("Concat", &inputs, &attributes, "together");
    if alike {
        return converter.put_same(operator, order, &name, kind, activation);
    }
    converter.put_real(operator, order, &name, activation)
}

/// An axis, counted from the end where it is below zero.
fn axis(operator: &Operator<'_>, axis: i64, rank: usize) -> Result<usize, ConvertError> {
    let counted = if axis < 0 { axis + rank as i64 } else { axis };
    let counted = usize::try_from(counted).ok().filter(|counted| *counted < rank);
    counted.ok_or_else(|| operator.wrong(format!("it has no axis {axis}")))
}

pub(super) fn pad(converter: &mut Converter<'_, '_>, operator: &Operator<'_>) -> Result<(), ConvertError> {
    let values = input(operator, 0)?;
    let pads = converter.integers(operator, input(operator, 1)?)?;
    let (pairs, rest) = pads.as_chunks::<2>();
    let value = converter.value(values)?;
    let (kind, rank) = (value.kind, value.shape.len());
    if pairs.len() != rank || !rest.is_empty() || pads.iter().any(|length| !(0..=1 << 20).contains(length)) {
        return Err(operator.wrong(format!("{pads:?} does not pad {:?}", converter.value(values)?.shape)));
    }
    let filler = match optional(operator, 2) {
        None => 0.0,
        Some(tensor) => {
            let constant = converter.constant(tensor)?;
            let constant = constant.ok_or_else(|| operator.unsupported("a padding that is computed"))?;
            constant.reals().first().copied().unwrap_or_default()
        }
    };
    let order = converter.order(values)?;
    let in_order: Vec<[i64; 2]> = match order {
        Axes::Own => pairs.to_vec(),
        Axes::Nchw => TO_NCHW.iter().filter_map(|axis| pairs.get(*axis).copied()).collect(),
    };
    let before = in_order.iter().map(|[before, _]| *before);
    let edges: Vec<i64> = before.chain(in_order.iter().map(|[_, after]| *after)).collect();
    let edges = converter.graph.i64s(&edges)?;
    let constant = match kind {
        Kind::Real => converter.graph.f32(filler)?,
        Kind::Quantised(scale) => converter.graph.u8(scale.byte(filler))?,
        Kind::Other(_) => return Err(operator.unsupported("values that are not real numbers")),
    };
    let name = converter.name(values, order)?;
    let name = converter.graph.node("Pad", &[&name, &edges, &constant], &[], "padded");
    converter.put_same(operator, order, &name, kind, Activation::None)?;
    if let (&[[0, 0], [top, bottom], [left, right], [0, 0]], 0.0) = (pairs, filler) {
        let padded = Padded { tensor: values, edges: [top, left, bottom, right] };
        converter.set_padded(output(operator)?, padded);
    }
    Ok(())
}

/// A part of the values: from, to, step for each axis.
fn part(
    converter: &mut Converter<'_, '_>,
    values: usize,
    ranges: &[[i64; 3]],
) -> Result<String, ConvertError> {
    let column = |at: usize| ranges.iter().filter_map(|range| range.get(at).copied()).collect::<Vec<i64>>();
    let axes: Vec<i64> = (0..ranges.len() as i64).collect();
    let name = converter.name(values, Axes::Own)?;
    let graph = &mut converter.graph;
    let starts = graph.i64s(&column(0))?;
    let ends = graph.i64s(&column(1))?;
    let axes = graph.i64s(&axes)?;
    let steps = graph.i64s(&column(2))?;
    Ok(graph.node("Slice", &[&name, &starts, &ends, &axes, &steps], &[], "part"))
}

pub(super) fn slice(converter: &mut Converter<'_, '_>, operator: &Operator<'_>) -> Result<(), ConvertError> {
    let values = input(operator, 0)?;
    let starts = converter.integers(operator, input(operator, 1)?)?;
    let sizes = converter.integers(operator, input(operator, 2)?)?;
    let value = converter.value(values)?;
    let kind = value.kind;
    if starts.len() != value.shape.len() || sizes.len() != starts.len() {
        return Err(operator.wrong("it has not a start and a size for each axis"));
    }
    let ranges = starts.iter().zip(&sizes);
    let ranges: Vec<[i64; 3]> = ranges
        .map(|(start, size)| [*start, if *size < 0 { END } else { start.saturating_add(*size) }, 1])
        .collect();
    let name = part(converter, values, &ranges)?;
    converter.put_same(operator, Axes::Own, &name, kind, Activation::None)
}

pub(super) fn strided_slice(
    converter: &mut Converter<'_, '_>,
    operator: &Operator<'_>,
) -> Result<(), ConvertError> {
    let said = options(operator, operator.options.builtin_options_as_strided_slice_options())?;
    if said.ellipsis_mask() != 0 || said.new_axis_mask() != 0 {
        return Err(operator.unsupported("an ellipsis or a new axis"));
    }
    let values = input(operator, 0)?;
    let value = converter.value(values)?;
    let (kind, rank) = (value.kind, value.shape.len());
    let starts = converter.integers(operator, input(operator, 1)?)?;
    let ends = converter.integers(operator, input(operator, 2)?)?;
    let steps = converter.integers(operator, input(operator, 3)?)?;
    if starts.len() > rank || ends.len() != starts.len() || steps.len() != starts.len() || steps.contains(&0)
    {
        return Err(operator.wrong("it has not a start, an end and a step for each axis"));
    }
    let mut ranges = Vec::new();
    for (index, ((start, end), step)) in starts.into_iter().zip(ends).zip(steps).enumerate() {
        let masked = |mask: i32| mask >> index & 1 == 1;
        if masked(said.shrink_axis_mask()) {
            // One index; the last has nothing after it.
            ranges.push([start, if start == -1 { END } else { start.saturating_add(1) }, 1]);
            continue;
        }
        let (first, last) = if step > 0 { (0, END) } else { (END, -END) };
        let start = if masked(said.begin_mask()) { first } else { start };
        let end = if masked(said.end_mask()) { last } else { end };
        ranges.push([start, end, step]);
    }
    let name = part(converter, values, &ranges)?;
    // What is left of an axis with one index goes, and the file says what stays.
    let shape = lengths(&shape_of(converter, output(operator)?));
    let name = if said.shrink_axis_mask() == 0 {
        name
    } else {
        let shape = converter.graph.i64s(&shape)?;
        converter.graph.node("Reshape", &[&name, &shape], &[], "part")
    };
    converter.put_same(operator, Axes::Own, &name, kind, Activation::None)
}

pub(super) fn split(converter: &mut Converter<'_, '_>, operator: &Operator<'_>) -> Result<(), ConvertError> {
    let wanted = converter.integers(operator, input(operator, 0)?)?;
    let values = input(operator, 1)?;
    let value = converter.value(values)?;
    let (kind, shape) = (value.kind, value.shape.clone());
    let [wanted] = *wanted.as_slice() else { return Err(operator.wrong("it has not one axis")) };
    let axis = axis(operator, wanted, shape.len())?;
    let length = shape.get(axis).copied().unwrap_or_default();
    let parts = operator.outputs.len();
    if parts == 0 || length % parts != 0 {
        return Err(operator.wrong(format!("{length} values are not {parts} equal parts")));
    }
    let step = (length / parts) as i64;
    for (index, target) in (0..).zip(&operator.outputs) {
        let mut ranges: Vec<[i64; 3]> = shape.iter().map(|length| [0, *length as i64, 1]).collect();
        if let Some(range) = ranges.get_mut(axis) {
            *range = [index * step, (index + 1) * step, 1];
        }
        let name = part(converter, values, &ranges)?;
        converter.put(*target, kind, Axes::Own, name)?;
    }
    Ok(())
}

pub(super) fn resize_bilinear(
    converter: &mut Converter<'_, '_>,
    operator: &Operator<'_>,
) -> Result<(), ConvertError> {
    let said = options(operator, operator.options.builtin_options_as_resize_bilinear_options())?;
    let coordinates = match (said.align_corners(), said.half_pixel_centers()) {
        (true, false) => "align_corners",
        (false, true) => "half_pixel",
        (false, false) => "asymmetric",
        (true, true) => return Err(operator.unsupported("aligned corners with half pixels")),
    };
    let attributes = [
        ("coordinate_transformation_mode", Attribute::Text(coordinates)),
        ("mode", Attribute::Text("linear")),
    ];
    resize(converter, operator, &attributes)
}

pub(super) fn resize_nearest(
    converter: &mut Converter<'_, '_>,
    operator: &Operator<'_>,
) -> Result<(), ConvertError> {
    let said = options(operator, operator.options.builtin_options_as_resize_nearest_neighbor_options())?;
    let (coordinates, nearest) = match (said.align_corners(), said.half_pixel_centers()) {
        (true, false) => ("align_corners", "round_prefer_ceil"),
        (false, true) => ("half_pixel", "round_prefer_ceil"),
        (false, false) => ("asymmetric", "floor"),
        (true, true) => return Err(operator.unsupported("aligned corners with half pixels")),
    };
    let attributes = [
        ("coordinate_transformation_mode", Attribute::Text(coordinates)),
        ("mode", Attribute::Text("nearest")),
        ("nearest_mode", Attribute::Text(nearest)),
    ];
    resize(converter, operator, &attributes)
}

fn resize(
    converter: &mut Converter<'_, '_>,
    operator: &Operator<'_>,
    attributes: &[(&str, Attribute<'_>)],
) -> Result<(), ConvertError> {
    let values = input(operator, 0)?;
    let size = converter.integers(operator, input(operator, 1)?)?;
    let [batch, _, _, channels] = four(operator, &converter.value(values)?.shape)?;
    let [height, width] = *size.as_slice() else {
        return Err(operator.wrong("it has not a height and a width"));
    };
    if height < 1 || width < 1 {
        return Err(operator.wrong(format!("a size of {height}x{width}")));
    }
    let real = converter.real(values, Axes::Nchw)?;
    let sizes = converter.graph.i64s(&[batch, channels, height, width])?;
    let name = converter.graph.node("Resize", &[&real, "", "", &sizes], attributes, "resized");
    converter.put_real(operator, Axes::Nchw, &name, Activation::None)
}

pub(super) fn depth_to_space(
    converter: &mut Converter<'_, '_>,
    operator: &Operator<'_>,
) -> Result<(), ConvertError> {
    let said = options(operator, operator.options.builtin_options_as_depth_to_space_options())?;
    let attributes =
        [("blocksize", Attribute::Int(said.block_size().into())), ("mode", Attribute::Text("DCR"))];
    blocks(converter, operator, "DepthToSpace", said.block_size(), &attributes)
}

pub(super) fn space_to_depth(
    converter: &mut Converter<'_, '_>,
    operator: &Operator<'_>,
) -> Result<(), ConvertError> {
    let said = options(operator, operator.options.builtin_options_as_space_to_depth_options())?;
    let attributes = [("blocksize", Attribute::Int(said.block_size().into()))];
    blocks(converter, operator, "SpaceToDepth", said.block_size(), &attributes)
}

fn blocks(
    converter: &mut Converter<'_, '_>,
    operator: &Operator<'_>,
    name: &str,
    block: i32,
    attributes: &[(&str, Attribute<'_>)],
) -> Result<(), ConvertError> {
    if block < 1 {
        return Err(operator.wrong(format!("blocks of {block}")));
    }
    let values = input(operator, 0)?;
    four(operator, &converter.value(values)?.shape)?;
    let real = converter.real(values, Axes::Nchw)?;
    let name = converter.graph.node(name, &[&real], attributes, "blocks");
    converter.put_real(operator, Axes::Nchw, &name, Activation::None)
}

/// A constant of which the zeros are not stored: from here on they are.
pub(super) fn densify(
    converter: &mut Converter<'_, '_>,
    operator: &Operator<'_>,
) -> Result<(), ConvertError> {
    let values = input(operator, 0)?;
    let constant = converter.constant(values)?;
    let bytes = constant.ok_or_else(|| operator.unsupported("values that are computed"))?.bytes().to_vec();
    converter.fold(output(operator)?, bytes)
}
