//! The Open Inference Protocol, version 2, as Triton Inference Server and `KServe` speak it: over REST and over gRPC, on
//! the module's one port.
//!
//! What of Triton's extensions there is: binary tensor data, classification, model configuration, statistics, and the
//! index of the repository. What there is not is refused with the reason: shared memory, tracing, sequences, and loading
//! by request (models are swapped by the module's twin). A model has one version, `1`.

mod binary;
mod codec;
mod fault;
mod grpc;
mod inputs;
mod json;
mod numbers;
mod outputs;
mod rest;

use std::sync::Arc;

use axum::Router;
use shunt_infer::{Description, Output, Port, Tensor, Values};

use crate::{
    api::Api,
    engine::{Engine, Pipeline},
};
use fault::Fault;
use outputs::{Labels, Pick, Told};

/// The version that each model has.
const VERSION: &str = "1";
/// The name of this server.
const SERVER: &str = "shunt-inference";
/// Triton's names of what is understood beyond the protocol.
const EXTENSIONS: [&str; 5] =
    ["classification", "model_configuration", "binary_tensor_data", "parameters", "statistics"];
/// Why no model is loaded or unloaded by request.
const NO_LOADING: &str = "models are loaded and swapped by the settings model, expression_model and models of the module's \
                          twin, not by request";
const NO_TRACING: &str = "requests are not traced here; /metrics tells how long they took";
/// From so many bytes on, values are read and written on a thread for heavy work.
const HEAVY: usize = 32 * 1024;
const NO_LOGGING: &str = "the log is set by the direct method setLogLevel, not by request";
const NO_SHARED_MEMORY: &str = "shared memory is not taken; send tensors with the request";

/// What both forms of the protocol share.
#[derive(Debug, Clone)]
struct OpenInference(Api);

/// A model as the protocol tells of it.
#[derive(Debug)]
struct Card<'a> {
    name: &'a str,
    backend: &'static str,
    /// As Triton names it: back end and format.
    platform: String,
    file: String,
    description: &'a Description,
    /// Most rows of a batch; 0 where the first axis of the tensors is not left open.
    max_batch: u32,
}

/// How often and how long a model ran.
#[derive(Debug, Clone, Copy)]
struct Statistics {
    answered: u64,
    failed: u64,
    runs: u64,
    /// Nanoseconds that the answered ones waited, together.
    queue_ns: u64,
    /// Nanoseconds of all runs together.
    model_ns: u64,
    /// Nanoseconds that the answered ones spent in runs: one of four that ran together counts in each of the four.
    spent_ns: u64,
}

/// The routes of both forms.
pub(crate) fn routes(api: Api) -> Router {
    rest::routes().merge(grpc::routes()).with_state(OpenInference(api))
}

fn no_shared_memory() -> Fault {
    Fault::bad(NO_SHARED_MEMORY)
}

fn no_sequence() -> Fault {
    Fault::bad("models here keep no state between requests: sequence_id must not be given, or be 0")
}

/// The lengths of a shape as the protocol writes them: -1 for any.
fn lengths(shape: &[Option<usize>]) -> Vec<i64> {
    shape.iter().map(|length| length.map_or(-1, |length| length as i64)).collect()
}

// === impl OpenInference ===

impl OpenInference {
    /// Is there a model that could answer?
    fn is_ready(&self) -> bool {
        !self.0.served.list().is_empty()
    }

    /// The model of this name and version; an empty version is the one that there is.
    fn engine(&self, model: &str, version: &str) -> Result<Arc<Engine>, Fault> {
        let Some(engine) = self.0.served.get(model) else {
            let names: Vec<String> = self
                .0
                .served
                .list()
                .iter()
                .map(|engine| engine.pipeline().model().name().to_owned())
                .collect();
            return Err(if names.is_empty() {
                Fault::Unavailable("no model is loaded; /readyz says why".to_owned())
            } else {
                let names = names.join(", ");
                Fault::Unknown(format!(
                    "the model {model:?} is not served; served are {names}, and more by the setting models"
                ))
            });
        };
        if version.is_empty() || version == VERSION {
            Ok(engine)
        } else {
            Err(Fault::Unknown(format!("the model {model:?} has no version {version:?}, only {VERSION:?}")))
        }
    }

