//! TensorFlow Lite files as ONNX: the same answers as LiteRT's, and a clear word where there is none.

use std::{num::NonZeroUsize, path::PathBuf};

use proptest::prelude::*;
use shunt_infer::{
    Backend as _, ConvertError, Element, Format, LiteRt, Loaded, OnnxRuntime, Order, Port, RunOptions,
    Tensor, Tract, Values, compare, tflite_to_onnx,
};
use shunt_vision::{Picture, resize};
use tract_tflite::tflite::{
    self as schema, ActivationFunctionType as Fused, BuiltinOperator as Code, BuiltinOptions, Padding,
    TensorType,
};

use crate::{
    picture,
    tflite::{Net, Scales, integers, noise, reals, scale},
};

const F32: TensorType = TensorType::FLOAT32;
const U8: TensorType = TensorType::UINT8;
const I8: TensorType = TensorType::INT8;
const I32: TensorType = TensorType::INT32;

/// ONNX Runtime and LiteRT; where one is not installed, says so, or fails where all must be.
pub(crate) fn back_ends() -> Option<(OnnxRuntime, LiteRt)> {
    match (OnnxRuntime::find(), LiteRt::find()) {
        (Ok(onnx), Ok(litert)) => Some((onnx, litert)),
        (onnx, litert) => {
            let missing = [onnx.err(), litert.err()].into_iter().flatten();
            let missing: Vec<_> =
                missing.map(|missing| format!("{}: {}", missing.name, missing.why)).collect();
            assert!(std::env::var_os("CI").is_none(), "{}", missing.join("; "));
            println!("Skipped: {}.", missing.join("; "));
            None
        }
    }
}

fn order(format: Format, file: &[u8]) -> Order<'_> {
    Order {
        format,
        file,
        input: None,
        options: RunOptions { threads: NonZeroUsize::MIN, accelerator: false },
    }
}

pub(crate) fn shared(name: &str) -> Option<Vec<u8>> {
    let file: Option<PathBuf> = shunt_testkit::shared_dir().map(|shared| shared.join("models").join(name));
    let Some(file) = file.filter(|file| file.is_file()) else {
        println!("Skipped: {name} is not there.");
        return None;
    };
    Some(std::fs::read(file).unwrap())
}

fn tensor(port: &Port, seed: u64) -> Tensor {
    let shape: Vec<usize> = port.shape.iter().map(|length| length.unwrap_or(1)).collect();
    let bytes = noise(shape.iter().product(), seed);
    let values = match port.element {
        Element::U8 => Values::U8(bytes),
        Element::I8 => Values::I8(bytes.into_iter().map(u8::cast_signed).collect()),
        Element::F32 => Values::F32(bytes.into_iter().map(|byte| f32::from(byte) / 64.0 - 2.0).collect()),
        other => panic!("{other:?} is not tested"),
    };
    Tensor { shape, values }
}

// === The whole way: real models on real pictures ===

fn pictures(model: &dyn Loaded) -> Vec<(String, Vec<Tensor>)> {
    let port = &model.describe().inputs[0];
    let shape: Vec<usize> = port.shape.iter().map(|length| length.unwrap()).collect();
    let (height, width) = (shape[1] as u32, shape[2] as u32);
    let names = [
        "astronaut.png",
        "chelsea.png",
        "coffee.png",
        "rocket.jpg",
        "cat_720p.jpg",
        "face.jpg",
        "grace_hopper.bmp",
        "hot_dog.jpg",
        "parrot.jpg",
        "pets.jpg",
    ];
    let mut inputs = Vec::new();
    for name in names {
        let Some(picture) = picture(name) else { continue };
        let picture: Picture = resize(&shunt_vision::to_rgb(picture), width, height);
        let bytes = picture.pixels.to_vec();
        let values = match port.element {
            Element::U8 => Values::U8(bytes),
            _ => Values::F32(bytes.into_iter().map(|byte| f32::from(byte) / 127.5 - 1.0).collect()),
        };
        inputs.push((name.to_owned(), vec![Tensor { shape: shape.clone(), values }]));
    }
    inputs.extend((1..=3).map(|seed| (format!("noise {seed}"), vec![tensor(port, seed)])));
    inputs
}

fn check_real(name: &str) {
    let (Some(file), Some((onnx, litert))) = (shared(name), back_ends()) else { return };
    let converted = tflite_to_onnx(&file).unwrap();
    let ours = onnx.load(&order(Format::Onnx, &converted.onnx)).unwrap();
    let reference = litert.load(&order(Format::Tflite, &file)).unwrap();
    let port = |port: &Port| (port.name.clone(), port.element, port.shape.clone());
    let ports = |model: &dyn Loaded| {
        let description = model.describe().clone();
        (
            description.inputs.iter().map(port).collect::<Vec<_>>(),
            description.outputs.iter().map(port).collect::<Vec<_>>(),
        )
    };
    assert_eq!(ports(ours.as_ref()), ports(reference.as_ref()), "{name}");
    let verdict =
        compare(reference.as_ref(), ours.as_ref(), &converted.steps, &pictures(ours.as_ref())).unwrap();
    assert_eq!(verdict.wrong, None, "{name}");
    println!("{name}: {verdict}.");
}

