//! What a `TensorFlow` Lite file says, checked once so that nobody needs to check it again.

use std::collections::{HashMap, HashSet};

use flatbuffers::VerifierOptions;
use tract_tflite::tflite as schema;

use crate::Element;

use super::ConvertError;

/// Tensors of more axes are not known to `TensorFlow` Lite either.
const MOST_AXES: usize = 8;
/// A name is a name up to here; a hostile file has one of a megabyte for each tensor.
const LONGEST_NAME: usize = 200;

/// A file with one graph.
#[derive(Debug)]
pub(super) struct Source<'a> {
    /// What the file says of itself.
    pub(super) description: String,
    pub(super) tensors: Vec<SourceTensor<'a>>,
    pub(super) operators: Vec<Operator<'a>>,
    /// Indices of tensors; all are valid.
    pub(super) inputs: Vec<usize>,
    /// Indices of tensors; all are valid.
    pub(super) outputs: Vec<usize>,
    /// The names by which the inputs are known outside, as many.
    pub(super) input_names: Vec<String>,
    /// The names by which the outputs are known outside, as many.
    pub(super) output_names: Vec<String>,
}

/// A tensor as the file describes it.
#[derive(Debug)]
pub(super) struct SourceTensor<'a> {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    /// `None` for a type that is not converted.
    pub(super) element: Option<Element>,
    pub(super) quantisation: Option<Quantisation>,
    /// The bytes of a constant.
    pub(super) data: Option<&'a [u8]>,
    pub(super) sparsity: Option<schema::SparsityParameters<'a>>,
}

/// `real = (value - zero_point) * scale`, with one pair, or one for each index of an axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Quantisation {
    /// At least one, each finite and above zero.
    pub(super) scales: Vec<f32>,
    /// As many.
    pub(super) zero_points: Vec<i64>,
    pub(super) axis: usize,
}

/// An operator.
#[derive(Debug)]
pub(super) struct Operator<'a> {
    pub(super) index: usize,
    pub(super) code: schema::BuiltinOperator,
    /// `CONV_2D`; of a custom operator its own name.
    pub(super) name: String,
    /// Indices of tensors, all valid; `None` where the operator does without.
    pub(super) inputs: Vec<Option<usize>>,
    /// Indices of tensors; all are valid.
    pub(super) outputs: Vec<usize>,
    pub(super) options: schema::Operator<'a>,
}

// === impl Source ===

impl<'a> Source<'a> {
    /// A file with exactly one graph.
    pub(super) fn read(file: &'a [u8]) -> Result<Self, ConvertError> {
        let model = open(file)?;
        let graphs = model.subgraphs().into_iter().flatten();
        let mut graphs: Vec<_> = graphs.take(2).collect();
        match (graphs.pop(), graphs.pop()) {
            (Some(graph), None) => Self::graph(&model, &graph),
            (None, _) => Err(ConvertError::File("it has no subgraph".into())),
            (Some(_), Some(_)) => Err(ConvertError::Subgraphs),
        }
    }

