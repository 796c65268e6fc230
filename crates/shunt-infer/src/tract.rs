//! The back end `tract`: pure Rust, one thread.

use std::sync::Arc;

use tract_onnx::prelude::{
    Framework, InferenceModelExt, IntoTValue, TValue, Tensor as TractTensor, TractResult, TypedModel,
    TypedRunnableModel, tvec,
};

use crate::{Backend, BackendError, Description, Format, Input, Loaded, Port, Tensor, Values};

/// Runs ONNX models with `tract-onnx`, and those `TensorFlow` Lite models that `tract-tflite` can load.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tract;

#[derive(Debug)]
struct TractModel {
    plan: Arc<TypedRunnableModel>,
    description: Description,
}

// === impl BackendError ===

impl BackendError {
    /// The whole chain of causes: tract says in the last what the matter is.
    fn from_chain(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let error = error.into();
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        // A graph is printed at full length otherwise.
        let end = text.char_indices().nth(600).map_or(text.len(), |(end, _)| end);
        text.truncate(end);
        Self(text)
    }
}

// === impl Tract ===

impl Backend for Tract {
    fn name(&self) -> &'static str {
        "tract"
    }

    fn load(&self, format: Format, input: &Input, file: &[u8]) -> Result<Box<dyn Loaded>, BackendError> {
        let model = match format {
            Format::Onnx => onnx(input, file),
            Format::Tflite => tflite(file),
        };
        let (model, description) = model.map_err(BackendError::from_chain)?;
        let plan = TypedRunnableModel::new(model).map_err(BackendError::from_chain)?;
        Ok(Box::new(TractModel { plan, description }))
    }
}

fn onnx(input: &Input, mut file: &[u8]) -> TractResult<(TypedModel, Description)> {
    let model = tract_onnx::onnx().model_for_read(&mut file)?;
    // The names are taken before the optimiser replaces nodes.
    let outputs = model.outputs.iter().map(|outlet| {
        let name = model.outlet_label(*outlet).map(ToOwned::to_owned);
        name.or_else(|| model.nodes.get(outlet.node).map(|node| node.name.clone())).unwrap_or_default()
    });
    let outputs: Vec<_> = outputs.collect();
    let inputs: Vec<_> =
        model.inputs.iter().filter_map(|outlet| Some(model.nodes.get(outlet.node)?.name.clone())).collect();
    let model = model.with_input_fact(0, f32_fact(input))?.into_optimized()?;
    let description = describe(&model, &inputs, &outputs);
    Ok((model, description))
}

fn f32_fact(input: &Input) -> tract_onnx::prelude::InferenceFact {
    tract_onnx::prelude::InferenceFact::dt_shape(
        <f32 as tract_onnx::prelude::Datum>::datum_type(),
        &input.shape[..],
    )
}

fn tflite(mut file: &[u8]) -> TractResult<(TypedModel, Description)> {
    let model = tract_tflite::tflite().model_for_read(&mut file)?;
    let name = |outlet: &tract_onnx::prelude::OutletId| {
        model.nodes.get(outlet.node).map(|node| node.name.clone()).unwrap_or_default()
    };
    let inputs: Vec<_> = model.inputs.iter().map(name).collect();
    let outputs: Vec<_> = model.outputs.iter().map(name).collect();
    let model = model.into_optimized()?;
    let description = describe(&model, &inputs, &outputs);
    Ok((model, description))
}

fn describe(model: &TypedModel, inputs: &[String], outputs: &[String]) -> Description {
    let port = |name: &String, fact: TractResult<&tract_onnx::prelude::TypedFact>| Port {
        name: name.clone(),
        shape: fact.map(|fact| format!("{fact:?}")).unwrap_or_default(),
    };
    Description {
        backend: "tract",
        inputs: (0..).zip(inputs).map(|(index, name)| port(name, model.input_fact(index))).collect(),
        outputs: (0..).zip(outputs).map(|(index, name)| port(name, model.output_fact(index))).collect(),
    }
}

// === impl TractModel ===

impl Loaded for TractModel {
    fn describe(&self) -> Description {
        self.description.clone()
    }

    fn run(&self, input: Tensor) -> Result<Vec<Tensor>, BackendError> {
        self.try_run(&input).map_err(BackendError::from_chain)
    }
}

impl TractModel {
    fn try_run(&self, input: &Tensor) -> TractResult<Vec<Tensor>> {
        let mut value = match &input.values {
            Values::F32(values) => TractTensor::from_shape(&input.shape, values)?,
            Values::U8(values) => TractTensor::from_shape(&input.shape, values)?,
        };
        // A quantised input has a type of its own over the same bytes.
        let wanted = self.plan.model().input_fact(0)?.datum_type;
        if wanted != value.datum_type() {
            value = value.cast_to_dt(wanted)?.into_owned();
        }
        self.plan.run(tvec!(value.into_tvalue()))?.into_iter().map(|output| tensor(&output)).collect()
    }
}

fn tensor(output: &TValue) -> TractResult<Tensor> {
    let shape = output.shape().to_vec();
    let unquantised = output.datum_type().unquantized();
    let values = if unquantised == <u8 as tract_onnx::prelude::Datum>::datum_type() {
        Values::U8(output.cast_to::<u8>()?.to_plain_array_view::<u8>()?.iter().copied().collect())
    } else {
        Values::F32(output.cast_to::<f32>()?.to_plain_array_view::<f32>()?.iter().copied().collect())
    };
    Ok(Tensor { shape, values })
}
