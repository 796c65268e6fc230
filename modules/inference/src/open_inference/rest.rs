//! The protocol over REST.

use std::{io::Read, sync::Arc};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{FromRequestParts, Path, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use serde::Deserialize;
use serde_json::{Value, json};
use shunt_infer::Port;

use super::{
    Card, EXTENSIONS, HEAVY, NO_LOADING, NO_LOGGING, NO_SHARED_MEMORY, NO_TRACING, OpenInference, SERVER,
    Statistics, VERSION,
    fault::Fault,
    json as form, lengths, note,
    outputs::{Content, Told, pick},
    size,
};

/// How many bytes of the body are JSON, where tensors in the binary form follow.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// So many bytes are unpacked at a time.
const PIECE: u64 = 256 * 1024;

/// What a path names.
#[derive(Debug, Deserialize)]
struct Target {
    model: String,
    #[serde(default)]
    version: String,
}

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Gzip,
    Zlib,
}

pub(super) fn routes() -> Router<OpenInference> {
    let refuse = |why: &'static str| any(move || async move { Fault::Unsupported(why) });
    let mut routes = Router::new()
        .route("/", get(server))
        .route("/health/live", get(|| async { Json(json!({"live": true})) }))
        .route("/health/ready", get(ready))
        .route("/models", get(models))
        .route("/models/stats", get(all_statistics))
        .route("/repository/index", post(index))
        .route("/repository/models/{model}/load", refuse(NO_LOADING))
        .route("/repository/models/{model}/unload", refuse(NO_LOADING))
        .route("/systemsharedmemory/{*rest}", refuse(NO_SHARED_MEMORY))
        .route("/cudasharedmemory/{*rest}", refuse(NO_SHARED_MEMORY))
        .route("/trace/setting", refuse(NO_TRACING))
        .route("/models/{model}/trace/setting", refuse(NO_TRACING))
        .route("/logging", refuse(NO_LOGGING));
    for model in ["/models/{model}", "/models/{model}/versions/{version}"] {
        routes = routes
            .route(model, get(metadata))
            .route(&format!("{model}/ready"), get(model_ready))
            .route(&format!("{model}/config"), get(config))
            .route(&format!("{model}/stats"), get(statistics))
            .route(&format!("{model}/infer"), post(infer_route));
    }
    let routes = routes
        .fallback(|| async {
            Fault::Unknown("the Open Inference Protocol has nothing here; see /openapi.json".to_owned())
        })
        .method_not_allowed_fallback(|method: Method| async move { Fault::Method(method.to_string()) });
    Router::new().nest("/v2", routes)
}

/// `GET /v2`
async fn server() -> Json<Value> {
    Json(json!({"name": SERVER, "version": env!("CARGO_PKG_VERSION"), "extensions": EXTENSIONS}))
}

/// `GET /v2/health/ready`. There are clients that read `live` here.
async fn ready(State(api): State<OpenInference>) -> Response {
    let ready = api.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"live": true, "ready": ready}))).into_response()
}

/// `GET /v2/models`, as `KServe` has it.
async fn models(State(api): State<OpenInference>) -> Json<Value> {
    let names: Vec<_> =
        api.0.served.list().iter().map(|engine| engine.pipeline().model().name().to_owned()).collect();
    Json(json!({"models": names}))
}

/// `POST /v2/repository/index`. What is served is ready; nothing else is told.
async fn index(State(api): State<OpenInference>) -> Json<Value> {
    let models = api.0.served.list();
    let entry = |name: &str| json!({"name": name, "version": VERSION, "state": "READY", "reason": ""});
    Json(models.iter().map(|engine| entry(engine.pipeline().model().name())).collect())
}

/// `GET /v2/models/NAME`
async fn metadata(State(api): State<OpenInference>, target: Target) -> Result<Json<Value>, Fault> {
    let engine = api.engine(&target.model, &target.version)?;
    let card = api.card(&engine);
    let ports = |ports: &[Port]| -> Value {
        let port = |port: &Port| json!({"name": port.name, "datatype": port.element.datatype(), "shape": lengths(&port.shape)});
        ports.iter().map(port).collect()
    };
    Ok(Json(json!({
        "name": card.name,
        "versions": [VERSION],
        "platform": card.platform,
        "inputs": ports(&card.description.inputs),
        "outputs": ports(&card.description.outputs),
    })))
}

