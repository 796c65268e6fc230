//! What is known while a file is converted: each tensor's value in the new graph, in which order of axes.

use std::{borrow::Cow, collections::HashMap};

use tract_onnx::pb::tensor_proto::DataType;

use crate::Element;

use super::{
    ConvertError, Converted,
    constant::{Constant, transposed},
    graph::{Attribute, Graph},
    source::{Operator, Source, SourceTensor},
};

/// Batch, height, width, channels to batch, channels, height, width.
pub(super) const TO_NCHW: [usize; 4] = [0, 3, 1, 2];
/// And back.
pub(super) const TO_NHWC: [usize; 4] = [0, 2, 3, 1];

/// The order of a value's axes in the new graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Axes {
    /// As in the file: channels last.
    Own,
    /// Channels second; of values with four axes only.
    Nchw,
}

/// What a value is made of in the new graph.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// Real numbers, 32 bits.
    Real,
    /// Bytes without sign that stand for real numbers.
    Quantised(Scale),
    /// Anything else, as it is in the file.
    Other(DataType),
}

/// `real = (byte - zero_point) * scale`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    pub(super) scale: f32,
    pub(super) zero_point: u8,
}

/// A tensor's value in the new graph.
#[derive(Debug, Clone)]
pub(super) struct Value {
    pub(super) shape: Vec<usize>,
    pub(super) kind: Kind,
    /// Its name in the order of the file, where somebody has made it.
    own: Option<String>,
    /// Its name with channels second.
    nchw: Option<String>,
    /// It is this tensor with zeros around.
    pub(super) padded: Option<Padded>,
}

/// A tensor with zeros around its height and width.
#[derive(Debug, Clone, Copy)]
pub(super) struct Padded {
    /// The tensor.
    pub(super) tensor: usize,
    /// Rows above, columns to the left, rows below, columns to the right.
    pub(super) edges: [i64; 4],
}

/// What follows an operator within it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Activation {
    None,
    /// Not below, not above.
    Clamp(f32, f32),
    Tanh,
}

/// The state of a conversion.
#[derive(Debug)]
pub(super) struct Converter<'a, 'b> {
    pub(super) source: &'b Source<'a>,
    pub(super) graph: Graph,
    values: HashMap<usize, Value>,
    /// Constants that were computed from constants, by tensor.
    folded: HashMap<usize, Vec<u8>>,
    /// How many operators read a tensor.
    readers: HashMap<usize, usize>,
    /// The names of the graph's outputs.
    outputs: Vec<String>,
    notes: Vec<String>,
}

// === impl Converter ===

impl<'a, 'b> Converter<'a, 'b> {
    pub(super) fn new(source: &'b Source<'a>, file: usize) -> Result<Self, ConvertError> {
        let mut readers = HashMap::new();
        for tensor in source.operators.iter().flat_map(|operator| operator.inputs.iter().flatten()) {
            *readers.entry(*tensor).or_insert(0) += 1;
        }
        let graph = Graph::new(file);
        let mut converter = Self {
            source,
            graph,
            values: HashMap::new(),
            folded: HashMap::new(),
            readers,
            outputs: Vec::new(),
            notes: Vec::new(),
        };
        for (input, name) in source.inputs.iter().zip(&source.input_names) {
            converter.input(*input, name)?;
        }
        // Taken before anything within the graph can have them.
        for name in &source.output_names {
            let name = converter.graph.name(name);
            converter.outputs.push(name);
        }
        Ok(converter)
    }

    /// What the file says of a tensor.
    fn tensor(&self, index: usize) -> Result<&'b SourceTensor<'a>, ConvertError> {
        self.source.tensor(index).ok_or_else(|| ConvertError::File(format!("it has no tensor {index}")))
    }

    fn wrong(&self, index: usize, problem: impl Into<String>) -> ConvertError {
        let name = self.source.tensor(index).map(|tensor| tensor.name.clone()).unwrap_or_default();
        ConvertError::Tensor { index, name, problem: problem.into() }
    }

    fn unknown(&self, index: usize, problem: impl Into<String>) -> ConvertError {
        let name = self.source.tensor(index).map(|tensor| tensor.name.clone()).unwrap_or_default();
        ConvertError::Kind { index, name, problem: problem.into() }
    }

    /// Says a thing once.
    pub(super) fn note(&mut self, note: &str) {
        if !self.notes.iter().any(|said| said == note) {
            self.notes.push(note.to_owned());
        }
    }

