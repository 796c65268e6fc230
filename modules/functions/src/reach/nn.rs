//! `wasi:nn`: the models of the device, by name.
//!
//! A function gets those that it is granted, and none that it brings along: a model's file is input for code that is
//! no sandbox.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use shunt_infer::{Description, Element, Model, ModelError, Port, Values};
use wasmtime::component::Resource;

use super::{View, models::Unusable};
use crate::host::world::function::wasi::nn::{
    errors::{self, ErrorCode},
    graph::{self, ExecutionTarget, GraphEncoding},
    inference,
    tensor::{self, TensorType},
};

/// Most bytes of all tensors that a call has at a time.
pub(super) const MOST_BYTES: usize = 64 * 1024 * 1024;
/// Most axes of a tensor.
const MOST_AXES: usize = 8;

/// A tensor of the guest.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the bindings export it by its name")]
pub struct Tensor {
    dimensions: Vec<u32>,
    ty: TensorType,
    data: Vec<u8>,
}

/// A model.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the bindings export it by its name")]
pub struct Graph {
    model: Arc<Model>,
}

/// One use of a model.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the bindings export it by its name")]
pub struct Execution {
    model: Arc<Model>,
}

/// What went wrong.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the bindings export it by its name")]
pub struct Error {
    code: ErrorCode,
    data: String,
}

// === impl Error ===

impl Error {
    fn new(code: ErrorCode, data: impl Into<String>) -> Self {
        Self { code, data: data.into() }
    }

    fn invalid(data: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, data)
    }
}

impl From<ModelError> for Error {
    fn from(error: ModelError) -> Self {
        let code = match error {
            ModelError::Inputs { .. } | ModelError::Shape { .. } => ErrorCode::InvalidArgument,
            _ => ErrorCode::RuntimeError,
        };
        Self::new(code, error.to_string())
    }
}

// === impl Tensor ===

impl Tensor {
    /// As the model's input takes it. `wasi:nn` has fewer types than models: `U8` also carries the bytes of 8 bits
    /// with sign and of truth values, `I32` and `I64` those of the numbers without sign.
    fn for_port(&self, port: &Port) -> Result<shunt_infer::Tensor, Error> {
        let wrong = |what: String| Error::invalid(format!("the input {:?} {what}", port.name));
        let takes = carrier(port.element).ok_or_else(|| {
            unsupported(format!("the input {:?} is {port}, which no tensor carries", port.name))
        })?;
        if takes != self.ty {
            return Err(wrong(format!("takes {port}, not {:?}", self.ty)));
        }
        let shape: Vec<usize> = self.dimensions.iter().map(|length| *length as usize).collect();
        if !port.takes(&shape) {
            return Err(wrong(format!("takes {port}, not {shape:?}")));
        }
        let size = shape.iter().try_fold(port.element.size(), |bytes, length| bytes.checked_mul(*length));
        if size != Some(self.data.len()) {
            return Err(wrong(format!("has the dimensions {shape:?} and {} bytes", self.data.len())));
        }
        let values = values(port.element, &self.data)
            .ok_or_else(|| unsupported(format!("the input {:?} is {port}", port.name)))?;
        Ok(shunt_infer::Tensor { shape, values })
    }

    /// Of what a model answered.
    fn of_output(port: &Port, output: &shunt_infer::Tensor) -> Result<Self, Error> {
        let element = output.values.element();
        let ty = carrier(element)
            .ok_or_else(|| unsupported(format!("the output {:?} is {}", port.name, element.datatype())))?;
        let dimensions: Result<Vec<u32>, _> =
            output.shape.iter().map(|length| u32::try_from(*length)).collect();
        let dimensions = dimensions.map_err(|error| Error::new(ErrorCode::TooLarge, error.to_string()))?;
        let data = bytes(&output.values)
            .ok_or_else(|| unsupported(format!("the output {:?} is {}", port.name, element.datatype())))?;
        Ok(Self { dimensions, ty, data })
    }
}

fn unsupported(data: String) -> Error {
    Error::new(ErrorCode::UnsupportedOperation, data)
}

/// The type of `wasi:nn` that carries the bytes of this one.
fn carrier(element: Element) -> Option<TensorType> {
    match element {
        Element::Bool | Element::U8 | Element::I8 => Some(TensorType::U8),
        Element::I32 | Element::U32 => Some(TensorType::I32),
        Element::I64 | Element::U64 => Some(TensorType::I64),
        Element::F16 => Some(TensorType::Fp16),
        Element::F32 => Some(TensorType::Fp32),
        Element::F64 => Some(TensorType::Fp64),
        Element::U16 | Element::I16 => None,
    }
}

