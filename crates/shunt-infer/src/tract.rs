//! The back end `tract`: pure Rust, one thread.

use std::{panic::catch_unwind, sync::Arc};

use tract_onnx::{
    prelude::{
        Datum, DatumType, Framework, InferenceFact, InferenceModelExt, IntoTValue, TValue, TVec,
        Tensor as TractTensor, TractError, TractResult, TypedModel, TypedRunnableModel,
    },
    tract_hir::infer::Factoid,
};

use crate::{
    Backend, BackendError, Description, Element, Format, Input, Loaded, Order, Port, Tensor, Values, convert,
};

/// Runs ONNX models with `tract-onnx`, and those `TensorFlow` Lite models that `tract-tflite` can load.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tract;

#[derive(Debug)]
struct TractModel {
    plan: Arc<TypedRunnableModel>,
    description: Description,
    /// Bytes of the file: its weights are about all that it holds.
    memory: u64,
}

// === impl Tract ===

impl Backend for Tract {
    fn name(&self) -> &'static str {
        "tract"
    }

    fn version(&self) -> String {
        "tract 0.23".to_owned()
    }

    fn takes(&self, _: Format) -> bool {
        true
    }

    fn load(&self, order: &Order<'_>) -> Result<Box<dyn Loaded>, BackendError> {
        let loaded = match order.format {
            Format::Onnx => onnx(order.input, order.file),
            Format::Tflite => {
                // Its reader trusts what a file says, and ends by a panic where that is not so.
                convert::check(order.file).map_err(BackendError::from_chain)?;
                catch_unwind(|| tflite(order.file))
                    .unwrap_or_else(|_| Err(TractError::msg("tract's reader of such files failed")))
            }
        };
        let (model, mut description) = loaded.map_err(BackendError::from_chain)?;
        if let (Some(input), Some(port)) = (order.input, description.inputs.first_mut()) {
            port.shape = input.shape.map(Some).to_vec();
        }
        let memory = order.file.len() as u64;
        let plan = TypedRunnableModel::new(model).map_err(BackendError::from_chain)?;
        Ok(Box::new(TractModel { plan, description, memory }))
    }

    fn doubt(&self, format: Format, description: &Description) -> Option<&'static str> {
        let quantised = |port: &Port| matches!(port.element, Element::U8 | Element::I8);
        let ports = description.inputs.iter().chain(&description.outputs);
        (format == Format::Tflite && ports.into_iter().any(quantised))
            .then_some("its answers for quantised TensorFlow Lite files have a wrong scale")
    }
}

fn onnx(input: Option<&Input>, mut file: &[u8]) -> TractResult<(TypedModel, Description)> {
    let mut model = tract_onnx::onnx().model_for_read(&mut file)?;
    // The names are taken before the optimiser replaces nodes.
    let outputs = model.outputs.iter().map(|outlet| {
        let name = model.outlet_label(*outlet).map(ToOwned::to_owned);
        name.or_else(|| model.nodes.get(outlet.node).map(|node| node.name.clone())).unwrap_or_default()
    });
    let outputs: Vec<_> = outputs.collect();
    let inputs: Vec<_> =
        model.inputs.iter().filter_map(|outlet| Some(model.nodes.get(outlet.node)?.name.clone())).collect();
    if let Some(input) = input {
        // The file may leave the batch open: it is 1 here.
        let own = model.input_fact(0)?.datum_type.concretize().unwrap_or(DatumType::F32);
        model = model.with_input_fact(0, InferenceFact::dt_shape(own, &input.shape[..]))?;
    }
    let model = model.into_optimized()?;
    let description = describe(&model, &inputs, &outputs)?;
    Ok((model, description))
}

fn tflite(mut file: &[u8]) -> TractResult<(TypedModel, Description)> {
    let model = tract_tflite::tflite().model_for_read(&mut file)?;
    let name = |outlet: &tract_onnx::prelude::OutletId| {
        model.nodes.get(outlet.node).map(|node| node.name.clone()).unwrap_or_default()
    };
    let inputs: Vec<_> = model.inputs.iter().map(name).collect();
    let outputs: Vec<_> = model.outputs.iter().map(name).collect();
    let model = model.into_optimized()?;
    let description = describe(&model, &inputs, &outputs)?;
    Ok((model, description))
}