    /// What a tensor is to be made of in the new graph.
    pub(super) fn kind(&self, index: usize) -> Result<Kind, ConvertError> {
        let tensor = self.tensor(index)?;
        let element = tensor.element.ok_or_else(|| self.unknown(index, "its type"))?;
        Ok(match (element, &tensor.quantisation) {
            (Element::F32 | Element::F16, _) => Kind::Real,
            (Element::U8 | Element::I8, Some(quantisation)) => {
                let [scale] = quantisation.scales.as_slice() else {
                    return Err(self.unknown(index, "it has a scale for each channel and is no weight"));
                };
                let zero_point = quantisation.zero_points.first().copied().unwrap_or_default();
                Kind::Quantised(
                    moved(element, *scale, zero_point).map_err(|problem| self.wrong(index, problem))?,
                )
            }
            (Element::U8, None) => Kind::Other(DataType::Uint8),
            (Element::I8, None) => Kind::Other(DataType::Int8),
            (Element::I32, None) => Kind::Other(DataType::Int32),
            (Element::I64, None) => Kind::Other(DataType::Int64),
            (Element::Bool, _) => Kind::Other(DataType::Bool),
            (_, Some(_)) => return Err(self.unknown(index, "it is quantised to more than 8 bits")),
            _ => return Err(self.unknown(index, "its type")),
        })
    }

    /// What a tensor's value is made of.
    pub(super) fn kind_of(&mut self, index: usize) -> Result<Kind, ConvertError> {
        if self.is_constant(index) { self.kind(index) } else { Ok(self.value(index)?.kind) }
    }

    /// Makes an input of the graph, with this name.
    fn input(&mut self, index: usize, wish: &str) -> Result<(), ConvertError> {
        let tensor = self.tensor(index)?;
        let kind = self.kind(index)?;
        if tensor.shape.contains(&0) || self.values.contains_key(&index) {
            return Err(self.wrong(index, "it is an input that is empty, or twice one"));
        }
        let data_type = match (kind, tensor.element) {
            (Kind::Quantised(_), Some(Element::I8)) => DataType::Int8,
            (Kind::Quantised(_), _) => DataType::Uint8,
            (Kind::Real, _) => DataType::Float,
            (Kind::Other(data_type), _) => data_type,
        };
        let mut name = self.graph.input(wish, data_type, &lengths(&tensor.shape));
        if let (Kind::Quantised(scale), DataType::Int8) = (kind, data_type) {
            let factor = self.graph.f32(scale.scale)?;
            let zero_point = self.graph.i8((scale.zero_point ^ 128).cast_signed())?;
            let real = self.graph.node("DequantizeLinear", &[&name, &factor, &zero_point], &[], &tensor.name);
            name = self.quantised(&real, scale, &tensor.name)?;
        }
        self.put(index, kind, Axes::Own, name)
    }

    /// Says what a tensor's value is.
    pub(super) fn put(
        &mut self,
        index: usize,
        kind: Kind,
        order: Axes,
        name: String,
    ) -> Result<(), ConvertError> {
        let shape = self.tensor(index)?.shape.clone();
        let (own, nchw) = match order {
            Axes::Own => (Some(name), None),
            Axes::Nchw => (None, Some(name)),
        };
        let value = Value { shape, kind, own, nchw, padded: None };
        if self.values.insert(index, value).is_some() {
            return Err(self.wrong(index, "it is written more than once"));
        }
        Ok(())
    }

    /// The same value under another tensor.
    pub(super) fn alias(&mut self, from: usize, to: usize) -> Result<(), ConvertError> {
        let value = self.value(from)?.clone();
        let shape = self.tensor(to)?.shape.clone();
        if self.values.insert(to, Value { shape, ..value }).is_some() {
            return Err(self.wrong(to, "it is written more than once"));
        }
        Ok(())
    }

    pub(super) fn set_padded(&mut self, index: usize, padded: Padded) {
        if let Some(value) = self.values.get_mut(&index) {
            value.padded = Some(padded);
        }
    }

    /// The bytes of a constant tensor.
    pub(super) fn constant(&self, index: usize) -> Result<Option<Constant<'a, '_>>, ConvertError> {
        let tensor = self.tensor(index)?;
        let bytes = match (self.folded.get(&index), tensor.data) {
            (Some(bytes), _) => Cow::Borrowed(bytes.as_slice()),
            (None, Some(_)) if tensor.sparsity.is_some() => {
                self.graph.room(tensor.count().saturating_mul(8))?;
                Cow::Owned(super::sparse::densify(tensor).map_err(|problem| self.wrong(index, problem))?)
            }
            (None, Some(data)) => Cow::Borrowed(data),
            (None, None) => return Ok(None),
        };
        Constant::new(tensor, bytes).map(Some).map_err(|problem| self.wrong(index, problem))
    }

