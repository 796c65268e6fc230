//! Publish and subscribe, as Dapr's pub/sub API 1.x, on our bus.
//!
//! Where topics lead is told in [`topics`], how events travel in [`event`].

mod event;
mod topics;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Query, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use parking_lot::RwLock;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use shunt_bus::{Delivery, PublishError};
use shunt_module::{
    Problems,
    services::{TRACEPARENT, begin_trace, is_trace},
};
use shunt_wire::Name;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use self::event::{is_binary, is_cloud_event, is_json};
pub(crate) use self::{
    event::{CLOUD_EVENT, Event},
    topics::DaprTopic,
};
use crate::{
    Gateway, GatewaySettings,
    delivery::{Bounds, Courier, Desk, Keeper, Tally},
    problem::Problem,
    state::{app_of, metadata, whole},
    subscription::{Discovery, Subscription, Told},
};

/// The largest request in bytes, that of Dapr; what the bus takes is more.
const LARGEST_REQUEST: usize = 4 * 1024 * 1024;
/// Most events of one bulk request.
const MOST_ENTRIES: usize = 1000;
/// The longest wait for the bus, which may be away, for all events of a request together. Afterwards nobody knows whether the event is sent.
const LIMIT: Duration = Duration::from_secs(10);
/// What apps told, on its way. Full: those who ask wait.
const TOLD: usize = 16;

/// How events are brought to the apps that subscribed by this name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PubsubSettings {
    /// How often an app is tried with an event before that goes to the dead letters, 1 to 1000. An app that is not
    /// there has not failed: its events wait.
    pub attempts: u32,
    /// Seconds that an app may take for an event, 0.1 to 600.
    pub answer_s: f64,
    /// Seconds before the second attempt, 0.01 to 3600; twice as many before each further one.
    pub retry_first_s: f64,
    /// Most seconds between two attempts, 0.01 to 3600.
    pub retry_longest_s: f64,
    /// Most events that an app has in hand for one subscription, 1 to 1000. 1 keeps the order.
    pub in_flight: u32,
    /// Most events on disk for one subscription. When it is reached, the oldest are dropped and counted.
    pub max_queue_events: u64,
    /// Most bytes on disk for one subscription. When it is reached, the oldest are dropped and counted.
    pub max_queue_bytes: u64,
    /// Seconds between two questions to an app for its subscriptions, 0.1 to 3600.
    pub ask_s: f64,
    /// Seconds that an app must leave a subscription out of its answers until that ends and its waiting events are
    /// dropped, 0 to 86400: an app that starts may answer before it knows what it wants.
    pub forget_s: f64,
}

/// What routes share with the task that delivers.
#[derive(Debug, Clone)]
pub(crate) struct Pubsub {
    pub(crate) tally: Tally,
    listed: Arc<RwLock<Vec<Value>>>,
}

/// One request to publish.
struct Publication {
    pubsub: String,
    /// As the caller wrote it.
    topic: String,
    parsed: DaprTopic,
    app: Name,
    metadata: BTreeMap<String, String>,
    raw: bool,
    delivery: Delivery,
    traceparent: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    // Dapr does not mind upper and lower case, and its SDK for Node writes `entryID`.
    #[serde(default, rename = "entryId", alias = "entryID")]
    id: String,
    event: Box<RawValue>,
    #[serde(default, rename = "contentType")]
    content_type: String,
    metadata: Option<BTreeMap<String, String>>,
}

// === impl PubsubSettings ===

impl PubsubSettings {
    pub(crate) fn answer(&self) -> Duration {
        Duration::from_secs_f64(self.answer_s.clamp(0.1, 600.0))
    }

    pub(crate) fn retry_first(&self) -> Duration {
        Duration::from_secs_f64(self.retry_first_s.clamp(0.01, 3600.0))
    }

    pub(crate) fn retry_longest(&self) -> Duration {
        Duration::from_secs_f64(self.retry_longest_s.clamp(0.01, 3600.0))
    }