fn describe(model: &TypedModel, inputs: &[String], outputs: &[String]) -> TractResult<Description> {
    let port = |name: &String, fact: &tract_onnx::prelude::TypedFact| {
        let shape = fact
            .shape
            .iter()
            .map(|length| length.to_i64().ok().and_then(|length| usize::try_from(length).ok()))
            .collect();
        Ok(Port { name: name.clone(), element: element(fact.datum_type)?, shape })
    };
    let all = |names: &[String], fact: &dyn Fn(usize) -> TractResult<tract_onnx::prelude::TypedFact>| {
        (0..).zip(names).map(|(index, name)| port(name, &fact(index)?)).collect::<TractResult<Vec<_>>>()
    };
    Ok(Description {
        backend: "tract",
        device: "cpu",
        inputs: all(inputs, &|index| model.input_fact(index).cloned())?,
        outputs: all(outputs, &|index| model.output_fact(index).cloned())?,
    })
}

/// Our type for one of tract's; a quantised one is that of its bytes.
fn element(datum: DatumType) -> TractResult<Element> {
    Ok(match datum.unquantized() {
        DatumType::Bool => Element::Bool,
        DatumType::U8 => Element::U8,
        DatumType::U16 => Element::U16,
        DatumType::U32 => Element::U32,
        DatumType::U64 => Element::U64,
        DatumType::I8 => Element::I8,
        DatumType::I16 => Element::I16,
        DatumType::I32 => Element::I32,
        // A dimension is a number of 64 bits by the time a model has run.
        DatumType::I64 | DatumType::TDim => Element::I64,
        DatumType::F16 => Element::F16,
        DatumType::F32 => Element::F32,
        DatumType::F64 => Element::F64,
        other => return Err(TractError::msg(format!("values of the type {other:?} are not served"))),
    })
}

// === impl TractModel ===

impl Loaded for TractModel {
    fn describe(&self) -> &Description {
        &self.description
    }

    fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, BackendError> {
        self.try_run(&inputs).map_err(BackendError::from_chain)
    }

    fn memory(&self) -> Option<u64> {
        Some(self.memory)
    }
}

impl TractModel {
    fn try_run(&self, inputs: &[Tensor]) -> TractResult<Vec<Tensor>> {
        let mut values = TVec::new();
        for (index, input) in inputs.iter().enumerate() {
            let mut value = into_tract(input)?;
            // A quantised input has a type of its own over the same bytes.
            let wanted = self.plan.model().input_fact(index)?.datum_type;
            if wanted != value.datum_type() {
                value = value.cast_to_dt(wanted)?.into_owned();
            }
            values.push(value.into_tvalue());
        }
        self.plan.run(values)?.into_iter().map(|output| from_tract(&output)).collect()
    }
}

fn into_tract(input: &Tensor) -> TractResult<TractTensor> {
    let shape = &input.shape;
    match &input.values {
        Values::Bool(values) => TractTensor::from_shape(shape, values),
        Values::U8(values) => TractTensor::from_shape(shape, values),
        Values::U16(values) => TractTensor::from_shape(shape, values),
        Values::U32(values) => TractTensor::from_shape(shape, values),
        Values::U64(values) => TractTensor::from_shape(shape, values),
        Values::I8(values) => TractTensor::from_shape(shape, values),
        Values::I16(values) => TractTensor::from_shape(shape, values),
        Values::I32(values) => TractTensor::from_shape(shape, values),
        Values::I64(values) => TractTensor::from_shape(shape, values),
        Values::F16(values) => {
            let values: Vec<_> = values.iter().map(|bits| half::f16::from_bits(*bits)).collect();
            TractTensor::from_shape(shape, &values)
        }
        Values::F32(values) => TractTensor::from_shape(shape, values),
        Values::F64(values) => TractTensor::from_shape(shape, values),
    }
}

fn from_tract(output: &TValue) -> TractResult<Tensor> {
    fn list<T: Datum + Copy>(output: &TValue) -> TractResult<Vec<T>> {
        Ok(output.cast_to::<T>()?.to_plain_array_view::<T>()?.iter().copied().collect())
    }
    let values = match element(output.datum_type())? {
        Element::Bool => Values::Bool(list(output)?),
        Element::U8 => Values::U8(list(output)?),
        Element::U16 => Values::U16(list(output)?),
        Element::U32 => Values::U32(list(output)?),
        Element::U64 => Values::U64(list(output)?),
        Element::I8 => Values::I8(list(output)?),
        Element::I16 => Values::I16(list(output)?),
        Element::I32 => Values::I32(list(output)?),
        Element::I64 => Values::I64(list(output)?),
        Element::F16 => Values::F16(list::<half::f16>(output)?.into_iter().map(half::f16::to_bits).collect()),
        Element::F32 => Values::F32(list(output)?),
        Element::F64 => Values::F64(list(output)?),
    };
    Ok(Tensor { shape: output.shape().to_vec(), values })
}
