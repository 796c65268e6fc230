//! The protocol over gRPC: HTTP/2 without TLS on the same port.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::State,
    http::Request as HttpRequest,
    response::Response as HttpResponse,
    routing::any,
};
use futures_core::Stream;
use hyper::body::Frame;
use parking_lot::Mutex;
use shunt_infer::{Element, Port, Tensor, Values};
use tokio::time::{Sleep, sleep};
use tonic::{Request, Response, Status, Streaming, codegen::Service as _};

use super::{
    Card, EXTENSIONS, HEAVY, NO_LOADING, NO_LOGGING, NO_SHARED_MEMORY, NO_TRACING, OpenInference, SERVER,
    Statistics, VERSION, binary,
    fault::Fault,
    inputs::{Inputs, Place},
    lengths, note,
    outputs::{Wish, pick},
};
use crate::api::Room;

/// Made from `proto/open_inference.proto`.
mod proto {
    #![allow(
        clippy::all,
        clippy::allow_attributes_without_reason,
        clippy::pedantic,
        missing_docs,
        unreachable_pub,
        reason = "the code is made by tonic-prost-build"
    )]
    include!(concat!(env!("OUT_DIR"), "/inference.rs"));
}

use proto::{
    DataType, InferParameter, InferStatistics, InferTensorContents, ModelConfig, ModelConfigRequest,
    ModelConfigResponse, ModelInferRequest, ModelInferResponse, ModelInput, ModelMetadataRequest,
    ModelMetadataResponse, ModelOutput, ModelReadyRequest, ModelReadyResponse, ModelStatistics,
    ModelStatisticsRequest, ModelStatisticsResponse, ModelStreamInferResponse, ModelVersionPolicy,
    RepositoryIndexRequest, RepositoryIndexResponse, ServerLiveRequest, ServerLiveResponse,
    ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
    StatisticDuration,
    grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer},
    infer_parameter::ParameterChoice,
    model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    model_infer_response::InferOutputTensor,
    model_metadata_response::TensorMetadata,
    model_version_policy::{Latest, PolicyChoice},
    repository_index_response::ModelIndex,
};

/// The parameter by which a client asks for a mark on the last answer to a request.
const WANTS_FINAL: &str = "triton_enable_empty_final_response";
/// That mark.
const FINAL: &str = "triton_final_response";

/// Room for what has been read of a request's messages; given back when the last answer was made.
#[derive(Debug, Clone, Default)]
struct Rooms(Arc<Mutex<Vec<Room>>>);

/// The body of a request, as far as there is room for it.
struct Metered {
    body: Body,
    api: OpenInference,
    limit: usize,
    rooms: Rooms,
    /// When a message of which a part is here must be here as a whole.
    late: Option<Pin<Box<Sleep>>>,
}

/// The answers to a stream of requests, one after the other in their order. Nothing is read ahead.
struct Answers {
    api: OpenInference,
    rooms: Rooms,
    state: AnswersState,
}

/// What a stream of answers waits for.
enum AnswersState {
    Requests(Box<Streaming<ModelInferRequest>>),
    Answer(Pin<Box<dyn Future<Output = AnswersStep> + Send>>),
    End,
}

/// An answer, and the requests that are still to come.
type AnswersStep = (ModelStreamInferResponse, Box<Streaming<ModelInferRequest>>);

pub(super) fn routes() -> Router<OpenInference> {
    Router::new().route("/inference.GRPCInferenceService/{method}", any(serve))
}

/// The message limit is that of the settings in force.
async fn serve(State(api): State<OpenInference>, request: HttpRequest<Body>) -> HttpResponse {
    if let Some(why) = unsupported(request.uri().path()) {
        return Status::from(Fault::Unsupported(why)).into_http();
    }
    let (limit, rooms) = (api.0.served.settings().max_body(), Rooms::default());
    let mut request =
        request.map(|body| Metered { body, api: api.clone(), limit, rooms: rooms.clone(), late: None });
    request.extensions_mut().insert(rooms.clone());
    let mut server = GrpcInferenceServiceServer::new(api).max_decoding_message_size(limit);
    let answered = server.call(request).await;
    // An answer to a single request is made; a stream of them keeps the rooms itself.
    drop(rooms);
    match answered {
        Ok(response) => response.map(Body::new),
        Err(never) => match never {},
    }
}