    pub(crate) fn forget(&self) -> Duration {
        Duration::from_secs_f64(self.forget_s.clamp(0.0, 86_400.0))
    }

    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { events: self.max_queue_events, bytes: self.max_queue_bytes }
    }

    fn check(&self, name: &str, problems: &mut Problems) {
        let mut between = |field: &str, value: f64, least: f64, most: f64| {
            if !(least..=most).contains(&value) {
                let problem = format!("it is {value}, but must be from {least} to {most}");
                problems.note(&format!("pubsubs.{name}.{field}"), problem);
            }
        };
        between("attempts", f64::from(self.attempts), 1.0, 1000.0);
        between("answer_s", self.answer_s, 0.1, 600.0);
        between("retry_first_s", self.retry_first_s, 0.01, 3600.0);
        between("retry_longest_s", self.retry_longest_s, 0.01, 3600.0);
        between("in_flight", f64::from(self.in_flight), 1.0, 1000.0);
        between("max_queue_events", self.max_queue_events as f64, 1.0, 1e6);
        between("max_queue_bytes", self.max_queue_bytes as f64, 1_048_576.0, 1e12);
        between("ask_s", self.ask_s, 0.1, 3600.0);
        between("forget_s", self.forget_s, 0.0, 86_400.0);
        if let Err(error) = name.parse::<Name>() {
            problems.note(&format!("pubsubs.{name}"), error.to_string());
        } else if name == "bulk" {
            problems.note(&format!("pubsubs.{name}"), "this name is part of a path of Dapr's");
        }
    }
}

impl Default for PubsubSettings {
    fn default() -> Self {
        Self {
            attempts: 5,
            answer_s: 30.0,
            retry_first_s: 0.5,
            retry_longest_s: 30.0,
            in_flight: 8,
            max_queue_events: 10_000,
            max_queue_bytes: 64 * 1024 * 1024,
            ask_s: 5.0,
            forget_s: 60.0,
        }
    }
}

/// Notes what is wrong with the settings of pubsubs and subscriptions.
pub(crate) fn check(settings: &GatewaySettings, problems: &mut Problems) {
    for (name, pubsub) in &settings.pubsubs {
        pubsub.check(name, problems);
    }
    for (number, declared) in settings.subscriptions.iter().enumerate() {
        let is_pubsub = |name: &str| settings.pubsubs.contains_key(name);
        if let Err(problem) = Subscription::new(declared.clone(), true, is_pubsub) {
            problems.note(&format!("subscriptions.{number}"), problem);
        }
    }
}

/// The routes.
pub(crate) fn routes() -> Router<Gateway> {
    let one = || post(publish).put(publish);
    let many = || post(publish_bulk).put(publish_bulk);
    Router::new()
        .route("/v1.0/publish/{pubsub}", one())
        .route("/v1.0/publish/{pubsub}/", one())
        .route("/v1.0/publish/{pubsub}/{*topic}", one())
        .route("/v1.0/publish/bulk/{pubsub}/{*topic}", many())
        .route("/v1.0-alpha1/publish/bulk/{pubsub}/{*topic}", many())
        .layer(DefaultBodyLimit::max(LARGEST_REQUEST))
}

/// The subscriptions in force, for `/v1.0/metadata`: `pubsubname`, `topic`, `rules`, `deadLetterTopic`, `type`.
pub(crate) fn subscriptions(gateway: &Gateway) -> Vec<Value> {
    gateway.pubsub.listed.read().clone()
}

/// Subscribes and delivers until shutdown.
///
/// Fails where the queue on disk ends before: nothing assured can be delivered then.
pub(crate) async fn run(gateway: Gateway) -> anyhow::Result<()> {
    let tally = gateway.pubsub.tally.clone();
    let (keeper, task) = Keeper::new(gateway.folder.clone(), tally.clone(), gateway.health.clone());
    let mut keeping = tokio::spawn(task.run());
    let desk = Desk {
        name: gateway.name.clone(),
        bus: gateway.bus.clone(),
        services: gateway.apps.services().clone(),
        keeper: keeper.clone(),
        tally,
        dead_letters: gateway.dead_letters.clone(),
        health: gateway.health.clone(),
        shutdown: gateway.shutdown.clone(),
    };
    let mut courier = Courier::new(desk, Arc::clone(&gateway.pubsub.listed));
    tokio::select! {
        _ = gateway.shutdown.run_until_cancelled(serve(&gateway, &keeper, &mut courier)) => {}
        ended = &mut keeping => {
            ended?;
            anyhow::bail!("the queue of events for apps has ended too early");
        }
    }
    let subscriptions = courier.end().await;
    drop(keeper);
    keeping.await?;
    drop(subscriptions);
    Ok(())
}