    fn graph(model: &schema::Model<'a>, graph: &schema::SubGraph<'a>) -> Result<Self, ConvertError> {
        let wrong = |problem: &str| ConvertError::File(problem.into());
        let tensors = graph.tensors().into_iter().flatten().enumerate();
        let tensors: Vec<_> = tensors
            .map(|(index, tensor)| SourceTensor::read(model, index, &tensor))
            .collect::<Result<_, _>>()?;
        let count = tensors.len();
        let valid = |index: i32| usize::try_from(index).ok().filter(|index| *index < count);
        let ports = |list: Option<flatbuffers::Vector<'a, i32>>| {
            list.into_iter().flatten().map(valid).collect::<Option<Vec<_>>>()
        };
        let ends = "its inputs or outputs are tensors that are not there";
        let inputs = ports(graph.inputs()).ok_or_else(|| wrong(ends))?;
        let outputs = ports(graph.outputs()).ok_or_else(|| wrong(ends))?;
        if inputs.is_empty() || outputs.is_empty() {
            return Err(wrong("it has no input or no output"));
        }
        let operators = graph.operators().into_iter().flatten().enumerate();
        let operators: Vec<_> = operators
            .map(|(index, operator)| Operator::read(model, count, index, operator))
            .collect::<Result<_, _>>()?;
        let description = clipped(model.description().unwrap_or_default());
        // LiteRT serves the first signature, and calls the inputs and outputs what that calls them.
        let signature = model.signature_defs().filter(|all| !all.is_empty()).map(|all| all.get(0));
        let signed = signature.as_ref();
        let input_names = names(&tensors, &inputs, signed.and_then(schema::SignatureDef::inputs));
        let output_names = names(&tensors, &outputs, signed.and_then(schema::SignatureDef::outputs));
        Ok(Self { description, tensors, operators, inputs, outputs, input_names, output_names })
    }

    pub(super) fn tensor(&self, index: usize) -> Option<&SourceTensor<'a>> {
        self.tensors.get(index)
    }
}

/// What a signature calls these tensors; one that it does not name keeps the name it has in the graph.
fn names(tensors: &[SourceTensor<'_>], ports: &[usize], signature: Option<Signed<'_>>) -> Vec<String> {
    let mut given = HashMap::new();
    for entry in signature.into_iter().flatten() {
        let name = clipped(entry.name().unwrap_or_default());
        given.entry(entry.tensor_index() as usize).or_insert(name);
    }
    let own = |port: &usize| tensors.get(*port).map(|tensor| tensor.name.clone()).unwrap_or_default();
    // A tensor that is named twice has the second time its own name: names are not given twice.
    ports.iter().map(|port| given.remove(port).unwrap_or_else(|| own(port))).collect()
}

/// The inputs or outputs of a signature.
type Signed<'a> = flatbuffers::Vector<'a, flatbuffers::ForwardsUOffset<schema::TensorMap<'a>>>;

/// Do a file's signatures name what goes into their graphs and comes out of them? LiteRT ends the whole process where
/// they name other tensors, or two by one name.
fn check_signatures(model: &schema::Model<'_>, ends: &[[Vec<usize>; 2]]) -> Result<(), ConvertError> {
    for signature in model.signature_defs().into_iter().flatten() {
        let graph = ends.get(signature.subgraph_index() as usize);
        let [inputs, outputs] =
            graph.ok_or_else(|| ConvertError::File("a signature is of no subgraph".into()))?;
        if !names_all(inputs, signature.inputs()) || !names_all(outputs, signature.outputs()) {
            let problem = "a signature names other tensors than go in and come out, or two by one name";
            return Err(ConvertError::File(problem.into()));
        }
    }
    Ok(())
}

/// Does a signature name exactly these, each by another name?
fn names_all(ports: &[usize], signature: Option<Signed<'_>>) -> bool {
    let mut names = HashSet::new();
    let mut found = Vec::new();
    for entry in signature.into_iter().flatten() {
        found.push(entry.tensor_index() as usize);
        if !names.insert(entry.name().unwrap_or_default()) {
            return false;
        }
    }
    let mut ports = ports.to_vec();
    ports.sort_unstable();
    found.sort_unstable();
    ports == found
}

/// Does a file compute with bytes that stand for real numbers? Of such a file different libraries, and different
/// processors, give answers that are some bytes apart.
pub(crate) fn is_quantised(file: &[u8]) -> bool {
    let computed = |tensor: &SourceTensor<'_>| {
        tensor.data.is_none()
            && tensor.quantisation.is_some()
            && matches!(tensor.element, Some(Element::U8 | Element::I8))
    };
    Source::read(file).is_ok_and(|source| source.tensors.iter().any(computed))
}