    /// A constant that was computed here.
    pub(super) fn fold(&mut self, index: usize, bytes: Vec<u8>) -> Result<(), ConvertError> {
        self.graph.room(self.folded.values().map(Vec::len).sum::<usize>().saturating_add(bytes.len()))?;
        self.folded.insert(index, bytes);
        Ok(())
    }

    /// Whole numbers that an operator needs to know now.
    pub(super) fn integers(&self, operator: &Operator<'_>, index: usize) -> Result<Vec<i64>, ConvertError> {
        let constant = self.constant(index)?;
        let constant =
            constant.ok_or_else(|| operator.unsupported("what it needs to know now is computed"))?;
        constant.integers().ok_or_else(|| operator.wrong("it has no whole numbers where it needs some"))
    }

    /// A tensor's value, which must be there by now; a constant is made on the way.
    pub(super) fn value(&mut self, index: usize) -> Result<&Value, ConvertError> {
        if !self.values.contains_key(&index) {
            let (kind, name) = self.constant_in(index, Axes::Own)?;
            self.put(index, kind, Axes::Own, name)?;
        }
        self.values.get(&index).ok_or_else(|| self.wrong(index, "it is read before it is written"))
    }

    pub(super) fn is_constant(&self, index: usize) -> bool {
        self.folded.contains_key(&index)
            || self.source.tensor(index).is_some_and(|tensor| tensor.data.is_some())
    }

    /// Writes a constant in this order of axes, with so many axes.
    fn constant_in(&mut self, index: usize, order: Axes) -> Result<(Kind, String), ConvertError> {
        let tensor = self.tensor(index)?;
        let kind = self.kind(index)?;
        self.graph.room(tensor.count().saturating_mul(4))?;
        let Some(constant) = self.constant(index)? else {
            return Err(self.wrong(index, "it is read before it is written"));
        };
        let mut shape = tensor.shape.clone();
        let turned = |shape: &[usize]| TO_NCHW.iter().filter_map(|axis| shape.get(*axis).copied()).collect();
        if order == Axes::Nchw {
            while shape.len() < 4 {
                shape.insert(0, 1);
            }
        }
        let (data_type, data, shape) = match kind {
            Kind::Real => {
                let values = constant.reals();
                let (values, shape) = match order {
                    Axes::Own => (values, shape),
                    Axes::Nchw => (transposed(&values, &shape, &TO_NCHW), turned(&shape)),
                };
                (DataType::Float, values.iter().flat_map(|value| value.to_le_bytes()).collect(), shape)
            }
            Kind::Quantised(_) => {
                let flip = if tensor.element == Some(Element::I8) { 128 } else { 0 };
                let bytes: Vec<u8> = constant.bytes().iter().map(|byte| byte ^ flip).collect();
                match order {
                    Axes::Own => (DataType::Uint8, bytes, shape),
                    Axes::Nchw => (DataType::Uint8, transposed(&bytes, &shape, &TO_NCHW), turned(&shape)),
                }
            }
            Kind::Other(_) if order == Axes::Nchw => {
                return Err(self.unknown(index, "its type"));
            }
            Kind::Other(data_type) => (data_type, constant.bytes().to_vec(), shape),
        };
        let name = self.graph.constant(&tensor.name, data_type, &lengths(&shape), data)?;
        Ok((kind, name))
    }

    /// The name of a tensor's value in this order of axes, turned around where it is not there yet.
    pub(super) fn name(&mut self, index: usize, order: Axes) -> Result<String, ConvertError> {
        if order == Axes::Nchw && self.is_constant(index) {
            return Ok(self.constant_in(index, order)?.1);
        }
        let value = self.value(index)?;
        let (wanted, other) = match order {
            Axes::Own => (&value.own, &value.nchw),
            Axes::Nchw => (&value.nchw, &value.own),
        };
        if let Some(name) = wanted {
            return Ok(name.clone());
        }
        let other = other.clone().unwrap_or_default();
        if value.shape.len() != 4 {
            return Err(self.wrong(index, "it has not four axes where channels are wanted"));
        }
        let (turn, order_name) = match order {
            Axes::Own => (TO_NHWC, "nhwc"),
            Axes::Nchw => (TO_NCHW, "nchw"),
        };
        let turn = turn.map(|axis| axis as i64);
        let wish = format!("{}.{order_name}", self.tensor(index)?.name);
        let name = self.graph.node("Transpose", &[&other], &[("perm", Attribute::Ints(&turn))], &wish);
        if let Some(value) = self.values.get_mut(&index) {
            match order {
                Axes::Own => value.own = Some(name.clone()),
                Axes::Nchw => value.nchw = Some(name.clone()),
            }
        }
        Ok(name)
    }