#[test]
fn a_converted_quantised_mobilenet_v1_has_litert_s_best_five_and_every_score_within_a_step() {
    check_real("classify/mobilenet_v1_1.0_224_quant.tflite");
}

#[test]
fn a_converted_quantised_mobilenet_v2_has_litert_s_best_five_and_every_score_within_a_step() {
    check_real("classify/mobilenet_v2_1.0_224_quant.tflite");
}

#[test]
fn converted_face_finders_with_sparse_and_half_weights_answer_as_litert() {
    check_real("face/face_detection_short_range.tflite");
    check_real("face/face_detection_full_range_sparse.tflite");
}

// === Operator by operator ===

/// Converts a small file, runs it in both, and compares.
fn check(what: &str, net: &Net) {
    let Some((onnx, litert)) = back_ends() else { return };
    let file = net.file();
    let converted = tflite_to_onnx(&file).unwrap_or_else(|error| panic!("{what}: {error}"));
    let ours =
        onnx.load(&order(Format::Onnx, &converted.onnx)).unwrap_or_else(|error| panic!("{what}: {error}"));
    let reference =
        litert.load(&order(Format::Tflite, &file)).unwrap_or_else(|error| panic!("{what}: LiteRT: {error}"));
    let inputs: Vec<_> = (1..=4)
        .map(|seed| {
            let ports = reference.describe().inputs.iter();
            (format!("noise {seed}"), ports.zip(seed..).map(|(port, seed)| tensor(port, seed)).collect())
        })
        .collect();
    // Each operator alone rounds once: no value may be a whole step away.
    let verdict = compare(reference.as_ref(), ours.as_ref(), &converted.steps, &inputs).unwrap();
    let values = verdict.wrong.as_deref().filter(|wrong| !wrong.contains("other places"));
    assert_eq!(values, None, "{what}");
}

fn conv(
    padding: Padding,
    stride: i32,
    dilation: i32,
    fused: Fused,
) -> impl Fn(
    &mut flatbuffers::FlatBufferBuilder<'_>,
) -> (BuiltinOptions, flatbuffers::WIPOffset<flatbuffers::UnionWIPOffset>) {
    move |fbb| {
        let args = schema::Conv2DOptionsArgs {
            padding,
            stride_w: stride,
            stride_h: stride,
            dilation_w_factor: dilation,
            dilation_h_factor: dilation,
            fused_activation_function: fused,
            ..Default::default()
        };
        (BuiltinOptions::Conv2DOptions, schema::Conv2DOptions::create(fbb, &args).as_union_value())
    }
}

fn depthwise(
    padding: Padding,
    stride: i32,
    multiplier: i32,
    fused: Fused,
) -> impl Fn(
    &mut flatbuffers::FlatBufferBuilder<'_>,
) -> (BuiltinOptions, flatbuffers::WIPOffset<flatbuffers::UnionWIPOffset>) {
    move |fbb| {
        let args = schema::DepthwiseConv2DOptionsArgs {
            padding,
            stride_w: stride,
            stride_h: stride,
            depth_multiplier: multiplier,
            fused_activation_function: fused,
            ..Default::default()
        };
        (
            BuiltinOptions::DepthwiseConv2DOptions,
            schema::DepthwiseConv2DOptions::create(fbb, &args).as_union_value(),
        )
    }
}

fn pool(
    padding: Padding,
    size: i32,
    stride: i32,
) -> impl Fn(
    &mut flatbuffers::FlatBufferBuilder<'_>,
) -> (BuiltinOptions, flatbuffers::WIPOffset<flatbuffers::UnionWIPOffset>) {
    move |fbb| {
        let args = schema::Pool2DOptionsArgs {
            padding,
            stride_w: stride,
            stride_h: stride,
            filter_width: size,
            filter_height: size,
            ..Default::default()
        };
        (BuiltinOptions::Pool2DOptions, schema::Pool2DOptions::create(fbb, &args).as_union_value())
    }
}

/// Scales of their own for each channel, as signed weights have them.
fn by_channel(count: usize, axis: i32) -> Option<Scales> {
    Some(Scales((0..count).map(|index| 0.01 + index as f32 * 0.003).collect(), vec![0; count], axis))
}

