//! State: `/v1.0/state/<store>`, as Dapr's state API 1.x.
//!
//! One gateway serves all modules of a device, so nobody's state is set apart by itself: a request with the header
//! `dapr-app-id` works on that app's keys, `<app>||<key>` in the store as in Dapr's; one without works on keys that
//! all share. Two departures from Dapr, both stricter: the objects of one save are saved together or not at all, and
//! an etag is never given twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Query, State, rejection::BytesRejection},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use shunt_module::Problems;
use shunt_wire::Name;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    Gateway, GatewaySettings,
    problem::Problem,
    store::{
        Change, Condition, Item, LARGEST_VALUE, LONGEST_KEY, MOST_OPERATIONS, Operation, StateStore,
        StoreError, StoreSettings, Stores,
    },
};

/// The largest request in bytes, that of Dapr.
const LARGEST_REQUEST: usize = 4 * 1024 * 1024;
/// The longest life of a key, seconds.
const LONGEST_LIFE: i64 = u32::MAX as i64;
/// What stands between the app and the key.
const SEPARATOR: &str = "||";

/// The state stores, as settings have them.
#[derive(Debug)]
pub(crate) struct Shelf {
    folder: PathBuf,
    stores: RwLock<Stores>,
}

/// The query: `metadata.<name>=<value>` and others.
type Parameters = Query<Vec<(String, String)>>;

#[derive(Debug, Deserialize)]
struct SaveRequest {
    #[serde(default)]
    key: String,
    value: Option<Box<RawValue>>,
    etag: Option<String>,
    metadata: Option<BTreeMap<String, String>>,
    options: Option<Options>,
}

#[derive(Debug, Default, Deserialize)]
struct Options {
    concurrency: Option<String>,
    consistency: Option<String>,
}

#[derive(Debug, Deserialize)]
struct BulkRequest {
    #[serde(default)]
    keys: Vec<String>,
}

#[derive(Debug, Serialize)]
struct BulkItem {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<&'static str, String>,
}

#[derive(Debug, Deserialize)]
struct TransactionRequest {
    #[serde(default)]
    operations: Vec<TransactionOperation>,
    metadata: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
struct TransactionOperation {
    #[serde(default)]
    operation: String,
    request: Box<RawValue>,
}

/// One store, and whose keys.
struct Desk {
    name: String,
    store: Arc<dyn StateStore>,
    /// Before each key: `<app>||`, or nothing.
    prefix: String,
}

/// Notes what is wrong with the settings of the stores.
pub(crate) fn check(settings: &GatewaySettings, problems: &mut Problems) {
    StoreSettings::check(&settings.stores, problems);
}

/// The routes.
pub(crate) fn routes() -> Router<Gateway> {
    // A key may be called `bulk` or `transaction`, too.
    Router::new()
        .route("/v1.0/state/{store}", post(save).put(save))
        .route("/v1.0/state/{store}/bulk", post(bulk).put(bulk).get(read_bulk).delete(delete_bulk))
        .route(
            "/v1.0/state/{store}/transaction",
            post(transaction).put(transaction).get(read_transaction).delete(delete_transaction),
        )
        .route("/v1.0/state/{store}/{key}", get(read).delete(delete))
        .route("/v1.0-alpha1/state/{store}/query", post(query).put(query))
        .layer(DefaultBodyLimit::max(LARGEST_REQUEST))
}

/// The stores, for `/v1.0/metadata`: `name`, `type`, `version`, `capabilities`.
pub(crate) fn components(gateway: &Gateway) -> Vec<Value> {
    let component = |(name, kind): (String, &str)| {
        let capabilities = ["ETAG", "TRANSACTIONAL", "TTL"];
        json!({"name": name, "type": format!("state.{kind}"), "version": "v1", "capabilities": capabilities})
    };
    gateway.shelf.stores.read().kinds().into_iter().map(component).collect()
}

// === impl Shelf ===

impl Shelf {
    /// The stores of these settings, their files in this folder.
    pub(crate) fn new(folder: PathBuf, settings: &GatewaySettings) -> Self {
        let shelf = Self { folder, stores: RwLock::default() };
        shelf.set(settings);
        shelf
    }

    /// Other settings. Requests at work keep the store that they have.
    pub(crate) fn set(&self, settings: &GatewaySettings) {
        let changed = self.stores.read().changed(&settings.stores, &self.folder);
        *self.stores.write() = changed;
    }