    /// Those of one model, or of all where the name is empty.
    fn engines(&self, model: &str, version: &str) -> Result<Vec<Arc<Engine>>, Fault> {
        if model.is_empty() {
            Ok(self.0.served.list())
        } else {
            self.engine(model, version).map(|engine| vec![engine])
        }
    }

    fn card<'a>(&self, engine: &'a Engine) -> Card<'a> {
        let model = engine.pipeline().model();
        let (entry, description) = (model.entry(), model.describe());
        let format = format!("{:?}", entry.format).to_lowercase();
        let batches = description.batches();
        Card {
            name: model.name(),
            backend: description.backend,
            platform: format!("{}_{format}", description.backend),
            file: entry.file.display().to_string(),
            max_batch: if batches { self.0.served.settings().batch.max(1) } else { 0 },
            description,
        }
    }

    /// Runs the model and gives the outputs that are wished.
    async fn run(
        &self,
        engine: &Arc<Engine>,
        tensors: Vec<Tensor>,
        picks: Vec<Pick>,
    ) -> Result<Vec<Told>, Fault> {
        let answer = engine.infer(tensors).await?;
        let bytes: usize = answer.outputs.iter().map(|output| size(&output.values)).sum();
        // Values are handed on; classes are made of all of them.
        let heavy = bytes > HEAVY && picks.iter().any(|pick| pick.is_for_classes());
        let engine = Arc::clone(engine);
        let tell = move || {
            let ports = &engine.pipeline().model().describe().outputs;
            outputs::tell(ports, answer.outputs, &picks, &labels(&engine, &picks))
        };
        self.apart(heavy, tell).await
    }

    /// Does this here, or on a thread for heavy work (law 6).
    async fn apart<T: Send + 'static>(
        &self,
        heavy: bool,
        work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        if heavy { self.0.heavy(move || Ok(work())).await? } else { work() }
    }

    fn statistics(&self, model: &str) -> Statistics {
        let tally = self.0.tally.of(model);
        let nanoseconds = |seconds: f64| (seconds * 1e9) as u64;
        Statistics {
            answered: tally.requests.get(),
            failed: tally.failed.get(),
            runs: tally.model.get_sample_count(),
            queue_ns: nanoseconds(tally.queue.get_sample_sum()),
            model_ns: nanoseconds(tally.model.get_sample_sum()),
            spent_ns: nanoseconds(tally.spent.get()),
        }
    }
}

/// The bytes of values.
fn size(values: &Values) -> usize {
    values.len() * values.element().size()
}

/// Counts a request that the caller has got wrong.
fn note<T>(api: &OpenInference, answered: Result<T, Fault>) -> Result<T, Fault> {
    if answered.as_ref().is_err_and(Fault::is_callers) {
        api.0.tally.bad_request("open_inference");
    }
    answered
}

/// The classes' names, where a wish is for classes.
fn labels(engine: &Engine, picks: &[Pick]) -> Labels {
    let pipeline = engine.pipeline();
    let (model, batches) = (pipeline.model(), pipeline.model().describe().batches());
    let wished = picks.iter().any(|pick| pick.is_for_classes());
    let named = match (&model.entry().output, pipeline) {
        _ if !wished => None,
        (Some(Output::Classes { values, .. }), Pipeline::Classifier(classifier)) => {
            Some((values.clone(), classifier.labels().to_vec()))
        }
        (Some(Output::Expression { values, labels, .. }), _) => {
            Some((values.clone(), labels.iter().map(|label| label.as_str().to_owned()).collect()))
        }
        _ => None,
    };
    let (output, names) = named.unwrap_or_default();
    Labels { output, names, batches }
}

// === impl Card ===

impl Card<'_> {
    /// The lengths of a port's axes, without that of the batch where the model has one.
    fn dims(&self, port: &Port) -> Vec<i64> {
        let skip = usize::from(self.max_batch > 0);
        lengths(port.shape.get(skip..).unwrap_or_default())
    }
}