async fn serve(gateway: &Gateway, keeper: &Keeper, courier: &mut Courier) {
    let mut changes = gateway.settings.clone();
    let (sender, mut told) = mpsc::channel(TOLD);
    let mut settings = changes.borrow_and_update().clone();
    let mut asking = ask(gateway, &settings, &sender);
    courier.set(settings.pubsubs.clone(), settings.subscriptions.clone(), &asked(&settings)).await;
    courier.recall(keeper.known().await, &asked(&settings)).await;
    loop {
        tokio::select! {
            known = changes.changed() => {
                if known.is_err() {
                    return;
                }
                settings = changes.borrow_and_update().clone();
                asking = ask(gateway, &settings, &sender);
                courier.set(settings.pubsubs.clone(), settings.subscriptions.clone(), &asked(&settings)).await;
            }
            Some((app, told)) = told.recv() => {
                if asked(&settings).contains(&app) {
                    courier.told(app, told).await;
                }
            }
        }
        // It ends those who ask when it is replaced.
        debug_assert!(!asking.is_cancelled());
    }
}

/// The apps that are asked for their subscriptions.
fn asked(settings: &GatewaySettings) -> BTreeSet<Name> {
    let apps = settings.apps.iter().filter(|(_, app)| app.subscribe);
    apps.filter_map(|(name, _)| name.parse().ok()).collect()
}

/// Begins to ask each app for itself, so that none waits for another. Dropping what is given ends it.
fn ask(gateway: &Gateway, settings: &GatewaySettings, told: &mpsc::Sender<(Name, Told)>) -> Asking {
    let stop = gateway.shutdown.child_token();
    let pause = settings.pubsubs.values().map(|pubsub| pubsub.ask_s).fold(3600.0, f64::min);
    let pause = Duration::from_secs_f64(pause.clamp(0.1, 3600.0));
    for app in asked(settings) {
        let mut discovery = Discovery::new(app.clone(), gateway.apps.services());
        let (stop, told) = (stop.clone(), told.clone());
        gateway.tasks.spawn(async move {
            let asking = async {
                loop {
                    let answer = discovery.ask().await;
                    if told.send((app.clone(), answer)).await.is_err() {
                        return;
                    }
                    sleep(pause).await;
                }
            };
            stop.run_until_cancelled(asking).await;
        });
    }
    Asking(stop)
}

/// Ends those who ask when it is dropped.
struct Asking(CancellationToken);

// === impl Asking ===