/// `GET /v2/models/NAME/ready`
async fn model_ready(State(api): State<OpenInference>, target: Target) -> Result<Json<Value>, Fault> {
    api.engine(&target.model, &target.version)?;
    Ok(Json(json!({"name": target.model, "ready": true})))
}

/// `GET /v2/models/NAME/config`
async fn config(State(api): State<OpenInference>, target: Target) -> Result<Json<Value>, Fault> {
    let engine = api.engine(&target.model, &target.version)?;
    Ok(Json(api.card(&engine).config()))
}

/// `GET /v2/models/NAME/stats`
async fn statistics(State(api): State<OpenInference>, target: Target) -> Result<Json<Value>, Fault> {
    api.model_statistics(&target.model, &target.version).map(Json)
}

/// `GET /v2/models/stats`
async fn all_statistics(State(api): State<OpenInference>) -> Result<Json<Value>, Fault> {
    api.model_statistics("", "").map(Json)
}

/// `POST /v2/models/NAME/infer`
async fn infer_route(
    State(api): State<OpenInference>,
    target: Target,
    request: Request,
) -> Result<Response, Fault> {
    note(&api, api.infer(&target, request).await)
}

// === impl Target ===

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fault> {
        let Path(target) = Path::from_request_parts(parts, state).await.map_err(|rejection| {
            Fault::Unknown(format!("the path names no model: {}", rejection.body_text()))
        })?;
        Ok(target)
    }
}

// === impl OpenInference ===

impl OpenInference {
    async fn infer(&self, target: &Target, request: Request) -> Result<Response, Fault> {
        // Who asks for what is not here is told before the body comes. The model is not held while it comes: a client
        // that is slow would keep the memory of one that was exchanged long ago.
        self.engine(&target.model, &target.version)?;
        let (header, packing) = (json_length(request.headers())?, Packing::of(request.headers())?);
        let limit = self.0.served.settings().max_body();
        let (body, mut room) = self.0.body(request).await?;
        let engine = self.engine(&target.model, &target.version)?;
        let reader = Arc::clone(&engine);
        let heavy = packing.is_some() || body.len() > HEAVY;
        let call = self.apart(heavy, move || {
            let body = match packing {
                Some(packing) => packing.unpack(&body, limit, |bytes| Ok(room.grow(bytes, limit)?))?,
                None => body,
            };
            Ok((form::read(&body, header, reader.pipeline().model().describe())?, room))
        });
        let (call, _room) = call.await?;
        let ports = &engine.pipeline().model().describe().outputs;
        let picks = pick(ports, &call.wishes, call.binary)?;
        let told = self.run(&engine, call.tensors, picks).await?;
        let heavy = told.iter().map(Told::size).sum::<usize>() > HEAVY;
        let write = move || form::write(engine.pipeline().model().name(), call.id.as_deref(), &told);
        let written = self.apart(heavy, write).await?;
        let mut response = Body::from(written.body).into_response();
        let plain = HeaderValue::from_static("application/json");
        let kind = written.header.map_or(plain, |_| HeaderValue::from_static("application/octet-stream"));
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        if let Some(length) = written.header {
            response.headers_mut().insert(JSON_LENGTH, HeaderValue::from(length));
        }
        Ok(response)
    }

    fn model_statistics(&self, model: &str, version: &str) -> Result<Value, Fault> {
        let engines = self.engines(model, version)?;
        let models: Vec<_> = engines
            .iter()
            .map(|engine| {
                let name = engine.pipeline().model().name();
                self.statistics(name).json(name)
            })
            .collect();
        Ok(json!({"model_stats": models}))
    }
}