/// The bytes as values, little-endian.
fn values(element: Element, data: &[u8]) -> Option<Values> {
    fn each<const N: usize, T>(data: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
        data.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)).collect()
    }
    Some(match element {
        Element::Bool => Values::Bool(data.iter().map(|byte| *byte != 0).collect()),
        Element::U8 => Values::U8(data.to_vec()),
        Element::I8 => Values::I8(each(data, i8::from_le_bytes)),
        Element::I32 => Values::I32(each(data, i32::from_le_bytes)),
        Element::U32 => Values::U32(each(data, u32::from_le_bytes)),
        Element::I64 => Values::I64(each(data, i64::from_le_bytes)),
        Element::U64 => Values::U64(each(data, u64::from_le_bytes)),
        Element::F16 => Values::F16(each(data, u16::from_le_bytes)),
        Element::F32 => Values::F32(each(data, f32::from_le_bytes)),
        Element::F64 => Values::F64(each(data, f64::from_le_bytes)),
        Element::U16 | Element::I16 => return None,
    })
}

/// The values as bytes, little-endian.
fn bytes(values: &Values) -> Option<Vec<u8>> {
    fn each<const N: usize, T: Copy>(list: &[T], write: impl Fn(T) -> [u8; N]) -> Vec<u8> {
        list.iter().flat_map(|value| write(*value)).collect()
    }
    Some(match values {
        Values::Bool(list) => list.iter().map(|value| u8::from(*value)).collect(),
        Values::U8(list) => list.clone(),
        Values::I8(list) => each(list, i8::to_le_bytes),
        Values::I32(list) => each(list, i32::to_le_bytes),
        Values::U32(list) => each(list, u32::to_le_bytes),
        Values::I64(list) => each(list, i64::to_le_bytes),
        Values::U64(list) => each(list, u64::to_le_bytes),
        Values::F16(list) => each(list, u16::to_le_bytes),
        Values::F32(list) => each(list, f32::to_le_bytes),
        Values::F64(list) => each(list, f64::to_le_bytes),
        Values::U16(_) | Values::I16(_) => return None,
    })
}

/// The place of the input of this name; where no input has it, a number is one: `0` is the first.
fn place(description: &Description, name: &str) -> Option<usize> {
    let named = description.inputs.iter().position(|port| port.name == name);
    named.or_else(|| name.parse().ok().filter(|place| *place < description.inputs.len()))
}

impl View<'_> {
    /// Takes room for so many bytes of tensors.
    fn take_room(&self, bytes: usize) -> Result<(), Error> {
        let take = |left: usize| left.checked_sub(bytes);
        let taken = self.reach.left.tensors.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        let why = || format!("the tensors of a call have {MOST_BYTES} bytes at most");
        taken.map(drop).map_err(|_| Error::new(ErrorCode::TooLarge, why()))
    }

    fn give_room(&self, bytes: usize) {
        self.reach.left.tensors.fetch_add(bytes, Ordering::Relaxed);
    }

    fn nn_error<T>(&mut self, error: Error) -> wasmtime::Result<Result<T, Resource<Error>>> {
        Ok(Err(self.table.push(error)?))
    }

    async fn load_model(&mut self, name: &str) -> Result<Arc<Model>, Error> {
        let reach = self.reach;
        let granted = &reach.grants().models;
        if !granted.iter().any(|own| own == name) {
            let all = if granted.is_empty() { "none".to_owned() } else { granted.join(", ") };
            let why = format!("{} may not use the model {name:?}; it is granted: {all}", reach.name());
            return Err(Error::new(ErrorCode::Security, why));
        }
        let means = reach.means().map_err(|why| Error::new(ErrorCode::Security, why))?;
        means.models.get(name).await.map_err(|error| match &error {
            Unusable::Missing(_) => Error::new(ErrorCode::NotFound, error.to_string()),
            Unusable::Broken(_) => Error::new(ErrorCode::RuntimeError, error.to_string()),
        })
    }

    /// The model's inputs in its own order.
    fn inputs(
        &mut self,
        model: &Model,
        named: Vec<inference::NamedTensor>,
    ) -> wasmtime::Result<Result<Vec<shunt_infer::Tensor>, Error>> {
        let description = model.describe();
        let mut found: HashMap<usize, shunt_infer::Tensor> = HashMap::new();
        let mut problem = None;
        for (name, resource) in named {
            // Each is the callee's now, also where another is wrong.
            let tensor = self.table.delete(resource)?;
            self.give_room(tensor.data.len());
            if problem.is_some() {
                continue;
            }
            let input =
                place(description, &name).and_then(|place| Some((place, description.inputs.get(place)?)));
            let Some((place, port)) = input else {
                let inputs: Vec<&str> = description.inputs.iter().map(|port| port.name.as_str()).collect();
                let name: String = name.chars().take(80).collect();
                problem = Some(Error::invalid(format!(
                    "the model has no input {name:?}, only {}",
                    inputs.join(", ")
                )));
                continue;
            };
            match tensor.for_port(port) {
                Ok(tensor) => {
                    if found.insert(place, tensor).is_some() {
                        problem = Some(Error::invalid(format!("the input {:?} is given twice", port.name)));
                    }
                }
                Err(error) => problem = Some(error),
            }
        }
        if let Some(problem) = problem {
            return Ok(Err(problem));
        }
        let in_order = description.inputs.iter().enumerate().map(|(place, port)| {
            found
                .remove(&place)
                .ok_or_else(|| Error::invalid(format!("the input {:?} is missing", port.name)))
        });
        Ok(in_order.collect())
    }

    async fn run_model(
        &mut self,
        model: &Arc<Model>,
        inputs: Vec<shunt_infer::Tensor>,
    ) -> Result<Vec<(String, Tensor)>, Error> {
        let means = self.reach.means().map_err(|why| Error::new(ErrorCode::Security, why))?;
        let models = means.models.clone();
        let outputs = models.run(Arc::clone(model), inputs).await;
        let outputs = outputs.map_err(|why| Error::new(ErrorCode::RuntimeError, why))??;
        let named = model.describe().outputs.iter().zip(outputs);
        let tensors = named.map(|(port, output)| {
            let tensor = Tensor::of_output(port, &output)?;
            self.take_room(tensor.data.len())?;
            Ok((port.name.clone(), tensor))
        });
        tensors.collect()
    }
}