/// Why Triton's other methods are not answered.
fn unsupported(path: &str) -> Option<&'static str> {
    match path.rsplit('/').next()? {
        "RepositoryModelLoad" | "RepositoryModelUnload" => Some(NO_LOADING),
        "TraceSetting" => Some(NO_TRACING),
        "LogSettings" => Some(NO_LOGGING),
        method if method.starts_with("SystemSharedMemory") || method.starts_with("CudaSharedMemory") => {
            Some(NO_SHARED_MEMORY)
        }
        _ => None,
    }
}

// === impl OpenInference ===

#[tonic::async_trait]
impl GrpcInferenceService for OpenInference {
    type ModelStreamInferStream =
        Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;

    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: self.is_ready() }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        self.engine(&name, &version)?;
        Ok(Response::new(ModelReadyResponse { ready: true }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: SERVER.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: EXTENSIONS.map(ToOwned::to_owned).to_vec(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        let engine = self.engine(&name, &version)?;
        let card = self.card(&engine);
        let ports = |ports: &[Port]| {
            let port = |port: &Port| TensorMetadata {
                name: port.name.clone(),
                datatype: port.element.datatype().to_owned(),
                shape: lengths(&port.shape),
            };
            ports.iter().map(port).collect()
        };
        Ok(Response::new(ModelMetadataResponse {
            versions: vec![VERSION.to_owned()],
            inputs: ports(&card.description.inputs),
            outputs: ports(&card.description.outputs),
            platform: card.platform,
            name,
        }))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let answered = self.answer(request.into_inner()).await;
        Ok(Response::new(note(self, answered)?))
    }

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let rooms = request.extensions().get::<Rooms>().cloned().unwrap_or_default();
        let state = AnswersState::Requests(Box::new(request.into_inner()));
        Ok(Response::new(Box::pin(Answers { api: self.clone(), rooms, state })))
    }

    async fn model_config(
        &self,
        request: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        let ModelConfigRequest { name, version } = request.into_inner();
        let engine = self.engine(&name, &version)?;
        Ok(Response::new(ModelConfigResponse { config: Some(self.card(&engine).into()) }))
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        let ModelStatisticsRequest { name, version } = request.into_inner();
        let engines = self.engines(&name, &version)?;
        let one = |name: &str| self.statistics(name).message(name);
        let model_stats = engines.iter().map(|engine| one(engine.pipeline().model().name())).collect();
        Ok(Response::new(ModelStatisticsResponse { model_stats }))
    }

    async fn repository_index(
        &self,
        _: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        let entry = |name: &str| ModelIndex {
            name: name.to_owned(),
            version: VERSION.to_owned(),
            state: "READY".to_owned(),
            reason: String::new(),
        };
        let models = self.0.served.list();
        let models = models.iter().map(|engine| entry(engine.pipeline().model().name())).collect();
        Ok(Response::new(RepositoryIndexResponse { models }))
    }
}