/// Are all parts of a file where it says they are, and all indices those of something? Says nothing of whether the
/// operators make sense.
pub(crate) fn check(file: &[u8]) -> Result<(), ConvertError> {
    let model = open(file)?;
    if model.subgraphs().is_none_or(|graphs| graphs.is_empty()) {
        return Err(ConvertError::File("it has no subgraph".into()));
    }
    let mut ends = Vec::new();
    for graph in model.subgraphs().into_iter().flatten() {
        let source = Source::graph(&model, &graph)?;
        ends.push([source.inputs.clone(), source.outputs.clone()]);
        for (index, tensor) in source.tensors.iter().enumerate() {
            let (Some(data), Some(element), None) = (tensor.data, tensor.element, &tensor.sparsity) else {
                continue;
            };
            if data.len() != tensor.count() * element.size() {
                let problem = format!("it has {} bytes for the shape {:?}", data.len(), tensor.shape);
                return Err(ConvertError::Tensor { index, name: tensor.name.clone(), problem });
            }
        }
    }
    check_signatures(&model, &ends)
}

/// A file whose offsets were followed, each to its end.
fn open(file: &[u8]) -> Result<schema::Model<'_>, ConvertError> {
    // What several places of the file point at is looked at once for each of them: the limits keep a small file
    // from being endless.
    let options = VerifierOptions {
        max_depth: 16,
        max_tables: 300_000,
        max_apparent_size: file.len().saturating_mul(4).saturating_add(1 << 20),
        ..VerifierOptions::default()
    };
    if file.get(4..8) != Some(b"TFL3") {
        return Err(ConvertError::File("it does not carry the mark TFL3".into()));
    }
    schema::root_as_model_with_opts(&options, file)
        .map_err(|error| ConvertError::File(error.to_string().trim().replace('\n', " ")))
}

fn clipped(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(LONGEST_NAME).collect()
}

// === impl SourceTensor ===

impl<'a> SourceTensor<'a> {
    fn read(
        model: &schema::Model<'a>,
        index: usize,
        tensor: &schema::Tensor<'a>,
    ) -> Result<Self, ConvertError> {
        let name = clipped(tensor.name().unwrap_or_default());
        let wrong = |problem: String| ConvertError::Tensor { index, name: name.clone(), problem };
        let shape = tensor.shape().into_iter().flatten();
        let shape: Vec<usize> = shape
            .take(MOST_AXES + 1)
            .map(|length| {
                usize::try_from(length).map_err(|_| wrong(format!("its shape has the length {length}")))
            })
            .collect::<Result<_, _>>()?;
        if shape.len() > MOST_AXES {
            return Err(wrong(format!("it has more than {MOST_AXES} axes")));
        }
        if shape
            .iter()
            .try_fold(1_usize, |all, length| all.checked_mul(*length))
            .is_none_or(|all| all > 1 << 40)
        {
            return Err(wrong(format!("its shape {shape:?} is out of all proportion")));
        }
        let quantisation = quantisation(tensor, &shape).map_err(wrong)?;
        let buffer = model.buffers().filter(|buffers| (tensor.buffer() as usize) < buffers.len());
        let buffer = buffer.map(|buffers| buffers.get(tensor.buffer() as usize));
        let data =
            buffer.and_then(|buffer| buffer.data()).map(|data| data.bytes()).filter(|data| !data.is_empty());
        Ok(Self {
            shape,
            element: element(tensor.type_()),
            quantisation,
            data,
            sparsity: tensor.sparsity(),
            name,
        })
    }

