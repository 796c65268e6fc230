//! Makes small TensorFlow Lite files, of one operator or a few.

use flatbuffers::{FlatBufferBuilder, UnionWIPOffset, WIPOffset};
use tract_tflite::tflite::{self as schema, BuiltinOperator, BuiltinOptions, TensorType};

/// What makes an operator's options.
type Options = Box<dyn Fn(&mut FlatBufferBuilder<'_>) -> (BuiltinOptions, WIPOffset<UnionWIPOffset>)>;

/// Scales, zero points, and the axis they go along.
#[derive(Clone, Default)]
pub(crate) struct Scales(pub(crate) Vec<f32>, pub(crate) Vec<i64>, pub(crate) i32);

struct Part {
    name: String,
    shape: Vec<i32>,
    kind: TensorType,
    scales: Option<Scales>,
    data: Vec<u8>,
}

struct Step {
    code: BuiltinOperator,
    inputs: Vec<i32>,
    outputs: Vec<i32>,
    options: Option<Options>,
}

/// Names and the tensors that they are for.
type Names = Vec<(&'static str, u32)>;

/// A file while it is made.
#[derive(Default)]
pub(crate) struct Net {
    parts: Vec<Part>,
    steps: Vec<Step>,
    ends: (Vec<i32>, Vec<i32>),
    signature: Option<(Names, Names)>,
}

/// One scale for all.
pub(crate) fn scale(scale: f32, zero_point: i64) -> Option<Scales> {
    Some(Scales(vec![scale], vec![zero_point], 0))
}

/// Bytes without order, the same each time.
pub(crate) fn noise(count: usize, mut seed: u64) -> Vec<u8> {
    let next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 56) as u8
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// Numbers from -1 to 1 as they are stored.
pub(crate) fn reals(count: usize, seed: u64) -> Vec<u8> {
    noise(count, seed).into_iter().flat_map(|byte| (f32::from(byte) / 127.5 - 1.0).to_le_bytes()).collect()
}

/// Whole numbers as they are stored.
pub(crate) fn integers(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

impl Net {
    /// A tensor that is computed.
    pub(crate) fn value(&mut self, kind: TensorType, shape: &[i32], scales: Option<Scales>) -> i32 {
        self.constant(kind, shape, scales, Vec::new())
    }

    /// A tensor that is stored.
    pub(crate) fn constant(
        &mut self,
        kind: TensorType,
        shape: &[i32],
        scales: Option<Scales>,
        data: Vec<u8>,
    ) -> i32 {
        let name = format!("tensor{}", self.parts.len());
        self.parts.push(Part { name, shape: shape.to_vec(), kind, scales, data });
        self.parts.len() as i32 - 1
    }

    /// An operator without options.
    pub(crate) fn step(&mut self, code: BuiltinOperator, inputs: &[i32], output: i32) {
        self.steps.push(Step { code, inputs: inputs.to_vec(), outputs: vec![output], options: None });
    }

    /// An operator with options.
    pub(crate) fn step_with(
        &mut self,
        code: BuiltinOperator,
        inputs: &[i32],
        outputs: &[i32],
        options: impl Fn(&mut FlatBufferBuilder<'_>) -> (BuiltinOptions, WIPOffset<UnionWIPOffset>) + 'static,
    ) {
        let (inputs, outputs) = (inputs.to_vec(), outputs.to_vec());
        self.steps.push(Step { code, inputs, outputs, options: Some(Box::new(options)) });
    }

    /// What goes in and what comes out.
    pub(crate) fn ends(mut self, inputs: &[i32], outputs: &[i32]) -> Self {
        self.ends = (inputs.to_vec(), outputs.to_vec());
        self
    }

    /// Other names for what goes in and what comes out, as current exports have them.
    pub(crate) fn signature(
        mut self,
        inputs: &[(&'static str, u32)],
        outputs: &[(&'static str, u32)],
    ) -> Self {
        self.signature = Some((inputs.to_vec(), outputs.to_vec()));
        self
    }

    /// The file.
    pub(crate) fn file(&self) -> Vec<u8> {
        let mut builder = FlatBufferBuilder::new();
        let fbb = &mut builder;
        let empty = schema::Buffer::create(fbb, &schema::BufferArgs::default());
        let mut buffers = vec![empty];
        let mut tensors = Vec::new();
        for part in &self.parts {
            let mut buffer = 0;
            if !part.data.is_empty() {
                let data = fbb.create_vector(&part.data);
                buffer = buffers.len() as u32;
                let args = schema::BufferArgs { data: Some(data), ..Default::default() };
                buffers.push(schema::Buffer::create(fbb, &args));
            }
            let quantization = part.scales.as_ref().map(|Scales(scales, zero_points, axis)| {
                let scale = Some(fbb.create_vector(scales));
                let zero_point = Some(fbb.create_vector(zero_points));
                let args = schema::QuantizationParametersArgs {
                    scale,
                    zero_point,
                    quantized_dimension: *axis,
                    ..Default::default()
                };
                schema::QuantizationParameters::create(fbb, &args)
            });
            let shape = Some(fbb.create_vector(&part.shape));
            let name = Some(fbb.create_string(&part.name));
            let args = schema::TensorArgs {
                shape,
                type_: part.kind,
                buffer,
                name,
                quantization,
                ..Default::default()
            };
            tensors.push(schema::Tensor::create(fbb, &args));
        }
        let mut codes = Vec::new();
        let mut operators = Vec::new();
        for (index, step) in self.steps.iter().enumerate() {
            let args = schema::OperatorCodeArgs {
                builtin_code: step.code,
                deprecated_builtin_code: step.code.0.min(127) as i8,
                version: 1,
                ..Default::default()
            };
            codes.push(schema::OperatorCode::create(fbb, &args));
            let options = step.options.as_ref().map(|options| options(fbb));
            let inputs = Some(fbb.create_vector(&step.inputs));
            let outputs = Some(fbb.create_vector(&step.outputs));
            let args = schema::OperatorArgs {
                opcode_index: index as u32,
                inputs,
                outputs,
                builtin_options_type: options.map_or(BuiltinOptions::NONE, |(kind, _)| kind),
                builtin_options: options.map(|(_, options)| options),
                ..Default::default()
            };
            operators.push(schema::Operator::create(fbb, &args));
        }
        let tensors = Some(fbb.create_vector(&tensors));
        let operators = Some(fbb.create_vector(&operators));
        let inputs = Some(fbb.create_vector(&self.ends.0));
        let outputs = Some(fbb.create_vector(&self.ends.1));
        let args = schema::SubGraphArgs { tensors, inputs, outputs, operators, ..Default::default() };
        let graph = schema::SubGraph::create(fbb, &args);
        let subgraphs = Some(fbb.create_vector(&[graph]));
        let operator_codes = Some(fbb.create_vector(&codes));
        let buffers = Some(fbb.create_vector(&buffers));
        let signature_defs = self.signature.as_ref().map(|(inputs, outputs)| {
            let mut names = |list: &Names| {
                let names = list.iter().map(|(name, tensor_index)| {
                    let name = Some(fbb.create_string(name));
                    schema::TensorMap::create(
                        fbb,
                        &schema::TensorMapArgs { name, tensor_index: *tensor_index },
                    )
                });
                let names: Vec<_> = names.collect();
                Some(fbb.create_vector(&names))
            };
            let (inputs, outputs) = (names(inputs), names(outputs));
            let signature_key = Some(fbb.create_string("serving_default"));
            let args = schema::SignatureDefArgs { inputs, outputs, signature_key, ..Default::default() };
            let signature = schema::SignatureDef::create(fbb, &args);
            fbb.create_vector(&[signature])
        });
        let args = schema::ModelArgs {
            version: 3,
            operator_codes,
            subgraphs,
            buffers,
            signature_defs,
            ..Default::default()
        };
        let model = schema::Model::create(fbb, &args);
        schema::finish_model_buffer(fbb, model);
        builder.finished_data().to_vec()
    }
}