impl OpenInference {
    async fn answer(&self, request: ModelInferRequest) -> Result<ModelInferResponse, Fault> {
        let engine = self.engine(&request.model_name, &request.model_version)?;
        refuse_sequence(&request.parameters)?;
        let wishes = request.outputs.into_iter().map(InferRequestedOutputTensor::wish);
        let ports = &engine.pipeline().model().describe().outputs;
        let picks = pick(ports, &wishes.collect::<Result<Vec<_>, _>>()?, true)?;
        let (inputs, raw) = (request.inputs, request.raw_input_contents);
        let typed = inputs.iter().filter_map(|input| input.contents.as_ref());
        let size =
            raw.iter().map(Bytes::len).sum::<usize>() + typed.map(InferTensorContents::size).sum::<usize>();
        let reader = Arc::clone(&engine);
        let read = move || tensors(&reader.pipeline().model().describe().inputs, inputs, raw);
        let tensors = self.apart(size > HEAVY, read).await?;
        let told = Arc::new(self.run(&engine, tensors, picks).await?);
        let heavy = told.iter().map(super::Told::size).sum::<usize>() > HEAVY;
        let written = Arc::clone(&told);
        let write = move || Ok(written.iter().map(super::Told::bytes).collect());
        let raw_output_contents = self.apart(heavy, write).await?;
        let output = |told: &super::Told| InferOutputTensor {
            name: told.name.clone(),
            datatype: told.datatype().to_owned(),
            shape: told.shape.iter().map(|length| *length as i64).collect(),
            ..InferOutputTensor::default()
        };
        let mut parameters = HashMap::new();
        if bool_parameter(&request.parameters, WANTS_FINAL) {
            let choice = Some(ParameterChoice::BoolParam(true));
            parameters.insert(FINAL.to_owned(), InferParameter { parameter_choice: choice });
        }
        Ok(ModelInferResponse {
            model_name: request.model_name,
            model_version: VERSION.to_owned(),
            id: request.id,
            parameters,
            outputs: told.iter().map(output).collect(),
            raw_output_contents,
        })
    }
}

/// The tensors of a request, in the order of the model's inputs.
fn tensors(ports: &[Port], sent: Vec<InferInputTensor>, raw: Vec<Bytes>) -> Result<Vec<Tensor>, Fault> {
    if !raw.is_empty() && raw.len() != sent.len() {
        let (raw, inputs) = (raw.len(), sent.len());
        return Err(Fault::Bad(format!("there are {raw} raw_input_contents, but {inputs} inputs")));
    }
    let mut inputs = Inputs::new(ports);
    let mut raw = raw.into_iter();
    for input in sent {
        let place = inputs.place(&input.name, &input.datatype, &input.shape)?;
        let values = input.values(&place, raw.next().as_deref())?;
        inputs.put(place, values);
    }
    inputs.finish()
}

// === impl Metered ===

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.rooms.0.lock().is_empty() {
            self.late = None;
        }
        let frame = match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(frame)) => frame,
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {
                let Some(late) = &mut self.late else { return Poll::Pending };
                ready!(late.as_mut().poll(context));
                let text = format!("the request did not come within {} s", self.api.0.reading.as_secs_f64());
                return Poll::Ready(Some(Err(Status::deadline_exceeded(text))));
            }
        };
        let frame = frame.map_err(|error| Status::cancelled(error.to_string()))?;
        if let Some(data) = frame.data_ref() {
            let room = self
                .api
                .0
                .room(data.len(), self.limit)
                .map_err(|problem| Status::from(Fault::from(problem)))?;
            self.rooms.0.lock().push(room);
            let limit = self.api.0.reading;
            self.late.get_or_insert_with(|| Box::pin(sleep(limit)));
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

// === impl Answers ===

impl Stream for Answers {
    type Item = Result<ModelStreamInferResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let step = match &mut self.state {
                AnswersState::End => return Poll::Ready(None),
                AnswersState::Answer(answer) => {
                    let (answer, requests) = ready!(answer.as_mut().poll(context));
                    self.state = AnswersState::Requests(requests);
                    self.rooms.0.lock().clear();
                    return Poll::Ready(Some(Ok(answer)));
                }
                AnswersState::Requests(requests) => ready!(Pin::new(&mut **requests).poll_next(context)),
            };
            match (step, std::mem::replace(&mut self.state, AnswersState::End)) {
                (Some(Ok(request)), AnswersState::Requests(requests)) => {
                    self.state =
                        AnswersState::Answer(Box::pin(answer_one(self.api.clone(), request, requests)));
                }
                (Some(Err(status)), _) => return Poll::Ready(Some(Err(status))),
                _ => return Poll::Ready(None),
            }
        }
    }
}