    /// How many values it has.
    pub(super) fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

fn element(element: schema::TensorType) -> Option<Element> {
    Some(match element {
        schema::TensorType::FLOAT32 => Element::F32,
        schema::TensorType::FLOAT16 => Element::F16,
        schema::TensorType::INT32 => Element::I32,
        schema::TensorType::INT64 => Element::I64,
        schema::TensorType::UINT8 => Element::U8,
        schema::TensorType::INT8 => Element::I8,
        schema::TensorType::INT16 => Element::I16,
        schema::TensorType::BOOL => Element::Bool,
        _ => return None,
    })
}

fn quantisation(tensor: &schema::Tensor<'_>, shape: &[usize]) -> Result<Option<Quantisation>, String> {
    let Some(parameters) = tensor.quantization() else { return Ok(None) };
    let scales = parameters.scale().into_iter().flatten();
    // Lists longer than any axis are wrong; they are not copied.
    let most = shape.iter().copied().max().unwrap_or(1).max(1);
    let scales: Vec<f32> = scales.take(most + 1).collect();
    if scales.is_empty() {
        return Ok(None);
    }
    if !scales.iter().all(|scale| scale.is_finite() && *scale > 0.0) {
        return Err("its scale is not a number above zero".into());
    }
    let mut zero_points: Vec<i64> = parameters.zero_point().into_iter().flatten().take(most + 1).collect();
    if zero_points.is_empty() {
        zero_points = vec![0; scales.len()];
    }
    if zero_points.len() != scales.len() {
        return Err(format!("it has {} scales and {} zero points", scales.len(), zero_points.len()));
    }
    let said = parameters.quantized_dimension();
    let axis = match usize::try_from(said) {
        Ok(axis) => axis,
        // One scale goes along no axis, and some writers say so.
        Err(_) if scales.len() == 1 => 0,
        Err(_) => return Err(format!("it has {} scales for the axis {said}", scales.len())),
    };
    if scales.len() > 1 && shape.get(axis) != Some(&scales.len()) {
        return Err(format!("it has {} scales for the axis {axis} of {shape:?}", scales.len()));
    }
    Ok(Some(Quantisation { scales, zero_points, axis }))
}

// === impl Operator ===

impl<'a> Operator<'a> {
    fn read(
        model: &schema::Model<'a>,
        tensors: usize,
        index: usize,
        operator: schema::Operator<'a>,
    ) -> Result<Self, ConvertError> {
        let code = model.operator_codes().filter(|codes| (operator.opcode_index() as usize) < codes.len());
        let Some(code) = code.map(|codes| codes.get(operator.opcode_index() as usize)) else {
            return Err(ConvertError::File(format!("operator {index} has a code that is not there")));
        };
        // Files from before there were more than 127 operators have the code in the older field only.
        let older = i32::from(code.deprecated_builtin_code());
        let builtin = schema::BuiltinOperator(code.builtin_code().0.max(older));
        let name = match (builtin, builtin.variant_name()) {
            (schema::BuiltinOperator::CUSTOM, _) => {
                format!("custom {}", clipped(code.custom_code().unwrap_or("without a name")))
            }
            (_, Some(name)) => name.to_owned(),
            (other, None) => format!("number {}", other.0),
        };
        let wrong = || ConvertError::Operator {
            index,
            operator: name.clone(),
            problem: "it uses a tensor that is not there".into(),
        };
        let valid = |tensor: i32| usize::try_from(tensor).ok().filter(|tensor| *tensor < tensors);
        let input =
            |tensor: i32| if tensor == -1 { Ok(None) } else { valid(tensor).map(Some).ok_or_else(wrong) };
        let inputs = operator.inputs().into_iter().flatten().map(input).collect::<Result<_, _>>()?;
        let outputs = operator.outputs().into_iter().flatten();
        let outputs = outputs.map(|tensor| valid(tensor).ok_or_else(wrong)).collect::<Result<_, _>>()?;
        Ok(Self { index, code: builtin, name, inputs, outputs, options: operator })
    }

    /// The converter does not know something about it.
    pub(super) fn unsupported(&self, problem: impl Into<String>) -> ConvertError {
        ConvertError::Unsupported { index: self.index, operator: self.name.clone(), problem: problem.into() }
    }

    /// It contradicts itself.
    pub(super) fn wrong(&self, problem: impl Into<String>) -> ConvertError {
        ConvertError::Operator { index: self.index, operator: self.name.clone(), problem: problem.into() }
    }
}