impl Asking {
    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

// === impl Pubsub ===

impl Pubsub {
    pub(crate) fn new() -> prometheus::Result<Self> {
        Ok(Self { tally: Tally::new()?, listed: Arc::default() })
    }
}

async fn publish(
    State(gateway): State<Gateway>,
    Path(path): Path<Vec<String>>,
    Query(parameters): Query<Vec<(String, String)>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Problem> {
    let published = async {
        let publication = Publication::new(&gateway, &path, &parameters, &headers)?;
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|text| text.to_str().ok());
        publication.publish(&gateway, content_type, whole(body)?, None, Instant::now() + LIMIT).await
    };
    count(&gateway, published.await).map(|()| StatusCode::NO_CONTENT)
}

async fn publish_bulk(
    State(gateway): State<Gateway>,
    Path(path): Path<Vec<String>>,
    Query(parameters): Query<Vec<(String, String)>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let checked = Publication::new(&gateway, &path, &parameters, &headers).and_then(|publication| {
        let entries = publication.entries(&whole(body)?)?;
        Ok((publication, entries))
    });
    let (publication, entries) = match checked {
        Ok(checked) => checked,
        Err(problem) => return count(&gateway, Err(problem)),
    };
    let mut failed = Vec::new();
    // What is left at the end of the time has failed.
    let until = Instant::now() + LIMIT;
    for Entry { id, event, content_type, metadata } in entries {
        let published = match bytes_of(&event, &content_type) {
            Ok(bytes) => {
                let own = metadata.as_ref();
                publication.publish(&gateway, Some(&content_type), bytes, own, until).await
            }
            Err(problem) => Err(problem),
        };
        if let Err(problem) = count(&gateway, published) {
            failed.push(json!({"entryId": id, "error": problem.message()}));
        }
    }
    if failed.is_empty() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let answer = json!({"failedEntries": failed, "errorCode": "ERR_PUBSUB_PUBLISH_MESSAGE"});
    Ok((StatusCode::INTERNAL_SERVER_ERROR, Json(answer)).into_response())
}

fn count<T>(gateway: &Gateway, published: Result<T, Problem>) -> Result<T, Problem> {
    let outcome = match &published {
        Ok(_) => "accepted",
        Err(problem) if problem.code() == "ERR_PUBSUB_PUBLISH_MESSAGE" => "failed",
        Err(_) => "refused",
    };
    gateway.pubsub.tally.published(outcome);
    published
}

// === impl Publication ===

impl Publication {
    fn new(
        gateway: &Gateway,
        path: &[String],
        parameters: &[(String, String)],
        headers: &HeaderMap,
    ) -> Result<Self, Problem> {
        let pubsub = path.first().cloned().unwrap_or_default();
        let topic = path.get(1).cloned().unwrap_or_default();
        if !gateway.settings().pubsubs.contains_key(&pubsub) {
            let message = format!("pubsub {pubsub} not found");
            return Err(Problem::new(StatusCode::NOT_FOUND, "ERR_PUBSUB_NOT_FOUND", message));
        }
        if topic.is_empty() {
            let message = format!("topic is empty in pubsub {pubsub}");
            return Err(Problem::new(StatusCode::NOT_FOUND, "ERR_TOPIC_EMPTY", message));
        }
        let parsed: DaprTopic = topic.parse().map_err(|error| Problem::malformed(format!("{error}")))?;
        let app = app_of(headers)?.unwrap_or_else(|| gateway.name.clone());
        if let Some(owner) = parsed.owner() {
            let message = format!("topic {topic} is not allowed for app id {app}");
            let why = format!("events of the kind {:?} come from {owner}", parsed.kind().as_str());
            let detail = json!({
                "@type": "type.googleapis.com/google.rpc.ErrorInfo", "domain": "dapr.io",
                "reason": "DAPR_PUBSUB_FORBIDDEN", "metadata": {"topic": topic, "error": why},
            });
            let problem = Problem::new(StatusCode::FORBIDDEN, "ERR_PUBSUB_FORBIDDEN", message);
            return Err(problem.with_detail(detail));
        }
        let metadata = metadata(parameters);
        let wrong = |name: &str, allowed: &str| {
            let message = format!("failed deserializing metadata. Error: {name} must be {allowed}");
            Problem::new(StatusCode::BAD_REQUEST, "ERR_PUBSUB_REQUEST_METADATA", message)
        };
        let raw = match metadata.get("rawPayload").map(|text| text.to_ascii_lowercase()).as_deref() {
            None | Some("" | "false" | "f" | "0") => false,
            Some("true" | "t" | "1") => true,
            Some(_) => return Err(wrong("rawPayload", "true or false")),
        };
        let delivery = match metadata.get("delivery").map(String::as_str) {
            None | Some("assured") => Delivery::Assured,
            Some("fast") => Delivery::Fast,
            Some(_) => return Err(wrong("delivery", "assured or fast")),
        };
        let traceparent = headers.get(TRACEPARENT).and_then(|text| text.to_str().ok());
        let traceparent = traceparent.filter(|text| is_trace(text.as_bytes())).map(ToOwned::to_owned);
        Ok(Self { pubsub, topic, parsed, app, metadata, raw, delivery, traceparent })
    }

    /// The entries of a bulk request, each with a name of its own.
    fn entries(&self, body: &[u8]) -> Result<Vec<Entry>, Problem> {
        let Self { topic, pubsub, .. } = self;
        let wrong = |message| Problem::new(StatusCode::BAD_REQUEST, "ERR_PUBSUB_EVENTS_SER", message);
        let entries: Vec<Entry> = serde_json::from_slice(body).map_err(|error| {
            wrong(format!("error when unmarshaling the request for topic {topic} pubsub {pubsub}: {error}"))
        })?;
        let mut names = BTreeSet::new();
        let sound = entries.iter().all(|entry| !entry.id.is_empty() && names.insert(&entry.id));
        let problem = if entries.len() > MOST_ENTRIES {
            format!("{} entries are more than the {MOST_ENTRIES} allowed", entries.len())
        } else if !sound {
            "entryId is duplicated or not present for entry".to_owned()
        } else {
            return Ok(entries);
        };
        let begin = format!("error marshaling events to bytes for topic {topic} pubsub {pubsub}");
        Err(wrong(format!("{begin}. error: {problem}")))
    }