/// What is wrong with one request of a stream does not end it.
async fn answer_one(
    api: OpenInference,
    request: ModelInferRequest,
    requests: Box<Streaming<ModelInferRequest>>,
) -> AnswersStep {
    let id = request.id.clone();
    let answer = match note(&api, api.answer(request).await) {
        Ok(answer) => ModelStreamInferResponse { error_message: String::new(), infer_response: Some(answer) },
        Err(fault) => ModelStreamInferResponse {
            error_message: Status::from(fault).message().to_owned(),
            // The client tells by it which request is meant.
            infer_response: Some(ModelInferResponse { id, ..ModelInferResponse::default() }),
        },
    };
    (answer, requests)
}

// === impl InferInputTensor ===

impl InferInputTensor {
    fn values(self, place: &Place, raw: Option<&[u8]>) -> Result<Values, Fault> {
        if self.parameters.contains_key("shared_memory_region") {
            return Err(super::no_shared_memory());
        }
        match (raw, self.contents) {
            (Some(_), Some(_)) => Err(place.wrong("it has both contents and raw_input_contents")),
            (None, None) => Err(place.wrong("it has neither contents nor raw_input_contents")),
            (Some(raw), None) => {
                binary::values(raw, place.element, place.count).map_err(|error| place.wrong(error))
            }
            (None, Some(contents)) => contents.values(place),
        }
    }
}

// === impl InferTensorContents ===

impl InferTensorContents {
    /// About how many bytes its values take.
    fn size(&self) -> usize {
        let four = self.int_contents.len() + self.uint_contents.len() + self.fp32_contents.len();
        let eight = self.int64_contents.len() + self.uint64_contents.len() + self.fp64_contents.len();
        self.bool_contents.len() + 4 * four + 8 * eight
    }

    /// The values in the field of the place's type.
    fn values(self, place: &Place) -> Result<Values, Fault> {
        let values = match place.element {
            Element::Bool => Values::Bool(self.bool_contents),
            Element::U8 => Values::U8(narrowed(self.uint_contents, place)?),
            Element::U16 => Values::U16(narrowed(self.uint_contents, place)?),
            Element::U32 => Values::U32(self.uint_contents),
            Element::U64 => Values::U64(self.uint64_contents),
            Element::I8 => Values::I8(narrowed(self.int_contents, place)?),
            Element::I16 => Values::I16(narrowed(self.int_contents, place)?),
            Element::I32 => Values::I32(self.int_contents),
            Element::I64 => Values::I64(self.int64_contents),
            Element::F16 => return Err(place.wrong("FP16 is taken in raw_input_contents only")),
            Element::F32 => Values::F32(self.fp32_contents),
            Element::F64 => Values::F64(self.fp64_contents),
        };
        if values.len() != place.count {
            let (found, datatype) = (values.len(), place.element.datatype());
            let text = format!(
                "it has {found} values in the field of {datatype}, but its shape {:?} needs {}",
                place.shape, place.count
            );
            return Err(place.wrong(text));
        }
        Ok(values)
    }
}

fn narrowed<T: Copy + std::fmt::Display, U: TryFrom<T>>(
    values: Vec<T>,
    place: &Place,
) -> Result<Vec<U>, Fault> {
    let one = |(index, value): (usize, T)| {
        U::try_from(value).map_err(|_| {
            let datatype = place.element.datatype();
            place.wrong(format!("the value {value} at index {index} is out of the range of {datatype}"))
        })
    };
    values.into_iter().enumerate().map(one).collect()
}

// === impl InferRequestedOutputTensor ===

impl InferRequestedOutputTensor {
    fn wish(self) -> Result<Wish, Fault> {
        if self.parameters.contains_key("shared_memory_region") {
            return Err(super::no_shared_memory());
        }
        let classes =
            match self.parameters.get("classification").and_then(|value| value.parameter_choice.as_ref()) {
                None => Some(0),
                Some(ParameterChoice::Int64Param(count)) => usize::try_from(*count).ok(),
                Some(ParameterChoice::Uint64Param(count)) => usize::try_from(*count).ok(),
                Some(_) => None,
            };
        let Some(classes) = classes else {
            return Err(Fault::bad("the parameter classification must be a whole number from 0"));
        };
        Ok(Wish { name: self.name, binary: None, classes })
    }
}