#[test]
fn quantised_convolutions_answer_as_litert() {
    for (padding, stride, fused) in
        [(Padding::SAME, 2, Fused::RELU6), (Padding::VALID, 1, Fused::NONE), (Padding::SAME, 1, Fused::RELU)]
    {
        let what = format!("{padding:?} {stride} {fused:?}");
        let side = |from: i32, kernel: i32| match padding {
            Padding::SAME => (from + stride - 1) / stride,
            _ => (from - kernel) / stride + 1,
        };
        let shape = [1, side(15, 3), side(12, 3), 6];

        let mut net = Net::default();
        let x = net.value(U8, &[1, 15, 12, 5], scale(0.02, 120));
        let w = net.constant(U8, &[6, 3, 3, 5], scale(0.01, 140), noise(6 * 9 * 5, 3));
        let b = net.constant(I32, &[6], scale(0.0002, 0), integers(&[-900, 5, 300, 0, 77, -12]));
        let y = net.value(U8, &shape, scale(0.05, 100));
        net.step_with(Code::CONV_2D, &[x, w, b], &[y], conv(padding, stride, 1, fused));
        check(&format!("CONV_2D u8 {what}"), &net.ends(&[x], &[y]));

        let mut net = Net::default();
        let x = net.value(I8, &[1, 15, 12, 5], scale(0.02, -8));
        let w = net.constant(I8, &[6, 3, 3, 5], by_channel(6, 0), noise(6 * 9 * 5, 4));
        let scales = by_channel(6, 0).map(|Scales(scales, zeros, axis)| {
            Scales(scales.iter().map(|scale| scale * 0.02).collect(), zeros, axis)
        });
        let b = net.constant(I32, &[6], scales, integers(&[-900, 5, 300, 0, 77, -12]));
        let y = net.value(I8, &shape, scale(0.08, -20));
        net.step_with(Code::CONV_2D, &[x, w, b], &[y], conv(padding, stride, 1, fused));
        check(&format!("CONV_2D i8 {what}"), &net.ends(&[x], &[y]));

        let mut net = Net::default();
        let x = net.value(U8, &[1, 15, 12, 3], scale(0.02, 120));
        let w = net.constant(U8, &[1, 3, 3, 6], scale(0.02, 131), noise(9 * 6, 5));
        let b = net.constant(I32, &[6], scale(0.0004, 0), integers(&[-900, 5, 300, 0, 77, -12]));
        let y = net.value(U8, &shape, scale(0.05, 100));
        net.step_with(Code::DEPTHWISE_CONV_2D, &[x, w, b], &[y], depthwise(padding, stride, 2, fused));
        check(&format!("DEPTHWISE_CONV_2D u8 {what}"), &net.ends(&[x], &[y]));

        let mut net = Net::default();
        let x = net.value(I8, &[1, 15, 12, 6], scale(0.02, 3));
        let w = net.constant(I8, &[1, 3, 3, 6], by_channel(6, 3), noise(9 * 6, 6));
        let scales = by_channel(6, 0).map(|Scales(scales, zeros, axis)| {
            Scales(scales.iter().map(|scale| scale * 0.02).collect(), zeros, axis)
        });
        let b = net.constant(I32, &[6], scales, integers(&[-900, 5, 300, 0, 77, -12]));
        let y = net.value(I8, &shape, scale(0.05, -30));
        net.step_with(Code::DEPTHWISE_CONV_2D, &[x, w, b], &[y], depthwise(padding, stride, 1, fused));
        check(&format!("DEPTHWISE_CONV_2D i8 {what}"), &net.ends(&[x], &[y]));
    }
}

#[test]
fn convolutions_of_real_numbers_answer_as_litert() {
    // Padding before, dilation, weights of 16 bits, and an activation that follows.
    let mut net = Net::default();
    let x = net.value(F32, &[1, 14, 11, 4], None);
    let p = net.constant(I32, &[4, 2], None, integers(&[0, 0, 1, 2, 0, 1, 0, 0]));
    let padded = net.value(F32, &[1, 17, 12, 4], None);
    net.step(Code::PAD, &[x, p], padded);
    let halves = noise(6 * 9 * 4, 9)
        .into_iter()
        .flat_map(|byte| half::f16::from_f32(f32::from(byte) / 127.5 - 1.0).to_bits().to_le_bytes());
    let stored = net.constant(TensorType::FLOAT16, &[6, 3, 3, 4], None, halves.collect());
    let w = net.value(F32, &[6, 3, 3, 4], None);
    net.step(Code::DEQUANTIZE, &[stored], w);
    let b = net.constant(F32, &[6], None, reals(6, 2));
    let y = net.value(F32, &[1, 13, 8, 6], None);
    net.step_with(Code::CONV_2D, &[padded, w, b], &[y], conv(Padding::VALID, 1, 2, Fused::RELU_N1_TO_1));
    check("PAD, DEQUANTIZE, CONV_2D", &net.ends(&[x], &[y]));

    let mut net = Net::default();
    let x = net.value(F32, &[1, 6, 5, 4], None);
    let size = net.constant(I32, &[4], None, integers(&[1, 12, 10, 3]));
    let w = net.constant(F32, &[3, 3, 3, 4], None, reals(3 * 9 * 4, 11));
    let y = net.value(F32, &[1, 12, 10, 3], None);
    net.step_with(Code::TRANSPOSE_CONV, &[size, w, x], &[y], |fbb| {
        let args = schema::TransposeConvOptionsArgs {
            padding: Padding::SAME,
            stride_w: 2,
            stride_h: 2,
            ..Default::default()
        };
        (
            BuiltinOptions::TransposeConvOptions,
            schema::TransposeConvOptions::create(fbb, &args).as_union_value(),
        )
    });
    check("TRANSPOSE_CONV", &net.ends(&[x], &[y]));
}