    fn desk(&self, name: &str, headers: &HeaderMap) -> Result<Desk, Problem> {
        let app = app_of(headers)?;
        let Some(store) = self.stores.read().get(name) else {
            let message = format!("state store {name} is not found");
            return Err(Problem::new(StatusCode::BAD_REQUEST, "ERR_STATE_STORE_NOT_FOUND", message));
        };
        let prefix = app.map_or_else(String::new, |app| format!("{app}{SEPARATOR}"));
        Ok(Desk { name: name.to_owned(), store, prefix })
    }
}

/// The app that calls, where it says so: the header `dapr-app-id`.
pub(crate) fn app_of(headers: &HeaderMap) -> Result<Option<Name>, Problem> {
    let Some(app) = headers.get("dapr-app-id") else { return Ok(None) };
    let app = app.to_str().map_err(|_| Problem::malformed("the header dapr-app-id is no text"))?;
    if app.is_empty() {
        return Ok(None);
    }
    app.parse().map(Some).map_err(|error| Problem::malformed(format!("the header dapr-app-id: {error}")))
}

// === impl Desk ===

impl Desk {
    fn key(&self, key: &str) -> Result<String, Problem> {
        if key.is_empty() {
            return Err(Problem::malformed("\"key\" is a required field"));
        }
        if key.contains(SEPARATOR) {
            return Err(Problem::malformed(format!(
                "input key/keyPrefix '{key}' can't contain '{SEPARATOR}'"
            )));
        }
        let whole = format!("{}{key}", self.prefix);
        if whole.len() > LONGEST_KEY {
            let problem = format!("a key of {} bytes is longer than {LONGEST_KEY}", whole.len());
            return Err(Problem::malformed(problem));
        }
        Ok(whole)
    }

    fn set(&self, request: SaveRequest, shared: &BTreeMap<String, String>) -> Result<Operation, Problem> {
        let key = self.key(&request.key)?;
        let value = request.value.map_or_else(|| "null".to_owned(), |value| value.get().to_owned());
        if value.len() > LARGEST_VALUE {
            let key = request.key;
            let problem =
                format!("the value of {key:?} has {} bytes, {LARGEST_VALUE} are allowed", value.len());
            return Err(Problem::malformed(problem));
        }
        let condition = condition(request.etag.as_deref(), &request.options.unwrap_or_default())?;
        let mut metadata = request.metadata.unwrap_or_default();
        metadata.extend(shared.clone());
        let change = Change::Set { value: value.into(), ttl_s: ttl(&metadata)? };
        Ok(Operation { key, condition, change })
    }

    fn remove(&self, request: SaveRequest) -> Result<Operation, Problem> {
        let key = self.key(&request.key)?;
        let condition = deletion(request.etag.as_deref(), &request.options.unwrap_or_default())?;
        Ok(Operation { key, condition, change: Change::Delete })
    }

    async fn read(&self, key: &str) -> Result<Response, Problem> {
        let whole = self.key(key)?;
        let items = self.store.get(vec![whole]).await;
        let mut items = items.map_err(|error| {
            let message = format!("fail to get {key} from state store {}: {error}", self.name);
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "ERR_STATE_GET", message)
        })?;
        let Some(item) = items.pop().flatten() else { return Ok(StatusCode::NO_CONTENT.into_response()) };
        let end = end_of(&item);
        let mut response = Response::new(item.value.into());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Ok(etag) = HeaderValue::from_str(&item.etag) {
            headers.insert(header::ETAG, etag);
        }
        if let Some(end) = end.and_then(|end| HeaderValue::from_str(&end).ok()) {
            headers.insert(HeaderName::from_static("metadata.ttlexpiretime"), end);
        }
        Ok(response)
    }

    async fn delete(
        &self,
        key: &str,
        headers: &HeaderMap,
        parameters: &[(String, String)],
    ) -> Result<Response, Problem> {
        let parameter = |name: &str| {
            let found = parameters.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone())
        };
        let options =
            Options { concurrency: parameter("concurrency"), consistency: parameter("consistency") };
        let etag = headers.get(header::IF_MATCH).and_then(|etag| etag.to_str().ok());
        let condition = deletion(etag, &options)?;
        let operation = Operation { key: self.key(key)?, condition, change: Change::Delete };
        match self.store.apply(vec![operation]).await {
            Ok(()) => Ok(StatusCode::NO_CONTENT.into_response()),
            Err(error) => {
                let message = format!("failed deleting state with key {key}: {error}");
                Err(Problem::new(status_of(&error), "ERR_STATE_DELETE", message))
            }
        }
    }
}