    /// The order in which a tensor is there already.
    pub(super) fn order(&mut self, index: usize) -> Result<Axes, ConvertError> {
        let value = self.value(index)?;
        Ok(if value.own.is_none() { Axes::Nchw } else { Axes::Own })
    }

    /// A tensor's value as real numbers. Each call gives a name of its own for a quantised one, so that ONNX
    /// Runtime can take what makes it real into the operator that reads it.
    pub(super) fn real(&mut self, index: usize, order: Axes) -> Result<String, ConvertError> {
        let name = self.name(index, order)?;
        match self.kind_of(index)? {
            Kind::Real => Ok(name),
            Kind::Quantised(scale) => {
                let wish = format!("{}.real", self.tensor(index)?.name);
                self.dequantised(&name, scale, &wish)
            }
            Kind::Other(_) => Err(self.unknown(index, "it is not made of real numbers")),
        }
    }

    fn dequantised(&mut self, name: &str, scale: Scale, wish: &str) -> Result<String, ConvertError> {
        let factor = self.graph.f32(scale.scale)?;
        let zero_point = self.graph.u8(scale.zero_point)?;
        Ok(self.graph.node("DequantizeLinear", &[name, &factor, &zero_point], &[], wish))
    }

    fn quantised(&mut self, name: &str, scale: Scale, wish: &str) -> Result<String, ConvertError> {
        let factor = self.graph.f32(scale.scale)?;
        let zero_point = self.graph.u8(scale.zero_point)?;
        Ok(self.graph.node("QuantizeLinear", &[name, &factor, &zero_point], &[], wish))
    }

    /// What an operator writes, out of real numbers: with its activation, quantised where its tensor is.
    pub(super) fn finished(
        &mut self,
        operator: &Operator<'_>,
        name: &str,
        activation: Activation,
    ) -> Result<(Kind, String), ConvertError> {
        let index = output(operator)?;
        let wish = self.tensor(index)?.name.clone();
        let kind = self.kind(index)?;
        let name = match kind {
            Kind::Real => self.activated(name, activation, &wish)?,
            Kind::Quantised(scale) => {
                let name = self.quantised(name, scale, &wish)?;
                self.cut(operator, &name, scale, activation, &wish)?
            }
            Kind::Other(_) => return Err(operator.unsupported("its result is not made of real numbers")),
        };
        Ok((kind, name))
    }

    /// An activation on bytes.
    fn cut(
        &mut self,
        operator: &Operator<'_>,
        name: &str,
        scale: Scale,
        activation: Activation,
        wish: &str,
    ) -> Result<String, ConvertError> {
        let (low, high) = match activation {
            Activation::None => (0, 255),
            Activation::Clamp(low, high) => (scale.byte(low), scale.byte(high)),
            Activation::Tanh => return Err(operator.unsupported("a quantised tanh within it")),
        };
        // The usual scale ends where the activation does, and nothing is left to cut off.
        if (low, high) == (0, 255) {
            return Ok(name.to_owned());
        }
        let (low, high) = (self.graph.u8(low)?, self.graph.u8(high)?);
        Ok(self.graph.node("Clip", &[name, &low, &high], &[], wish))
    }

    /// As [`Converter::finished`], and says that it is the value of the operator's tensor.
    pub(super) fn put_real(
        &mut self,
        operator: &Operator<'_>,
        order: Axes,
        name: &str,
        activation: Activation,
    ) -> Result<(), ConvertError> {
        let (kind, name) = self.finished(operator, name, activation)?;
        self.put(output(operator)?, kind, order, name)
    }

    /// What an operator writes that only moves values about: they stay what they are.
    pub(super) fn put_same(
        &mut self,
        operator: &Operator<'_>,
        order: Axes,
        name: &str,
        kind: Kind,
        activation: Activation,
    ) -> Result<(), ConvertError> {
        let index = output(operator)?;
        let wish = self.tensor(index)?.name.clone();
        let name = match kind {
            Kind::Quantised(scale) => self.cut(operator, name, scale, activation, &wish)?,
            Kind::Real | Kind::Other(_) => self.activated(name, activation, &wish)?,
        };
        self.put(index, kind, order, name)
    }