#[test]
fn fully_connected_layers_answer_as_litert() {
    let options = |fbb: &mut flatbuffers::FlatBufferBuilder<'_>| {
        let options =
            schema::FullyConnectedOptions::create(fbb, &schema::FullyConnectedOptionsArgs::default());
        (BuiltinOptions::FullyConnectedOptions, options.as_union_value())
    };
    let biases = || integers(&[100, -2000, 30, 4, 0, 9, 77]);
    let mut net = Net::default();
    let x = net.value(U8, &[1, 24], scale(0.02, 120));
    let w = net.constant(U8, &[7, 24], scale(0.01, 140), noise(7 * 24, 3));
    let b = net.constant(I32, &[7], scale(0.0002, 0), biases());
    let y = net.value(U8, &[1, 7], scale(0.06, 128));
    net.step_with(Code::FULLY_CONNECTED, &[x, w, b], &[y], options);
    check("FULLY_CONNECTED u8", &net.ends(&[x], &[y]));

    let mut net = Net::default();
    let x = net.value(I8, &[1, 24], scale(0.02, 3));
    let w = net.constant(I8, &[7, 24], scale(0.01, 0), noise(7 * 24, 3));
    let b = net.constant(I32, &[7], scale(0.0002, 0), biases());
    let y = net.value(I8, &[1, 7], scale(0.06, 0));
    net.step_with(Code::FULLY_CONNECTED, &[x, w, b], &[y], options);
    check("FULLY_CONNECTED i8", &net.ends(&[x], &[y]));

    let mut net = Net::default();
    let x = net.value(F32, &[1, 2, 3, 4], None);
    let w = net.constant(F32, &[7, 24], None, reals(7 * 24, 3));
    let y = net.value(F32, &[1, 7], None);
    net.step_with(Code::FULLY_CONNECTED, &[x, w, -1], &[y], options);
    check("FULLY_CONNECTED f32", &net.ends(&[x], &[y]));
}

#[test]
fn pools_and_means_answer_as_litert() {
    for kind in [U8, I8, F32] {
        let zero = if kind == I8 { -3 } else { 125 };
        let scales = || if kind == F32 { None } else { scale(0.03, zero) };
        for (code, padding, size, stride, out) in [
            (Code::AVERAGE_POOL_2D, Padding::SAME, 3, 2, [1, 5, 4, 4]),
            (Code::AVERAGE_POOL_2D, Padding::VALID, 2, 2, [1, 4, 3, 4]),
            (Code::MAX_POOL_2D, Padding::SAME, 3, 2, [1, 5, 4, 4]),
        ] {
            let mut net = Net::default();
            let x = net.value(kind, &[1, 9, 7, 4], scales());
            let y = net.value(kind, &out, scales());
            net.step_with(code, &[x], &[y], pool(padding, size, stride));
            check(&format!("{code:?} {kind:?} {padding:?}"), &net.ends(&[x], &[y]));
        }
        for keep_dims in [true, false] {
            let mut net = Net::default();
            let x = net.value(kind, &[1, 9, 7, 4], scales());
            let axes = net.constant(I32, &[2], None, integers(&[1, 2]));
            let y = net.value(kind, if keep_dims { &[1, 1, 1, 4] } else { &[1, 4] }, scales());
            net.step_with(Code::MEAN, &[x, axes], &[y], move |fbb| {
                let options = schema::ReducerOptions::create(fbb, &schema::ReducerOptionsArgs { keep_dims });
                (BuiltinOptions::ReducerOptions, options.as_union_value())
            });
            check(&format!("MEAN {kind:?} {keep_dims}"), &net.ends(&[x], &[y]));
        }
    }
}

