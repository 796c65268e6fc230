//! An ONNX graph while it is being made.

use std::collections::{HashMap, HashSet};

use prost::Message;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    attribute_proto::AttributeType,
    tensor_proto::DataType,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};

use super::ConvertError;

/// The version of ONNX's operators that is written.
const OPSET: i64 = 17;
/// The version of the file format that came with it.
const IR_VERSION: i64 = 8;

/// Nodes and constants, in an order in which each comes after what it needs.
#[derive(Debug)]
pub(super) struct Graph {
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    /// Scales, zero points and limits: there are few of them, and each is written once.
    small: HashMap<(i32, Vec<i64>, Vec<u8>), String>,
    names: HashSet<String>,
    inputs: Vec<ValueInfoProto>,
    /// Each with the name of its value.
    outputs: Vec<(ValueInfoProto, String)>,
    /// Bytes of the constants.
    size: usize,
    limit: usize,
    file: usize,
}

/// An attribute of a node.
#[derive(Debug)]
pub(super) enum Attribute<'a> {
    Int(i64),
    Ints(&'a [i64]),
    Float(f32),
    Text(&'a str),
}

// === impl Graph ===

impl Graph {
    /// A graph made from a file of this many bytes.
    pub(super) fn new(file: usize) -> Self {
        Self {
            nodes: Vec::new(),
            constants: Vec::new(),
            small: HashMap::new(),
            names: HashSet::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            size: 0,
            limit: file.saturating_mul(16).saturating_add(1 << 20),
            file,
        }
    }

    /// A name of its own that begins so.
    pub(super) fn name(&mut self, wish: &str) -> String {
        let mut name = if wish.is_empty() { "unnamed".to_owned() } else { wish.to_owned() };
        let mut number = self.names.len();
        while self.names.contains(&name) {
            name = format!("{wish}#{number}");
            number += 1;
        }
        self.names.insert(name.clone());
        name
    }

    /// Is there room for so many bytes of constants?
    pub(super) fn room(&self, bytes: usize) -> Result<(), ConvertError> {
        if self.size.saturating_add(bytes) > self.limit {
            return Err(ConvertError::Size { file: self.file, limit: self.limit });
        }
        Ok(())
    }

    /// Adds a constant; its name.
    pub(super) fn constant(
        &mut self,
        wish: &str,
        data_type: DataType,
        dims: &[i64],
        data: Vec<u8>,
    ) -> Result<String, ConvertError> {
        self.room(data.len())?;
        self.size += data.len();
        let name = self.name(wish);
        self.constants.push(TensorProto {
            name: name.clone(),
            dims: dims.to_vec(),
            data_type: data_type as i32,
            raw_data: data,
            ..TensorProto::default()
        });
        Ok(name)
    }

    /// Adds a constant that many nodes may want; its name.
    fn shared(&mut self, data_type: DataType, dims: &[i64], data: Vec<u8>) -> Result<String, ConvertError> {
        let key = (data_type as i32, dims.to_vec(), data);
        if let Some(name) = self.small.get(&key) {
            return Ok(name.clone());
        }
        let name = self.constant("constant", data_type, dims, key.2.clone())?;
        self.small.insert(key, name.clone());
        Ok(name)
    }

    /// One number.
    pub(super) fn f32(&mut self, value: f32) -> Result<String, ConvertError> {
        self.shared(DataType::Float, &[], value.to_le_bytes().to_vec())
    }

    /// One byte.
    pub(super) fn u8(&mut self, value: u8) -> Result<String, ConvertError> {
        self.shared(DataType::Uint8, &[], vec![value])
    }

    /// One byte with sign.
    pub(super) fn i8(&mut self, value: i8) -> Result<String, ConvertError> {
        self.shared(DataType::Int8, &[], value.to_le_bytes().to_vec())
    }

    /// A list of lengths, axes or indices.
    pub(super) fn i64s(&mut self, values: &[i64]) -> Result<String, ConvertError> {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.shared(DataType::Int64, &[values.len() as i64], data)
    }

    /// A list of numbers.
    pub(super) fn f32s(&mut self, values: &[f32]) -> Result<String, ConvertError> {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.shared(DataType::Float, &[values.len() as i64], data)
    }

    /// A list of bytes with sign.
    pub(super) fn i8s(&mut self, values: &[i8]) -> Result<String, ConvertError> {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.shared(DataType::Int8, &[values.len() as i64], data)
    }

    /// Noughts of 32 bits: one, or a list of so many.
    pub(super) fn zeros(&mut self, count: Option<usize>) -> Result<String, ConvertError> {
        let dims: Vec<i64> = count.iter().map(|count| *count as i64).collect();
        self.shared(DataType::Int32, &dims, vec![0; 4 * count.unwrap_or(1)])
    }

    /// Adds an operator with one output; the output's name. An empty input is one that is left out.
    pub(super) fn node(
        &mut self,
        operator: &str,
        inputs: &[&str],
        attributes: &[(&str, Attribute<'_>)],
        wish: &str,
    ) -> String {
        let output = self.name(wish);
        self.nodes.push(NodeProto {
            name: output.clone(),
            op_type: operator.to_owned(),
            input: inputs.iter().map(|input| (*input).to_owned()).collect(),
            output: vec![output.clone()],
            attribute: attributes.iter().map(|(name, value)| value.proto(name)).collect(),
            ..NodeProto::default()
        });
        output
    }

    /// Adds an input of the graph; its name.
    pub(super) fn input(&mut self, wish: &str, data_type: DataType, shape: &[i64]) -> String {
        let name = self.name(wish);
        self.inputs.push(port(&name, data_type, shape));
        name
    }

    /// Adds an output of the graph, whose name was taken by [`Graph::name`] before.
    pub(super) fn output(&mut self, name: &str, value: &str, data_type: DataType, shape: &[i64]) {
        self.outputs.push((port(name, data_type, shape), value.to_owned()));
    }

    /// Gives the outputs their names: what makes a value carries the output's name from now on. An input or a
    /// constant cannot, and neither can a value that is an output already.
    fn name_outputs(&mut self) {
        let made: HashSet<&String> = self.nodes.iter().flat_map(|node| &node.output).collect();
        let mut renamed = HashMap::new();
        let mut copies = Vec::new();
        for (output, value) in &self.outputs {
            if made.contains(value) && !renamed.contains_key(value) {
                renamed.insert(value.clone(), output.name.clone());
            } else {
                copies.push((value.clone(), output.name.clone()));
            }
        }
        let rename = |text: &mut String| {
            if let Some(name) = renamed.get(text) {
                name.clone_into(text);
            }
        };
        for node in &mut self.nodes {
            node.input.iter_mut().chain(&mut node.output).chain([&mut node.name]).for_each(rename);
        }
        for (mut value, name) in copies {
            rename(&mut value);
            self.nodes.push(NodeProto {
                name: name.clone(),
                op_type: "Identity".to_owned(),
                input: vec![value],
                output: vec![name],
                ..NodeProto::default()
            });
        }
    }

    /// The file, without what no output needs.
    pub(super) fn encode(mut self, description: &str, metadata: &[(&str, &str)]) -> Vec<u8> {
        self.name_outputs();
        let mut needed: HashSet<String> =
            self.outputs.iter().map(|(output, _)| output.name.clone()).collect();
        // Each node comes after what it needs, so one way back through the list is enough.
        let mut nodes: Vec<_> = self
            .nodes
            .drain(..)
            .rev()
            .filter(|node| {
                let wanted = node.output.iter().any(|output| needed.contains(output));
                if wanted {
                    needed.extend(node.input.iter().cloned());
                }
                wanted
            })
            .collect();
        nodes.reverse();
        self.constants.retain(|constant| needed.contains(&constant.name));
        let pair = |(key, value): &(&str, &str)| StringStringEntryProto {
            key: (*key).to_owned(),
            value: (*value).to_owned(),
        };
        ModelProto {
            ir_version: IR_VERSION,
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
            producer_name: "shunt".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            doc_string: description.to_owned(),
            metadata_props: metadata.iter().map(pair).collect(),
            graph: Some(GraphProto {
                name: "main".to_owned(),
                node: nodes,
                initializer: self.constants,
                input: self.inputs,
                output: self.outputs.into_iter().map(|(output, _)| output).collect(),
                ..GraphProto::default()
            }),
            ..ModelProto::default()
        }
        .encode_to_vec()
    }
}

fn port(name: &str, data_type: DataType, shape: &[i64]) -> ValueInfoProto {
    let dimension =
        |length: &i64| Dimension { value: Some(dimension::Value::DimValue(*length)), ..Dimension::default() };
    let tensor = type_proto::Tensor {
        elem_type: data_type as i32,
        shape: Some(TensorShapeProto { dim: shape.iter().map(dimension).collect() }),
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

// === impl Attribute ===

impl Attribute<'_> {
    fn proto(&self, name: &str) -> AttributeProto {
        let mut proto = AttributeProto { name: name.to_owned(), ..AttributeProto::default() };
        let kind = match *self {
            Self::Int(value) => {
                proto.i = value;
                AttributeType::Int
            }
            Self::Ints(values) => {
                proto.ints = values.to_vec();
                AttributeType::Ints
            }
            Self::Float(value) => {
                proto.f = value;
                AttributeType::Float
            }
            Self::Text(value) => {
                proto.s = value.as_bytes().to_vec();
                AttributeType::String
            }
        };
        proto.r#type = kind as i32;
        proto
    }
}