    /// As [`Converter::put_real`], for an operator whose result cannot leave its range: where the result is only
    /// an output of the graph it stays real, because it would be made so again in the next step.
    pub(super) fn put_probabilities(
        &mut self,
        operator: &Operator<'_>,
        order: Axes,
        name: &str,
    ) -> Result<(), ConvertError> {
        let index = output(operator)?;
        if self.source.outputs.contains(&index) && !self.readers.contains_key(&index) {
            return self.put(index, Kind::Real, order, name.to_owned());
        }
        self.put_real(operator, order, name, Activation::None)
    }

    fn activated(&mut self, name: &str, activation: Activation, wish: &str) -> Result<String, ConvertError> {
        Ok(match activation {
            Activation::None => name.to_owned(),
            Activation::Tanh => self.graph.node("Tanh", &[name], &[], wish),
            Activation::Clamp(0.0, high) if high.is_infinite() => self.graph.node("Relu", &[name], &[], wish),
            Activation::Clamp(low, high) => {
                let (low, high) = (self.graph.f32(low)?, self.graph.f32(high)?);
                self.graph.node("Clip", &[name, &low, &high], &[], wish)
            }
        })
    }

    /// Makes the outputs and gives the file.
    pub(super) fn finish(mut self, digest: &str) -> Result<Converted, ConvertError> {
        let outputs = self.source.outputs.clone();
        let mut steps = Vec::new();
        let names = std::mem::take(&mut self.outputs);
        for (index, name) in outputs.into_iter().zip(names) {
            let order = Axes::Own;
            let kind = self.value(index)?.kind;
            let (value, data_type) = match kind {
                Kind::Other(data_type) => (self.name(index, order)?, data_type),
                Kind::Real | Kind::Quantised(_) => (self.real(index, order)?, DataType::Float),
            };
            let tensor = self.tensor(index)?;
            let scale = tensor.quantisation.as_ref().and_then(|quantisation| quantisation.scales.first());
            steps.push(match kind {
                // Also where the file itself makes real numbers of them at the end.
                Kind::Quantised(scale) => Some(scale.scale),
                _ => scale.copied().filter(|_| matches!(tensor.element, Some(Element::U8 | Element::I8))),
            });
            let shape = lengths(&tensor.shape);
            self.graph.output(&name, &value, data_type, &shape);
        }
        let metadata = [("converted-from", "TensorFlow Lite"), ("converted-from-sha256", digest)];
        let onnx = self.graph.encode(&self.source.description, &metadata);
        Ok(Converted { onnx, steps, notes: self.notes })
    }
}

/// The one tensor that an operator writes.
pub(super) fn output(operator: &Operator<'_>) -> Result<usize, ConvertError> {
    match *operator.outputs.as_slice() {
        [output] => Ok(output),
        _ => Err(operator.wrong(format!("it has {} outputs", operator.outputs.len()))),
    }
}

/// A shape as ONNX writes it.
pub(super) fn lengths(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|length| *length as i64).collect()
}

/// The scale of bytes without sign: those with sign are moved by 128 together with their zero point.
fn moved(element: Element, scale: f32, zero_point: i64) -> Result<Scale, String> {
    let moved = if element == Element::I8 { zero_point.saturating_add(128) } else { zero_point };
    let zero_point =
        u8::try_from(moved).map_err(|_| format!("its zero point {zero_point} is outside of its type"))?;
    Ok(Scale { scale, zero_point })
}

// === impl Scale ===

impl Scale {
    /// The byte that stands for a number, or the nearest there is.
    pub(super) fn byte(self, real: f32) -> u8 {
        // A conversion to an integer ends at its limits.
        ((real / self.scale).round() + f32::from(self.zero_point)) as u8
    }
}

// === impl Activation ===

impl Activation {
    /// The fused activation of an operator's options.
    pub(super) fn fused(
        operator: &Operator<'_>,
        function: tract_tflite::tflite::ActivationFunctionType,
    ) -> Result<Self, ConvertError> {
        use tract_tflite::tflite::ActivationFunctionType as Function;
        Ok(match function {
            Function::NONE => Self::None,
            Function::RELU => Self::Clamp(0.0, f32::INFINITY),
            Function::RELU_N1_TO_1 => Self::Clamp(-1.0, 1.0),
            Function::RELU6 => Self::Clamp(0.0, 6.0),
            Function::TANH => Self::Tanh,
            other => return Err(operator.unsupported(format!("the activation {} within it", other.0))),
        })
    }
}