async fn save(
    State(gateway): State<Gateway>,
    Path(store): Path<String>,
    Query(parameters): Parameters,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Problem> {
    let desk = gateway.shelf.desk(&store, &headers)?;
    let requests: Vec<SaveRequest> =
        serde_json::from_slice(&whole(body)?).map_err(|error| Problem::malformed(error.to_string()))?;
    few(requests.len())?;
    let shared = metadata(&parameters);
    let operations = requests.into_iter().map(|request| desk.set(request, &shared));
    let operations: Vec<_> = operations.collect::<Result<_, _>>()?;
    if operations.is_empty() {
        return Ok(StatusCode::NO_CONTENT);
    }
    desk.store.apply(operations).await.map_err(|error| {
        let message = format!("failed saving state in state store {store}: {error}");
        Problem::new(status_of(&error), "ERR_STATE_SAVE", message)
    })?;
    Ok(StatusCode::NO_CONTENT)
}

async fn read(
    State(gateway): State<Gateway>,
    Path((store, key)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    gateway.shelf.desk(&store, &headers)?.read(&key).await
}

async fn read_bulk(
    gateway: State<Gateway>,
    Path(store): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    read(gateway, Path((store, "bulk".to_owned())), headers).await
}

async fn read_transaction(
    gateway: State<Gateway>,
    Path(store): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    read(gateway, Path((store, "transaction".to_owned())), headers).await
}

async fn delete(
    State(gateway): State<Gateway>,
    Path((store, key)): Path<(String, String)>,
    Query(parameters): Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    gateway.shelf.desk(&store, &headers)?.delete(&key, &headers, &parameters).await
}

async fn delete_bulk(
    gateway: State<Gateway>,
    Path(store): Path<String>,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    delete(gateway, Path((store, "bulk".to_owned())), parameters, headers).await
}

async fn delete_transaction(
    gateway: State<Gateway>,
    Path(store): Path<String>,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    delete(gateway, Path((store, "transaction".to_owned())), parameters, headers).await
}

async fn bulk(
    State(gateway): State<Gateway>,
    Path(store): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Vec<BulkItem>>, Problem> {
    let desk = gateway.shelf.desk(&store, &headers)?;
    let request: BulkRequest = serde_json::from_slice(&whole(body)?).map_err(|error| unreadable(&error))?;
    few(request.keys.len())?;
    // Each is answered once, however often it is asked for.
    let asked = request.keys.into_iter().collect::<BTreeSet<_>>();
    let keys = asked.iter().map(|key| desk.key(key)).collect::<Result<Vec<_>, _>>()?;
    let items = if keys.is_empty() { Ok(Vec::new()) } else { desk.store.get(keys).await };
    let items = items.map_err(|error| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "ERR_STATE_BULK_GET", error.to_string())
    })?;
    Ok(Json(asked.into_iter().zip(items).map(|(key, item)| BulkItem::new(key, item)).collect()))
}

async fn transaction(
    State(gateway): State<Gateway>,
    Path(store): Path<String>,
    Query(parameters): Parameters,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Problem> {
    let desk = gateway.shelf.desk(&store, &headers)?;
    let request: TransactionRequest =
        serde_json::from_slice(&whole(body)?).map_err(|error| unreadable(&error))?;
    let count = request.operations.len();
    if count > MOST_OPERATIONS {
        let message = format!(
            "the transaction contains {count} operations, which is more than what the state store supports: {MOST_OPERATIONS}"
        );
        let code = "ERR_STATE_STORE_TOO_MANY_TRANSACTIONS";
        return Err(Problem::new(StatusCode::BAD_REQUEST, code, message));
    }
    let mut shared = request.metadata.unwrap_or_default();
    shared.extend(metadata(&parameters));
    let mut operations = Vec::with_capacity(count);
    for TransactionOperation { operation, request } in request.operations {
        let request = || serde_json::from_str(request.get()).map_err(|error| unreadable(&error));
        operations.push(match operation.as_str() {
            "upsert" => desk.set(request()?, &shared)?,
            "delete" => desk.remove(request()?)?,
            other => {
                let message = format!("operation type {other} not supported");
                let code = "ERR_NOT_SUPPORTED_STATE_OPERATION";
                return Err(Problem::new(StatusCode::BAD_REQUEST, code, message));
            }
        });
    }
    if operations.is_empty() {
        return Ok(StatusCode::NO_CONTENT);
    }
    // Dapr answers 500 also where an etag is another.
    desk.store.apply(operations).await.map_err(|error| {
        let message = format!("error while executing state transaction: {error}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "ERR_STATE_TRANSACTION", message)
    })?;
    Ok(StatusCode::NO_CONTENT)
}

async fn query(
    State(gateway): State<Gateway>,
    Path(store): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    gateway.shelf.desk(&store, &headers)?;
    let message = "state store does not support querying";
    Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "ERR_STATE_STORE_NOT_SUPPORTED", message))
}

// === impl BulkItem ===

impl BulkItem {
    fn new(key: String, item: Option<Item>) -> Self {
        let metadata = item.as_ref().and_then(end_of).map(|end| ("ttlExpireTime", end)).into_iter().collect();
        let (data, etag) = match item {
            Some(item) => (json_of(&item.value), Some(item.etag)),
            None => (None, None),
        };
        Self { key, data, etag, metadata }
    }
}

/// The value as JSON. What another program wrote into Redis may be none; then it is a text.
fn json_of(value: &[u8]) -> Option<Box<RawValue>> {
    match serde_json::from_slice::<&RawValue>(value) {
        Ok(json) => Some(json.to_owned()),
        Err(_) => serde_json::value::to_raw_value(&String::from_utf8_lossy(value)).ok(),
    }
}

/// When it ends, RFC 3339.
fn end_of(item: &Item) -> Option<String> {
    let seconds = i64::try_from(item.expires_ms? / 1000).ok()?;
    OffsetDateTime::from_unix_timestamp(seconds).ok()?.format(&Rfc3339).ok()
}

/// What a write wants. Without an etag, `first-write` wants that nothing is there; with `last-write` an etag counts
/// for nothing.
fn condition(etag: Option<&str>, options: &Options) -> Result<Condition, Problem> {
    let first = match options.concurrency.as_deref() {
        None | Some("") => None,
        Some("first-write") => Some(true),
        Some("last-write") => Some(false),
        Some(other) => return Err(Problem::malformed(format!("unrecognized concurrency model '{other}'"))),
    };
    match options.consistency.as_deref() {
        None | Some("" | "strong" | "eventual") => {}
        Some(other) => return Err(Problem::malformed(format!("unrecognized consistency model '{other}'"))),
    }
    match etag.filter(|etag| !etag.is_empty()) {
        _ if first == Some(false) => Ok(Condition::None),
        Some(etag) => {
            let number = etag.trim_matches('"').parse();
            number.map(Condition::Etag).map_err(|_| Problem::malformed(format!("invalid etag value: {etag}")))
        }
        None if first == Some(true) => Ok(Condition::Absent),
        None => Ok(Condition::None),
    }
}

/// What a deletion wants: only an etag can hold it back.
fn deletion(etag: Option<&str>, options: &Options) -> Result<Condition, Problem> {
    let condition = condition(etag, options)?;
    Ok(if condition == Condition::Absent { Condition::None } else { condition })
}

fn ttl(metadata: &BTreeMap<String, String>) -> Result<Option<u64>, Problem> {
    let Some(text) = metadata.get("ttlInSeconds") else { return Ok(None) };
    match text.parse::<i64>() {
        // Dapr's own stores take 0 and -1 for no end.
        Ok(..=0) => Ok(None),
        Ok(seconds) if seconds <= LONGEST_LIFE => Ok(Some(seconds as u64)),
        _ => {
            let problem = format!("ttlInSeconds is {text:?}, but must be a number up to {LONGEST_LIFE}");
            Err(Problem::malformed(problem))
        }
    }
}

/// The metadata of the query; of several of one name the first counts.
pub(crate) fn metadata(parameters: &[(String, String)]) -> BTreeMap<String, String> {
    let named = parameters.iter().rev();
    let named =
        named.filter_map(|(name, value)| Some((name.strip_prefix("metadata.")?.to_owned(), value.clone())));
    named.collect()
}

/// The whole body, or that it is too large.
pub(crate) fn whole(body: Result<Bytes, BytesRejection>) -> Result<Bytes, Problem> {
    body.map_err(|rejection| Problem::new(rejection.status(), "ERR_MALFORMED_REQUEST", rejection.body_text()))
}

fn few(count: usize) -> Result<(), Problem> {
    if count > MOST_OPERATIONS {
        return Err(Problem::malformed(format!("{count} keys are more than the {MOST_OPERATIONS} allowed")));
    }
    Ok(())
}

fn status_of(error: &StoreError) -> StatusCode {
    match error {
        StoreError::Mismatch(_) => StatusCode::CONFLICT,
        StoreError::Full { .. } | StoreError::TooMuch | StoreError::Unavailable(_) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

fn unreadable(error: &serde_json::Error) -> Problem {
    Problem::malformed(format!("failed deserializing HTTP body: {error}"))
}