    async fn publish(
        &self,
        gateway: &Gateway,
        content_type: Option<&str>,
        body: Bytes,
        own: Option<&BTreeMap<String, String>>,
        until: Instant,
    ) -> Result<(), Problem> {
        let mut metadata = self.metadata.clone();
        metadata.extend(own.cloned().unwrap_or_default());
        let event = self.event(content_type, body, &metadata)?;
        let envelope = event.envelope(&self.parsed.published_by(&gateway.name));
        let sending = gateway.bus.publish(envelope, self.delivery);
        // What is late is not even begun: it would be sent after it was told to have failed.
        let sent = if Instant::now() < until
            && let Ok(sent) = timeout_at(until, sending).await
        {
            sent.map_err(|error| (status_of(&error), error.to_string()))
        } else {
            let late = format!("the bus did not take it within {LIMIT:?}");
            Err((StatusCode::INTERNAL_SERVER_ERROR, late))
        };
        sent.map_err(|(status, error)| {
            let Self { topic, pubsub, .. } = self;
            let message = format!("error when publishing to topic {topic} in pubsub {pubsub}: {error}");
            Problem::new(status, "ERR_PUBSUB_PUBLISH_MESSAGE", message)
        })
    }

    fn event(
        &self,
        content_type: Option<&str>,
        body: Bytes,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Event, Problem> {
        let own = content_type.is_some_and(is_cloud_event) && !self.raw;
        let mut event = if own {
            Event::read(&body, self.app.as_str()).map_err(|error| {
                // Dapr's status for it, though the caller is at fault.
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                let message = format!("cannot create cloudevent: {error}");
                Problem::new(status, "ERR_PUBSUB_CLOUD_EVENTS_SER", message)
            })?
        } else if self.raw && content_type.is_none_or(is_cloud_event) {
            Event::around(Some("application/octet-stream"), body, self.app.as_str())
        } else {
            Event::around(content_type, body, self.app.as_str())
        };
        let given = |name: &str| metadata.get(name).filter(|text| !text.is_empty()).cloned();
        if let Some(id) = given("cloudevent.id") {
            event.id = id;
        }
        if let Some(source) = given("cloudevent.source") {
            event.source = source;
        }
        if let Some(event_type) = given("cloudevent.type") {
            event.event_type = event_type;
        }
        let trace = given("cloudevent.traceparent").or_else(|| given("cloudevent.traceid"));
        event.traceparent = trace
            .or(event.traceparent)
            .filter(|text| is_trace(text.as_bytes()))
            .or_else(|| self.traceparent.clone())
            .or_else(|| Some(begin_trace()));
        if let Some(text) = given("ttlInSeconds") {
            let seconds = text.parse::<i64>().ok().filter(|seconds| (1..=u32::MAX.into()).contains(seconds));
            let seconds = seconds.ok_or_else(|| {
                let message = "failed deserializing metadata. Error: ttlInSeconds must be a number from 1";
                Problem::new(StatusCode::BAD_REQUEST, "ERR_PUBSUB_REQUEST_METADATA", message)
            })?;
            event.expire_after(seconds);
        }
        Ok(event)
    }
}

fn status_of(error: &PublishError) -> StatusCode {
    match error {
        PublishError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        PublishError::Attribute { .. } => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The bytes of an entry's event, as its content type says what it is.
fn bytes_of(event: &RawValue, content_type: &str) -> Result<Bytes, Problem> {
    let wrong = || {
        let message = "error: mismatch between contentType and event";
        Problem::new(StatusCode::BAD_REQUEST, "ERR_PUBSUB_EVENTS_SER", message)
    };
    if is_json(content_type) {
        return Ok(Bytes::from(event.get().to_owned()));
    }
    let text: String = serde_json::from_str(event.get()).map_err(|_| wrong())?;
    if is_binary(content_type) {
        return BASE64_STANDARD.decode(text).map(Bytes::from).map_err(|_| wrong());
    }
    Ok(Bytes::from(text))
}