#[test]
fn sums_products_and_what_is_put_together_answer_as_litert() {
    for (code, kind) in [
        (Code::ADD, U8),
        (Code::ADD, I8),
        (Code::SUB, U8),
        (Code::MUL, U8),
        (Code::MUL, F32),
        (Code::ADD, F32),
    ] {
        let scales = |factor: f32, zero: i64| {
            if kind == F32 { None } else { scale(factor, if kind == I8 { zero - 128 } else { zero }) }
        };
        let mut net = Net::default();
        let one = net.value(kind, &[1, 4, 3, 5], scales(0.02, 120));
        let other = net.value(kind, &[1, 4, 3, 5], scales(0.03, 100));
        let y = net.value(kind, &[1, 4, 3, 5], scales(0.05, 90));
        net.step_with(code, &[one, other], &[y], move |fbb| match code {
            Code::ADD => {
                let args =
                    schema::AddOptionsArgs { fused_activation_function: Fused::RELU, ..Default::default() };
                (BuiltinOptions::AddOptions, schema::AddOptions::create(fbb, &args).as_union_value())
            }
            Code::SUB => {
                let options = schema::SubOptions::create(fbb, &schema::SubOptionsArgs::default());
                (BuiltinOptions::SubOptions, options.as_union_value())
            }
            _ => {
                let options = schema::MulOptions::create(fbb, &schema::MulOptionsArgs::default());
                (BuiltinOptions::MulOptions, options.as_union_value())
            }
        });
        check(&format!("{code:?} {kind:?}"), &net.ends(&[one, other], &[y]));
    }
    for second in [scale(0.02, 120), scale(0.015, 90)] {
        let mut net = Net::default();
        let one = net.value(U8, &[1, 4, 3, 5], scale(0.02, 120));
        let other = net.value(U8, &[1, 4, 3, 2], second);
        let y = net.value(U8, &[1, 4, 3, 7], scale(0.02, 120));
        net.step_with(Code::CONCATENATION, &[one, other], &[y], |fbb| {
            let args = schema::ConcatenationOptionsArgs { axis: -1, ..Default::default() };
            (
                BuiltinOptions::ConcatenationOptions,
                schema::ConcatenationOptions::create(fbb, &args).as_union_value(),
            )
        });
        check("CONCATENATION", &net.ends(&[one, other], &[y]));
    }
}

#[test]
fn activations_answer_as_litert() {
    for code in [
        Code::RELU,
        Code::RELU6,
        Code::RELU_N1_TO_1,
        Code::HARD_SWISH,
        Code::LOGISTIC,
        Code::TANH,
        Code::ELU,
        Code::EXP,
        Code::ABS,
        Code::NEG,
        Code::FLOOR,
        Code::L2_NORMALIZATION,
    ] {
        let mut net = Net::default();
        let x = net.value(F32, &[1, 4, 3, 6], None);
        let y = net.value(F32, &[1, 4, 3, 6], None);
        if code == Code::L2_NORMALIZATION {
            net.step_with(code, &[x], &[y], |fbb| {
                let options = schema::L2NormOptions::create(fbb, &schema::L2NormOptionsArgs::default());
                (BuiltinOptions::L2NormOptions, options.as_union_value())
            });
        } else {
            net.step(code, &[x], y);
        }
        check(&format!("{code:?}"), &net.ends(&[x], &[y]));
    }
    let mut net = Net::default();
    let x = net.value(F32, &[1, 4, 3, 6], None);
    let alpha = net.constant(F32, &[1, 1, 6], None, reals(6, 8));
    let y = net.value(F32, &[1, 4, 3, 6], None);
    net.step(Code::PRELU, &[x, alpha], y);
    check("PRELU", &net.ends(&[x], &[y]));

    // Quantised: an output that is only that, and one that is read on.
    for kind in [U8, I8] {
        let least = if kind == I8 { -128 } else { 0 };
        let mut net = Net::default();
        let x = net.value(kind, &[1, 12], scale(0.1, least + 100));
        let p = net.value(kind, &[1, 12], scale(1.0 / 256.0, least));
        net.step_with(Code::SOFTMAX, &[x], &[p], |fbb| {
            let options = schema::SoftmaxOptions::create(fbb, &schema::SoftmaxOptionsArgs { beta: 1.0 });
            (BuiltinOptions::SoftmaxOptions, options.as_union_value())
        });
        let y = net.value(F32, &[1, 12], None);
        net.step(Code::DEQUANTIZE, &[p], y);
        check(&format!("SOFTMAX {kind:?}"), &net.ends(&[x], &[p, y]));

        let mut net = Net::default();
        let x = net.value(kind, &[1, 12], scale(0.1, least + 100));
        let y = net.value(kind, &[1, 12], scale(1.0 / 256.0, least));
        net.step(Code::LOGISTIC, &[x], y);
        check(&format!("LOGISTIC {kind:?}"), &net.ends(&[x], &[y]));

        let mut net = Net::default();
        let x = net.value(F32, &[1, 4, 3, 6], None);
        let q = net.value(kind, &[1, 4, 3, 6], scale(0.02, least + 90));
        net.step(Code::QUANTIZE, &[x], q);
        let r = net.value(kind, &[1, 4, 3, 6], scale(0.02, least + 90));
        net.step(Code::RELU, &[q], r);
        let y = net.value(F32, &[1, 4, 3, 6], None);
        net.step(Code::DEQUANTIZE, &[r], y);
        check(&format!("QUANTIZE, RELU, DEQUANTIZE {kind:?}"), &net.ends(&[x], &[y]));
    }
}