impl tensor::Host for View<'_> {}

impl tensor::HostTensor for View<'_> {
    async fn new(
        &mut self,
        dimensions: tensor::TensorDimensions,
        ty: TensorType,
        data: tensor::TensorData,
    ) -> wasmtime::Result<Resource<Tensor>> {
        // A constructor answers no error, so these end the call. That the sizes agree is looked at in `compute`.
        if self.reach.grants().models.is_empty() {
            wasmtime::bail!("{} is granted no model, so it has no room for tensors", self.reach.name());
        }
        if dimensions.len() > MOST_AXES {
            wasmtime::bail!("a tensor of {} dimensions, {MOST_AXES} are allowed", dimensions.len());
        }
        if let Err(error) = self.take_room(data.len()) {
            wasmtime::bail!("{}", error.data);
        }
        Ok(self.table.push(Tensor { dimensions, ty, data })?)
    }

    async fn dimensions(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<tensor::TensorDimensions> {
        Ok(self.table.get(&tensor)?.dimensions.clone())
    }

    async fn ty(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<TensorType> {
        Ok(self.table.get(&tensor)?.ty)
    }

    async fn data(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<tensor::TensorData> {
        Ok(self.table.get(&tensor)?.data.clone())
    }

    async fn drop(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<()> {
        let tensor = self.table.delete(tensor)?;
        self.give_room(tensor.data.len());
        Ok(())
    }
}

impl graph::Host for View<'_> {
    async fn load(
        &mut self,
        _builder: Vec<graph::GraphBuilder>,
        _encoding: GraphEncoding,
        _target: ExecutionTarget,
    ) -> wasmtime::Result<Result<Resource<Graph>, Resource<Error>>> {
        let why = "a function brings no model of its own: use load-by-name with one that it is granted";
        self.nn_error(Error::new(ErrorCode::Security, why))
    }

    async fn load_by_name(
        &mut self,
        name: String,
    ) -> wasmtime::Result<Result<Resource<Graph>, Resource<Error>>> {
        match self.load_model(&name).await {
            Ok(model) => Ok(Ok(self.table.push(Graph { model })?)),
            Err(error) => self.nn_error(error),
        }
    }
}

impl graph::HostGraph for View<'_> {
    async fn init_execution_context(
        &mut self,
        graph: Resource<Graph>,
    ) -> wasmtime::Result<Result<Resource<Execution>, Resource<Error>>> {
        let model = Arc::clone(&self.table.get(&graph)?.model);
        Ok(Ok(self.table.push(Execution { model })?))
    }

    async fn drop(&mut self, graph: Resource<Graph>) -> wasmtime::Result<()> {
        self.table.delete(graph)?;
        Ok(())
    }
}

impl inference::Host for View<'_> {}

impl inference::HostGraphExecutionContext for View<'_> {
    async fn compute(
        &mut self,
        execution: Resource<Execution>,
        inputs: Vec<inference::NamedTensor>,
    ) -> wasmtime::Result<Result<Vec<inference::NamedTensor>, Resource<Error>>> {
        let model = Arc::clone(&self.table.get(&execution)?.model);
        let inputs = match self.inputs(&model, inputs)? {
            Ok(inputs) => inputs,
            Err(error) => return self.nn_error(error),
        };
        match self.run_model(&model, inputs).await {
            Ok(outputs) => {
                let named = outputs.into_iter().map(|(name, tensor)| Ok((name, self.table.push(tensor)?)));
                Ok(Ok(named.collect::<wasmtime::Result<_>>()?))
            }
            Err(error) => self.nn_error(error),
        }
    }

    async fn drop(&mut self, execution: Resource<Execution>) -> wasmtime::Result<()> {
        self.table.delete(execution)?;
        Ok(())
    }
}

impl errors::Host for View<'_> {}

impl errors::HostError for View<'_> {
    async fn code(&mut self, error: Resource<Error>) -> wasmtime::Result<ErrorCode> {
        Ok(self.table.get(&error)?.code)
    }

    async fn data(&mut self, error: Resource<Error>) -> wasmtime::Result<String> {
        Ok(self.table.get(&error)?.data.clone())
    }

    async fn drop(&mut self, error: Resource<Error>) -> wasmtime::Result<()> {
        self.table.delete(error)?;
        Ok(())
    }
}