/// What the header says of the body; there may be tensors in the binary form only with it.
fn json_length(headers: &HeaderMap) -> Result<Option<usize>, Fault> {
    let Some(value) = headers.get(JSON_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    length.map(Some).ok_or_else(|| {
        Fault::Bad(format!(
            "the header Inference-Header-Content-Length is {value:?}, but must be a number of bytes"
        ))
    })
}

// === impl Packing ===

impl Packing {
    fn of(headers: &HeaderMap) -> Result<Option<Self>, Fault> {
        let Some(value) = headers.get(header::CONTENT_ENCODING) else { return Ok(None) };
        match value.as_bytes().trim_ascii().to_ascii_lowercase().as_slice() {
            b"" | b"identity" => Ok(None),
            b"gzip" | b"x-gzip" => Ok(Some(Self::Gzip)),
            // HTTP's name for zlib's form.
            b"deflate" => Ok(Some(Self::Zlib)),
            _ => Err(Fault::Encoding(String::from_utf8_lossy(value.as_bytes()).into_owned())),
        }
    }

    /// What is packed, if it is not larger than a body may be, and if there is room for each piece of it.
    fn unpack(
        self,
        packed: &[u8],
        limit: usize,
        mut room: impl FnMut(usize) -> Result<(), Fault>,
    ) -> Result<Bytes, Fault> {
        let mut reader: Box<dyn Read + '_> = match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(packed)),
            Self::Zlib => Box::new(ZlibDecoder::new(packed)),
        };
        let mut body = Vec::new();
        loop {
            let read = reader.by_ref().take(PIECE).read_to_end(&mut body);
            let read =
                read.map_err(|error| Fault::Bad(format!("the request cannot be unpacked: {error}")))?;
            if body.len() > limit {
                return Err(Fault::large(limit));
            }
            if read == 0 {
                return Ok(body.into());
            }
            room(read)?;
        }
    }
}

// === impl Card ===

impl Card<'_> {
    /// As Triton writes it.
    fn config(&self) -> Value {
        let ports = |ports: &[Port]| -> Value {
            let port = |port: &Port| {
                let datatype = format!("TYPE_{}", port.element.datatype());
                json!({"name": port.name, "data_type": datatype, "dims": self.dims(port)})
            };
            ports.iter().map(port).collect()
        };
        json!({
            "name": self.name,
            "platform": self.platform,
            "backend": self.backend,
            "version_policy": {"latest": {"num_versions": 1}},
            "max_batch_size": self.max_batch,
            "input": ports(&self.description.inputs),
            "output": ports(&self.description.outputs),
            "default_model_filename": self.file,
        })
    }
}

// === impl Statistics ===

impl Statistics {
    /// As Triton writes it.
    fn json(self, model: &str) -> Value {
        let part = |count: u64, ns: u64| json!({"count": count, "ns": ns});
        json!({
            "name": model,
            "version": VERSION,
            "inference_count": self.answered,
            "execution_count": self.runs,
            "inference_stats": {
                "success": part(self.answered, self.queue_ns + self.spent_ns),
                "fail": part(self.failed, 0),
                "queue": part(self.answered, self.queue_ns),
                "compute_input": part(self.runs, 0),
                "compute_infer": part(self.runs, self.model_ns),
                "compute_output": part(self.runs, 0),
            },
            "batch_stats": [],
        })
    }
}

// === impl Told ===

impl Told {
    /// About how many bytes it takes in the binary form.
    pub(super) fn size(&self) -> usize {
        match &self.content {
            Content::Values(values) => size(values),
            Content::Classes(classes) => classes.iter().map(|class| class.len() + 4).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{
        Compression,
        write::{GzEncoder, ZlibEncoder},
    };

    use super::*;

    #[test]
    fn packed_bodies_are_unpacked_up_to_the_limit() {
        let any = |_| Ok(());
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(&vec![7; 100_000]).unwrap();
        let gzip = gzip.finish().unwrap();
        assert!(gzip.len() < 1_000);
        assert_eq!(Packing::Gzip.unpack(&gzip, 100_000, any).unwrap().len(), 100_000);
        assert_eq!(Packing::Gzip.unpack(&gzip, 99_999, any), Err(Fault::large(99_999)));
        // Each piece is asked for: a small body that becomes a large one takes the room of the large one.
        let (mut taken, full) = (0, Fault::bad("no room"));
        let some = |bytes| {
            taken += bytes;
            if taken > 50_000 { Err(full.clone()) } else { Ok(()) }
        };
        assert_eq!(Packing::Gzip.unpack(&gzip, 100_000, some), Err(Fault::bad("no room")));
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(b"abc").unwrap();
        let zlib = zlib.finish().unwrap();
        assert_eq!(Packing::Zlib.unpack(&zlib, 3, any).unwrap(), "abc");
        assert!(matches!(Packing::Zlib.unpack(&gzip, 100_000, any), Err(Fault::Bad(_))));
        assert!(matches!(Packing::Gzip.unpack(&gzip[..gzip.len() - 3], 100_000, any), Err(Fault::Bad(_))));
    }
}