#[test]
fn what_moves_values_about_answers_as_litert() {
    for (align_corners, half_pixel_centers) in [(false, false), (true, false), (false, true)] {
        for code in [Code::RESIZE_BILINEAR, Code::RESIZE_NEAREST_NEIGHBOR] {
            let mut net = Net::default();
            let x = net.value(F32, &[1, 5, 7, 3], None);
            let size = net.constant(I32, &[2], None, integers(&[10, 9]));
            let y = net.value(F32, &[1, 10, 9, 3], None);
            net.step_with(code, &[x, size], &[y], move |fbb| {
                if code == Code::RESIZE_BILINEAR {
                    let args = schema::ResizeBilinearOptionsArgs { align_corners, half_pixel_centers };
                    let options = schema::ResizeBilinearOptions::create(fbb, &args);
                    return (BuiltinOptions::ResizeBilinearOptions, options.as_union_value());
                }
                let args = schema::ResizeNearestNeighborOptionsArgs { align_corners, half_pixel_centers };
                let options = schema::ResizeNearestNeighborOptions::create(fbb, &args);
                (BuiltinOptions::ResizeNearestNeighborOptions, options.as_union_value())
            });
            check(&format!("{code:?} {align_corners} {half_pixel_centers}"), &net.ends(&[x], &[y]));
        }
    }
    let mut net = Net::default();
    let x = net.value(U8, &[1, 4, 6, 8], scale(0.02, 120));
    let turn = net.constant(I32, &[4], None, integers(&[0, 2, 1, 3]));
    let turned = net.value(U8, &[1, 6, 4, 8], scale(0.02, 120));
    net.step(Code::TRANSPOSE, &[x, turn], turned);
    let (start, end, step) = (
        net.constant(I32, &[4], None, integers(&[0, 1, 0, 2])),
        net.constant(I32, &[4], None, integers(&[1, 6, 4, 3])),
        net.constant(I32, &[4], None, integers(&[1, 2, 1, 1])),
    );
    let part = net.value(U8, &[1, 3, 4], scale(0.02, 120));
    net.step_with(Code::STRIDED_SLICE, &[turned, start, end, step], &[part], |fbb| {
        let args = schema::StridedSliceOptionsArgs { shrink_axis_mask: 8, end_mask: 2, ..Default::default() };
        (
            BuiltinOptions::StridedSliceOptions,
            schema::StridedSliceOptions::create(fbb, &args).as_union_value(),
        )
    });
    let shape = net.constant(I32, &[2], None, integers(&[1, 12]));
    let y = net.value(U8, &[1, 12], scale(0.02, 120));
    net.step(Code::RESHAPE, &[part, shape], y);
    check("TRANSPOSE, STRIDED_SLICE, RESHAPE", &net.ends(&[x], &[y]));

    for code in [Code::DEPTH_TO_SPACE, Code::SPACE_TO_DEPTH] {
        let mut net = Net::default();
        let x = net.value(F32, &[1, 4, 6, 8], None);
        let y =
            net.value(F32, if code == Code::DEPTH_TO_SPACE { &[1, 8, 12, 2] } else { &[1, 2, 3, 32] }, None);
        net.step_with(code, &[x], &[y], move |fbb| {
            if code == Code::DEPTH_TO_SPACE {
                let options = schema::DepthToSpaceOptions::create(
                    fbb,
                    &schema::DepthToSpaceOptionsArgs { block_size: 2 },
                );
                return (BuiltinOptions::DepthToSpaceOptions, options.as_union_value());
            }
            let options =
                schema::SpaceToDepthOptions::create(fbb, &schema::SpaceToDepthOptionsArgs { block_size: 2 });
            (BuiltinOptions::SpaceToDepthOptions, options.as_union_value())
        });
        check(&format!("{code:?}"), &net.ends(&[x], &[y]));
    }
    let mut net = Net::default();
    let axis = net.constant(I32, &[], None, integers(&[3]));
    let x = net.value(F32, &[1, 4, 6, 8], None);
    let halves = [net.value(F32, &[1, 4, 6, 4], None), net.value(F32, &[1, 4, 6, 4], None)];
    net.step_with(Code::SPLIT, &[axis, x], &halves, |fbb| {
        let options = schema::SplitOptions::create(fbb, &schema::SplitOptionsArgs { num_splits: 2 });
        (BuiltinOptions::SplitOptions, options.as_union_value())
    });
    check("SPLIT", &net.ends(&[x], &halves));
}