fn bool_parameter(parameters: &HashMap<String, InferParameter>, name: &str) -> bool {
    let choice = parameters.get(name).and_then(|value| value.parameter_choice.as_ref());
    matches!(choice, Some(ParameterChoice::BoolParam(true)))
}

fn refuse_sequence(parameters: &HashMap<String, InferParameter>) -> Result<(), Fault> {
    match parameters.get("sequence_id").and_then(|value| value.parameter_choice.as_ref()) {
        None | Some(ParameterChoice::Int64Param(0) | ParameterChoice::Uint64Param(0)) => Ok(()),
        Some(ParameterChoice::StringParam(id)) if id.is_empty() => Ok(()),
        Some(_) => Err(super::no_sequence()),
    }
}

fn data_type(element: Element) -> DataType {
    match element {
        Element::Bool => DataType::TypeBool,
        Element::U8 => DataType::TypeUint8,
        Element::U16 => DataType::TypeUint16,
        Element::U32 => DataType::TypeUint32,
        Element::U64 => DataType::TypeUint64,
        Element::I8 => DataType::TypeInt8,
        Element::I16 => DataType::TypeInt16,
        Element::I32 => DataType::TypeInt32,
        Element::I64 => DataType::TypeInt64,
        Element::F16 => DataType::TypeFp16,
        Element::F32 => DataType::TypeFp32,
        Element::F64 => DataType::TypeFp64,
    }
}

// === impl ModelConfig ===

impl From<Card<'_>> for ModelConfig {
    fn from(card: Card<'_>) -> Self {
        let input = |port: &Port| ModelInput {
            name: port.name.clone(),
            data_type: data_type(port.element).into(),
            dims: card.dims(port),
        };
        let output = |port: &Port| ModelOutput {
            name: port.name.clone(),
            data_type: data_type(port.element).into(),
            dims: card.dims(port),
            label_filename: String::new(),
        };
        let latest = PolicyChoice::Latest(Latest { num_versions: 1 });
        Self {
            name: card.name.to_owned(),
            version_policy: Some(ModelVersionPolicy { policy_choice: Some(latest) }),
            max_batch_size: card.max_batch as i32,
            input: card.description.inputs.iter().map(input).collect(),
            output: card.description.outputs.iter().map(output).collect(),
            backend: card.backend.to_owned(),
            platform: card.platform,
            default_model_filename: card.file,
        }
    }
}

// === impl Statistics ===

impl Statistics {
    fn message(self, model: &str) -> ModelStatistics {
        let part = |count: u64, ns: u64| Some(StatisticDuration { count, ns });
        ModelStatistics {
            name: model.to_owned(),
            version: VERSION.to_owned(),
            last_inference: 0,
            inference_count: self.answered,
            execution_count: self.runs,
            inference_stats: Some(InferStatistics {
                success: part(self.answered, self.queue_ns + self.spent_ns),
                fail: part(self.failed, 0),
                queue: part(self.answered, self.queue_ns),
                compute_input: part(self.runs, 0),
                compute_infer: part(self.runs, self.model_ns),
                compute_output: part(self.runs, 0),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{InferenceSettings, api::Api, served::Served, tally::Tally};

    /// In memory these would take a hundred times as much as on the wire.
    #[tokio::test]
    async fn a_message_of_very_many_empty_inputs_is_refused_before_it_is_made() {
        let served = Served::new(Arc::new(InferenceSettings::default()));
        let api = OpenInference(Api::new(served, Tally::new().unwrap()));
        for (inputs, expected) in [(300, "256"), (200, "no%20model")] {
            let message = [0x2a, 0].repeat(inputs);
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            let request = HttpRequest::post("/inference.GRPCInferenceService/ModelInfer")
                .header("content-type", "application/grpc")
                .body(Body::from([&[0][..], &length, &message].concat()))
                .unwrap();
            let response = serve(State(api.clone()), request).await;
            let said = response.headers()["grpc-message"].to_str().unwrap();
            assert!(said.contains(expected), "{said}");
        }
    }
}