#[test]
fn inputs_and_outputs_have_the_names_and_the_order_that_litert_gives_them() {
    let mut net = Net::default();
    let (a, b) = (net.value(F32, &[1, 4], None), net.value(F32, &[1, 6], None));
    let (y, z) = (net.value(F32, &[1, 4], None), net.value(F32, &[1, 6], None));
    net.step(Code::RELU, &[a], y);
    net.step(Code::RELU6, &[b], z);
    let net = net.ends(&[a, b], &[y, z]);
    // The signature has both the other way around.
    let net = net.signature(&[("my_b", 1), ("my_a", 0)], &[("output_1", 3), ("output_0", 2)]);
    let Some((onnx, litert)) = back_ends() else { return };
    let converted = tflite_to_onnx(&net.file()).unwrap();
    let ours = onnx.load(&order(Format::Onnx, &converted.onnx)).unwrap();
    let reference = litert.load(&order(Format::Tflite, &net.file())).unwrap();
    assert_eq!(ours.describe().inputs, reference.describe().inputs);
    assert_eq!(ours.describe().outputs, reference.describe().outputs);
    assert!(
        ours.describe().inputs.iter().any(|port| port.name == "my_a" && port.shape == [Some(1), Some(4)])
    );
    check("a net with a signature", &net);
}

#[test]
fn a_quantised_net_that_ends_in_real_numbers_tells_its_step() {
    let mut net = Net::default();
    let x = net.value(I8, &[1, 8], scale(0.05, 3));
    let between = net.value(I8, &[1, 8], scale(0.02, -5));
    let y = net.value(F32, &[1, 8], None);
    net.step(Code::LOGISTIC, &[x], between);
    net.step(Code::DEQUANTIZE, &[between], y);
    let converted = tflite_to_onnx(&net.ends(&[x], &[y]).file()).unwrap();
    assert_eq!(converted.steps, [Some(0.02)]);
}

// === Bad input ===

#[test]
fn an_axis_of_scales_below_zero_is_no_axis_or_is_refused() {
    let net = |scales: Scales| {
        let mut net = Net::default();
        let x = net.value(F32, &[1, 4], None);
        let w = net.constant(I8, &[1, 4], Some(scales), noise(4, 1));
        let real = net.value(F32, &[1, 4], None);
        let y = net.value(F32, &[1, 4], None);
        net.step(Code::DEQUANTIZE, &[w], real);
        net.step_with(Code::ADD, &[x, real], &[y], |fbb| {
            let options = schema::AddOptions::create(fbb, &schema::AddOptionsArgs::default());
            (BuiltinOptions::AddOptions, options.as_union_value())
        });
        net.ends(&[x], &[y]).file()
    };
    tflite_to_onnx(&net(Scales(vec![0.5], vec![0], -1))).unwrap();
    let error = tflite_to_onnx(&net(Scales(vec![0.5; 4], vec![0; 4], -1))).unwrap_err().to_string();
    assert_eq!(error, "tensor 1 (\"tensor1\"): it has 4 scales for the axis -1");
}

#[test]
fn a_signature_of_other_tensors_than_go_in_and_come_out_is_refused_before_litert_sees_it() {
    let Ok(litert) = LiteRt::find() else { return };
    for (inputs, outputs) in [
        ([("a", 7), ("b", 1)], [("y", 2), ("z", 3)]),
        ([("a", 0), ("b", 2)], [("y", 2), ("z", 3)]),
        ([("a", 0), ("b", 1)], [("y", 2), ("z", 0)]),
        ([("a", 0), ("b", 0)], [("y", 2), ("z", 3)]),
        ([("a", 0), ("a", 1)], [("y", 2), ("z", 3)]),
    ] {
        let mut net = Net::default();
        let [a, b, y, z] = [0; 4].map(|_| net.value(F32, &[1, 4], None));
        net.step(Code::RELU, &[a], y);
        net.step(Code::RELU6, &[b], z);
        let file = net.ends(&[a, b], &[y, z]).signature(&inputs, &outputs).file();
        let error = litert.load(&order(Format::Tflite, &file)).unwrap_err().to_string();
        assert!(error.contains("a signature names other tensors"), "{error}");
    }
}

#[test]
fn an_operator_that_is_not_known_is_named_with_its_place() {
    let mut net = Net::default();
    let x = net.value(F32, &[1, 4], None);
    let between = net.value(F32, &[1, 4], None);
    let y = net.value(F32, &[1, 4], None);
    net.step(Code::RELU, &[x], between);
    net.step(Code::COS, &[between], y);
    let error = tflite_to_onnx(&net.ends(&[x], &[y]).file()).unwrap_err();
    assert!(matches!(error, ConvertError::Unsupported { index: 1, .. }) && !error.is_damage());
    assert_eq!(
        error.to_string(),
        "operator 1 (COS) of subgraph 0 is not converted: the converter does not know it"
    );
}

#[test]
fn a_graph_that_goes_round_is_refused() {
    let mut net = Net::default();
    let x = net.value(F32, &[1, 4], None);
    let one = net.value(F32, &[1, 4], None);
    let other = net.value(F32, &[1, 4], None);
    net.step(Code::ADD, &[x, other], one);
    net.step(Code::RELU, &[one], other);
    let error = tflite_to_onnx(&net.ends(&[x], &[other]).file()).unwrap_err().to_string();
    assert_eq!(error, "tensor 2 (\"tensor2\"): it is read before it is written");
}

#[test]
fn constants_of_another_size_than_their_shape_are_refused() {
    let mut net = Net::default();
    let x = net.value(F32, &[1, 4, 4, 2], None);
    let w = net.constant(F32, &[1 << 14, 1 << 10, 1 << 10, 2], None, reals(8, 1));
    let y = net.value(F32, &[1, 4, 4, 1 << 14], None);
    net.step_with(Code::CONV_2D, &[x, w, -1], &[y], conv(Padding::SAME, 1, 1, Fused::NONE));
    let error = tflite_to_onnx(&net.ends(&[x], &[y]).file()).unwrap_err();
    assert!(matches!(error, ConvertError::Size { .. } | ConvertError::Tensor { .. }), "{error}");
}

#[test]
fn what_is_no_tensorflow_lite_file_is_refused_by_converter_and_litert() {
    let litert = LiteRt::find();
    for file in [&b""[..], b"TFL3", b"\0\0\0\0TFL3", b"\x08\0\0\0ONNX and more of it", &[0xff; 64]] {
        let error = tflite_to_onnx(file).unwrap_err();
        assert!(error.is_damage() && error.to_string().contains("not a TensorFlow Lite file"), "{error}");
        if let Ok(litert) = &litert {
            let error = litert.load(&order(Format::Tflite, file)).unwrap_err().to_string();
            assert!(error.contains("not a TensorFlow Lite file"), "{error}");
        }
        let error = Tract.load(&order(Format::Tflite, file)).unwrap_err().to_string();
        assert!(error.contains("not a TensorFlow Lite file"), "{error}");
    }
}

#[test]
fn a_file_on_which_tract_s_reader_panics_is_refused_as_any_other() {
    let mut net = Net::default();
    let (x, y) = (net.value(F32, &[1, 4], None), net.value(F32, &[1, 4], None));
    net.step(Code::RELU, &[], y);
    let file = net.ends(&[x], &[y]).file();
    let error = Tract.load(&order(Format::Tflite, &file)).unwrap_err().to_string();
    assert_eq!(error, "tract's reader of such files failed");
}

/// What is done to a byte or four.
#[derive(Debug, Clone, Copy)]
enum Change {
    Byte(u8),
    Bit(u8),
    Ones,
    Number(u32),
}

fn changes() -> impl Strategy<Value = Vec<(usize, Change)>> {
    let change = prop_oneof![
        any::<u8>().prop_map(Change::Byte),
        (0_u8..8).prop_map(Change::Bit),
        Just(Change::Ones),
        (0_u32..5000).prop_map(Change::Number),
    ];
    proptest::collection::vec((any::<usize>(), change), 1..12)
}

fn changed(file: &[u8], cut: Option<usize>, changes: &[(usize, Change)]) -> Vec<u8> {
    let mut file = file.to_vec();
    if let Some(cut) = cut {
        file.truncate(cut % file.len());
    }
    for (place, change) in changes {
        if file.len() < 8 {
            break;
        }
        // The tables are near both ends, the numbers between: most changes hit tables.
        let (length, near) = (file.len() - 4, file.len().min(40_000) - 4);
        let place = match place % 5 {
            0 => place / 5 % length,
            1 | 2 => place / 5 % near,
            _ => length - 1 - place / 5 % near.min(length),
        };
        match change {
            Change::Byte(byte) => file[place] = *byte,
            Change::Bit(bit) => file[place] ^= 1 << bit,
            Change::Ones => file[place..place + 4].fill(0xff),
            Change::Number(number) => file[place..place + 4].copy_from_slice(&number.to_le_bytes()),
        }
    }
    file
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// However a file is damaged, there is an answer, and it is not out of proportion.
    #[test]
    fn a_damaged_file_never_ends_the_converter(which in 0_usize..3, cut in proptest::option::weighted(0.2, any::<usize>()), changes in changes()) {
        let name = ["face/face_detection_short_range.tflite", "face/face_detection_full_range_sparse.tflite", "classify/mobilenet_v2_1.0_224_quant.tflite"][which];
        static FILES: std::sync::OnceLock<Vec<Option<Vec<u8>>>> = std::sync::OnceLock::new();
        let files = FILES.get_or_init(|| {
            ["face/face_detection_short_range.tflite", "face/face_detection_full_range_sparse.tflite", "classify/mobilenet_v2_1.0_224_quant.tflite"].iter().map(|name| shared(name)).collect()
        });
        let Some(file) = &files[which] else { return Ok(()) };
        let file = changed(file, cut, &changes);
        match tflite_to_onnx(&file) {
            Ok(converted) => prop_assert!(converted.onnx.len() < 20 * file.len() + (2 << 20), "{name}"),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
