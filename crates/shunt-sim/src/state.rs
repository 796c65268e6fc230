//! What edgeHub and IoT Hub know: identities, twins, sessions, messages, the deployment. One lock, never held
//! across an await.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::PathBuf,
    sync::{Arc, atomic::AtomicU16},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Fault, HubRecord, SimOptions, TwinLimitError,
    authority::Authority,
    fault::{self, Faults, Withhold},
    identity::{ClientId, KeyRing},
    message::{self, Message},
    routes::Sink,
    routing::{Queue, Routing},
    twin::{self, Section},
};

/// The two modules that every device has.
pub(crate) const EDGE_AGENT: &str = "$edgeAgent";
pub(crate) const EDGE_HUB: &str = "$edgeHub";
/// Commands to one connection that are not yet taken. A connection that does not keep up is closed.
pub(crate) const MAX_COMMANDS: usize = 256;
/// Direct methods that wait for their answers at once; more are refused as not answered.
const MAX_METHODS: usize = 1_000;
/// Bytes of bodies kept as hub records, beside the number in the options.
const MAX_RECORD_BYTES: usize = 64 * 1024 * 1024;

/// Everything that the listeners share.
pub(crate) struct Inner {
    pub(crate) options: SimOptions,
    /// Names under which the gateway may be called.
    pub(crate) gateway_names: Vec<String>,
    pub(crate) folder: PathBuf,
    pub(crate) authority: Authority,
    pub(crate) keys: KeyRing,
    pub(crate) mqtt_port: AtomicU16,
    pub(crate) https_port: AtomicU16,
    state: Mutex<State>,
    /// The sequence of the newest hub record.
    pub(crate) last_sequence: watch::Sender<u64>,
    /// Counts changes of sessions and subscriptions, so that a direct method can wait for its target.
    pub(crate) session_changes: watch::Sender<u64>,
    /// While set, nobody answers on edgeHub's ports.
    pub(crate) paused_until: watch::Sender<Option<Instant>>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

pub(crate) struct State {
    pub(crate) identities: BTreeMap<ClientId, Identity>,
    pub(crate) faults: Faults,
    pub(crate) dropped: BTreeMap<&'static str, u64>,
    pub(crate) online: bool,
    pub(crate) routing_error: Option<String>,
    /// With the size of each.
    records: VecDeque<(usize, HubRecord)>,
    record_bytes: usize,
    sequence: u64,
    upstream: Queue,
    routing: Routing,
    methods: HashMap<String, oneshot::Sender<MethodAnswer>>,
    keep_records: usize,
    next_number: u64,
    /// Of certificates that the workload API gives.
    pub(crate) certificate_lifetime: Duration,
}

/// A module or a leaf device.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) generation: String,
    pub(crate) desired: Section,
    pub(crate) reported: Section,
    /// What edgeHub has in its own store; none if it never saw the twin.
    edge: Option<(Section, Section)>,
    /// The reported section with what was reported while the cloud was away.
    pending: Option<Section>,
    pub(crate) model_id: Option<String>,
    pub(crate) session: Option<Session>,
    /// Subscriptions of the last session, where sessions are kept.
    kept: Option<Subscriptions>,
    pub(crate) inbox: Queue,
    /// Wakes the connection when something was put into the inbox or a filter was added.
    pub(crate) inbox_signal: Arc<Notify>,
    lose_desired: u32,
    pub(crate) deployed: bool,
    pub(crate) environment: BTreeMap<String, String>,
    /// Ends the module's workload socket.
    pub(crate) workload: Option<CancellationToken>,
}

/// An open MQTT connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) number: u64,
    pub(crate) subscriptions: Subscriptions,
    clean: bool,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) close: CancellationToken,
}

/// A session that was opened.
pub(crate) struct Opened {
    pub(crate) number: u64,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) close: CancellationToken,
    pub(crate) signal: Arc<Notify>,
    /// The subscriptions of the session before are in force again.
    pub(crate) restored: bool,
}

/// To a connection: publish this.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) qos: u8,
}

/// What a client subscribed to, by the forms that edgeHub knows, with the quality of service granted.
#[derive(Debug, Default, Clone)]
pub(crate) struct Subscriptions {
    pub(crate) methods: Option<u8>,
    pub(crate) desired: Option<u8>,
    pub(crate) twin_results: Option<u8>,
    pub(crate) inputs: Vec<(String, u8)>,
    pub(crate) to_device: Option<u8>,
}

/// A method's status and payload.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MethodAnswer {
    pub(crate) status: i64,
    pub(crate) payload: Value,
}

// === impl Subscriptions ===

impl Subscriptions {
    /// False where the form is none of edgeHub's: granted and ignored.
    pub(crate) fn set(&mut self, filter: &str, qos: Option<u8>) -> bool {
        if filter.starts_with("$iothub/methods/POST/") {
            self.methods = qos;
        } else if filter.starts_with("$iothub/twin/PATCH/properties/desired/") {
            self.desired = qos;
        } else if filter == "$iothub/twin/res/#" {
            self.twin_results = qos;
        } else if is_module_filter(filter) {
            self.inputs.retain(|(known, _)| known != filter);
            self.inputs.extend(qos.map(|qos| (filter.to_owned(), qos)));
        } else if filter.ends_with("messages/devicebound/#") {
            self.to_device = qos;
        } else {
            return false;
        }
        true
    }

    /// The quality of service of the filter that covers an input's topic.
    pub(crate) fn input_qos(&self, topic: &str) -> Option<u8> {
        self.inputs.iter().filter(|(filter, _)| covers(filter, topic)).map(|(_, qos)| *qos).max()
    }
}

/// `^devices/.+/modules/.+/#$`
fn is_module_filter(filter: &str) -> bool {
    filter
        .strip_prefix("devices/")
        .and_then(|rest| rest.strip_suffix("/#"))
        .and_then(|rest| rest.split_once("/modules/"))
        .is_some_and(|(device, rest)| !device.is_empty() && !rest.is_empty())
}

/// MQTT's own rule: `+` is one level, `#` the rest.
fn covers(filter: &str, topic: &str) -> bool {
    let mut topic = topic.split('/');
    for level in filter.split('/') {
        if level == "#" {
            return true;
        }
        match topic.next() {
            Some(name) if level == "+" || level == name => {}
            _ => return false,
        }
    }
    topic.next().is_none()
}

// === impl Identity ===

impl Identity {
    fn new(generation: String) -> Self {
        Self {
            generation,
            desired: Section::default(),
            reported: Section::default(),
            edge: None,
            pending: None,
            model_id: None,
            session: None,
            kept: None,
            inbox: Queue::default(),
            inbox_signal: Arc::new(Notify::new()),
            lose_desired: 0,
            deployed: false,
            environment: BTreeMap::new(),
            workload: None,
        }
    }

    /// Puts a publish into the session's hands. A session that does not take them is closed.
    fn publish(&self, topic: String, payload: Bytes, qos: u8) -> bool {
        let Some(session) = &self.session else { return false };
        if session.commands.try_send(Command { topic, payload, qos }).is_ok() {
            return true;
        }
        tracing::warn!("A client does not read what it is sent; its connection is closed.");
        session.close.cancel();
        false
    }

    /// Sends a desired patch, unless a fault says that it is to be lost.
    fn push_desired(&mut self, patch: &Map<String, Value>) {
        self.edge = Some((self.desired.clone(), self.reported.clone()));
        let Some(qos) = self.session.as_ref().and_then(|session| session.subscriptions.desired) else {
            return;
        };
        if let Some(left) = self.lose_desired.checked_sub(1) {
            self.lose_desired = left;
            return;
        }
        let version = self.desired.version;
        let topic = format!("$iothub/twin/PATCH/properties/desired/?$version={version}");
        let payload = Value::Object(twin::with_version(patch, version)).to_string();
        self.publish(topic, payload.into(), qos);
    }

    fn end_session(&mut self) {
        if let Some(session) = self.session.take() {
            session.close.cancel();
            self.kept = (!session.clean).then_some(session.subscriptions);
        }
    }
}

// === impl State ===

impl State {
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    pub(crate) fn count_dropped(&mut self, reason: &'static str, count: u64) {
        if count > 0 {
            *self.dropped.entry(reason).or_default() += count;
        }
    }

    pub(crate) fn connected(&self) -> usize {
        self.identities.values().filter(|identity| identity.session.is_some()).count()
    }

    /// A method's answer came in.
    pub(crate) fn answer_method(&mut self, rid: &str, answer: MethodAnswer) {
        if let Some(caller) = self.methods.remove(&rid.to_lowercase()) {
            if caller.send(answer).is_err() {
                tracing::debug!("A method was answered after its caller had gone.");
            }
        } else {
            tracing::debug!(rid, "A method answer with an unknown request id is ignored.");
        }
    }
}

/// Why a direct method cannot be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MethodTarget {
    Unknown,
    NotConnected,
    Busy,
}

// === impl Inner ===

impl Inner {
    pub(crate) fn new(
        options: SimOptions,
        gateway_names: Vec<String>,
        folder: PathBuf,
        authority: Authority,
        keys: KeyRing,
    ) -> Self {
        let state = State {
            identities: BTreeMap::new(),
            faults: Faults::default(),
            dropped: BTreeMap::new(),
            online: true,
            routing_error: None,
            records: VecDeque::new(),
            record_bytes: 0,
            sequence: 0,
            upstream: Queue::default(),
            routing: Routing::upstream(),
            methods: HashMap::new(),
            keep_records: options.keep_records.max(1),
            next_number: 0,
            certificate_lifetime: options.certificate_lifetime,
        };
        Self {
            options,
            gateway_names,
            folder,
            authority,
            keys,
            mqtt_port: AtomicU16::new(0),
            https_port: AtomicU16::new(0),
            state: Mutex::new(state),
            last_sequence: watch::Sender::new(0),
            session_changes: watch::Sender::new(0),
            paused_until: watch::Sender::new(None),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// How long certificates are good that the workload API gives now.
    pub(crate) fn certificate_lifetime(&self) -> time::Duration {
        self.lock().certificate_lifetime.try_into().unwrap_or(time::Duration::MAX)
    }

    pub(crate) fn module_id(&self, module: &str) -> ClientId {
        ClientId::module(&self.options.device_id, module)
    }

    /// Makes the identity if it is not there. True if it is new.
    pub(crate) fn add_identity(&self, client: &ClientId) -> bool {
        let mut state = self.lock();
        if state.identities.contains_key(client) {
            return false;
        }
        state.identities.insert(client.clone(), Identity::new(self.keys.generation(client)));
        true
    }

    /// Takes the identity away, with its connection and its workload socket.
    pub(crate) fn remove_identity(&self, client: &ClientId) -> bool {
        let removed = self.lock().identities.remove(client);
        let Some(mut identity) = removed else { return false };
        identity.end_session();
        if let Some(workload) = identity.workload {
            workload.cancel();
        }
        self.session_changed();
        true
    }

    pub(crate) fn session_changed(&self) {
        self.session_changes.send_modify(|count| *count += 1);
    }

    /// Opens a session; an older one of the same client is closed.
    pub(crate) fn open_session(
        &self,
        client: &ClientId,
        model_id: Option<String>,
        clean: bool,
    ) -> Option<Opened> {
        let mut state = self.lock();
        let number = state.number();
        let identity = state.identities.get_mut(client)?;
        identity.end_session();
        let kept = identity.kept.take().filter(|_| self.options.keep_sessions && !clean);
        let restored = kept.is_some();
        // Full: the connection is closed, see `Identity::publish`.
        let (sender, commands) = mpsc::channel(MAX_COMMANDS);
        let close = self.stop.child_token();
        identity.session = Some(Session {
            number,
            subscriptions: kept.unwrap_or_default(),
            clean,
            commands: sender,
            close: close.clone(),
        });
        if model_id.is_some() {
            identity.model_id = model_id;
        }
        let signal = identity.inbox_signal.clone();
        drop(state);
        self.session_changed();
        Some(Opened { number, commands, close, signal, restored })
    }

    /// Ends the session, if it is still this one.
    pub(crate) fn close_session(&self, client: &ClientId, number: u64) {
        let mut state = self.lock();
        if let Some(identity) = state.identities.get_mut(client)
            && identity.session.as_ref().is_some_and(|session| session.number == number)
        {
            identity.end_session();
        }
        drop(state);
        self.session_changed();
    }

    pub(crate) fn subscribe(&self, client: &ClientId, number: u64, filter: &str, qos: Option<u8>) {
        let mut state = self.lock();
        let Some(identity) = state.identities.get_mut(client) else { return };
        let Some(session) = identity.session.as_mut().filter(|session| session.number == number) else {
            return;
        };
        if !session.subscriptions.set(filter, qos) {
            tracing::info!(%client, filter, "A filter of a form that edgeHub does not know is granted and ignored.");
        }
        identity.inbox_signal.notify_one();
        drop(state);
        self.session_changed();
    }

    // --- messages ---

    /// Takes a message: routes it. From here on it is stored.
    pub(crate) fn accept(&self, message: Message) {
        let mut state = self.lock();
        let state = &mut *state;
        self.route(state, &Arc::new(message));
    }

    fn route(&self, state: &mut State, message: &Arc<Message>) {
        let deliveries = state.routing.deliveries(message);
        if deliveries.is_empty() {
            // A twin change that nobody asked for is no loss.
            if !message.is_twin_change {
                tracing::warn!(from = %message.from, output = ?message.output, "A message matches no route and is dropped.");
                state.count_dropped("no_route", 1);
            }
            return;
        }
        for delivery in deliveries {
            let number = state.number();
            match delivery.sink {
                Sink::Upstream if state.online => self.record(state, message),
                Sink::Upstream => {
                    let time = delivery.time_to_live;
                    if !state.upstream.push(number, message.clone(), None, delivery.priority, time) {
                        state.count_dropped("queue_full", 1);
                    }
                }
                Sink::Module { module, input } => {
                    let target = self.module_id(&module);
                    // A sink module need not exist: messages wait for it.
                    let identity = state
                        .identities
                        .entry(target.clone())
                        .or_insert_with(|| Identity::new(self.keys.generation(&target)));
                    let time = delivery.time_to_live;
                    let taken =
                        identity.inbox.push(number, message.clone(), Some(input), delivery.priority, time);
                    identity.inbox_signal.notify_one();
                    if !taken {
                        state.count_dropped("queue_full", 1);
                    }
                }
            }
        }
    }

    fn record(&self, state: &mut State, message: &Message) {
        state.sequence += 1;
        let (size, record) = (message.size(), message.record(state.sequence));
        state.record_bytes += size;
        state.records.push_back((size, record));
        // The oldest go first; the sequence tells a reader that it missed some.
        while state.records.len() > state.keep_records
            || (state.record_bytes > MAX_RECORD_BYTES && state.records.len() > 1)
        {
            if let Some((size, _)) = state.records.pop_front() {
                state.record_bytes -= size;
            }
        }
        self.last_sequence.send_replace(state.sequence);
    }

    /// Records from this sequence on, at most so many.
    pub(crate) fn records(&self, from: u64, limit: usize) -> Vec<HubRecord> {
        let state = self.lock();
        let first = state.records.front().map_or(0, |(_, record)| record.sequence);
        let skip = from.saturating_sub(first) as usize;
        state.records.iter().skip(skip).take(limit).map(|(_, record)| record.clone()).collect()
    }

    pub(crate) fn message_count(&self) -> u64 {
        self.lock().sequence
    }

    /// Takes out what is past its time to live.
    pub(crate) fn expire(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        let mut expired = state.upstream.expire(now);
        expired += state.identities.values_mut().map(|identity| identity.inbox.expire(now)).sum::<u64>();
        state.count_dropped("ttl_expiry", expired);
    }

    /// A message from the cloud to a leaf device.
    pub(crate) fn send_to_device(&self, device: &str, mut message: Message) -> bool {
        let client = ClientId::device(device);
        let mut state = self.lock();
        let number = state.number();
        let Some(identity) = state.identities.get_mut(&client) else { return false };
        message.system.insert("to".to_owned(), format!("/devices/{device}/messages/devicebound"));
        let taken = identity.inbox.push(number, Arc::new(message), None, 0, None);
        identity.inbox_signal.notify_one();
        taken
    }

    // --- twins ---

    /// What edgeHub answers to a GET.
    pub(crate) fn get_twin(&self, client: &ClientId) -> Value {
        let mut state = self.lock();
        let online = state.online;
        let Some(identity) = state.identities.get_mut(client) else {
            return json!({"desired":{},"reported":{}});
        };
        if online {
            identity.edge = Some((identity.desired.clone(), identity.reported.clone()));
        }
        match &identity.edge {
            Some((desired, reported)) => {
                json!({"desired": desired.to_value(), "reported": reported.to_value()})
            }
            None => json!({"desired":{},"reported":{}}),
        }
    }

    /// Sends a twin answer, if the client listens for it.
    pub(crate) fn answer_twin(&self, client: &ClientId, number: u64, status: u16, rid: &str, payload: Bytes) {
        let state = self.lock();
        let Some(identity) = state.identities.get(client) else { return };
        let Some(session) = identity.session.as_ref().filter(|session| session.number == number) else {
            return;
        };
        if let Some(qos) = session.subscriptions.twin_results {
            identity.publish(format!("$iothub/twin/res/{status}/?$rid={rid}"), payload, qos);
        } else {
            tracing::info!(%client, "A twin answer is not sent, because nobody subscribed to it.");
        }
    }

    /// Takes a report of properties; the status to answer.
    pub(crate) fn report(&self, client: &ClientId, payload: &[u8]) -> u16 {
        let mut state = self.lock();
        if let Some(status) = fault::take(&mut state.faults.reports) {
            return status;
        }
        let Ok(Value::Object(mut patch)) = serde_json::from_slice::<Value>(payload) else {
            tracing::warn!(%client, "A report is refused: it is not a JSON object.");
            return 400;
        };
        patch.remove("$version");
        let state = &mut *state;
        let online = state.online;
        let Some(identity) = state.identities.get_mut(client) else { return 500 };
        if let Err(error) = report(identity, &patch, online) {
            tracing::warn!(%client, "A report is refused: {error}.");
            return 400;
        }
        let change = Message {
            from: client.clone(),
            output: None,
            properties: BTreeMap::new(),
            system: BTreeMap::from([
                ("connectionDeviceId".to_owned(), client.device.clone()),
                ("connectionModuleId".to_owned(), client.module.clone().unwrap_or_default()),
                ("messageSchema".to_owned(), "twinChangeNotification".to_owned()),
                ("contentType".to_owned(), "application/json".to_owned()),
                ("contentEncoding".to_owned(), "utf-8".to_owned()),
            ]),
            body: json!({"properties":{"reported": patch}}).to_string().into(),
            is_twin_change: true,
            enqueued: OffsetDateTime::now_utc(),
            received_mono_ns: message::mono_now(),
        };
        self.route(state, &Arc::new(change));
        204
    }

    /// The cloud patches desired properties; the new version. `None` if there is no such identity.
    pub(crate) fn patch_desired(
        &self,
        client: &ClientId,
        patch: &Map<String, Value>,
    ) -> Result<Option<u64>, TwinLimitError> {
        let mut patch = patch.clone();
        patch.remove("$version");
        patch.remove("$metadata");
        twin::check(&patch)?;
        let mut state = self.lock();
        let state = &mut *state;
        let Some(identity) = state.identities.get_mut(client) else { return Ok(None) };
        identity.desired = identity.desired.patched(&patch)?;
        let version = identity.desired.version;
        if state.online {
            identity.push_desired(&patch);
        }
        self.reconfigure(state, client);
        Ok(Some(version))
    }

    /// A deployment or a PUT: the properties become these, and the client gets the difference.
    pub(crate) fn replace_desired(&self, client: &ClientId, properties: Map<String, Value>) {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(identity) = state.identities.get_mut(client) else { return };
        let patch = twin::difference(&identity.desired.properties, &properties);
        identity.desired = Section { properties, version: identity.desired.version + 1 };
        if state.online {
            identity.push_desired(&patch);
        }
        self.reconfigure(state, client);
    }

    /// When edgeHub's own desired properties changed: takes the routes, or keeps the old ones and reports why.
    fn reconfigure(&self, state: &mut State, changed: &ClientId) {
        if *changed != self.module_id(EDGE_HUB) {
            return;
        }
        let Some(identity) = state.identities.get_mut(changed) else { return };
        let version = identity.desired.version;
        let (code, description) = match Routing::read(&identity.desired.properties) {
            Ok(routing) => {
                state.routing = routing;
                state.routing_error = None;
                (200, String::new())
            }
            Err(mistakes) => {
                let mistakes = mistakes.join("; ");
                tracing::error!(
                    "The configuration of edgeHub is refused, the last good one stays: {mistakes}."
                );
                state.routing_error = Some(mistakes.clone());
                (400, mistakes)
            }
        };
        let status: Map<String, Value> = [
            ("lastDesiredVersion".to_owned(), json!(version)),
            ("lastDesiredStatus".to_owned(), json!({"code": code, "description": description})),
        ]
        .into_iter()
        .collect();
        if let Ok(reported) = identity.reported.patched(&status) {
            identity.reported = reported;
        }
    }

    /// A twin as IoT Hub's REST shows it.
    pub(crate) fn twin(&self, client: &ClientId) -> Option<Value> {
        let state = self.lock();
        let identity = state.identities.get(client)?;
        let version = identity.desired.version + identity.reported.version - 1;
        let mut twin = Map::new();
        twin.insert("deviceId".to_owned(), json!(client.device));
        if let Some(module) = &client.module {
            twin.insert("moduleId".to_owned(), json!(module));
        }
        if let Some(model) = &identity.model_id {
            twin.insert("modelId".to_owned(), json!(model));
        }
        twin.insert("etag".to_owned(), json!(format!("\"{version}\"")));
        twin.insert("version".to_owned(), json!(version));
        twin.insert("status".to_owned(), json!("enabled"));
        twin.insert("connectionState".to_owned(), json!(connection_state(client, identity)));
        twin.insert(
            "properties".to_owned(),
            json!({"desired": identity.desired.to_value(), "reported": identity.reported.to_value()}),
        );
        Some(Value::Object(twin))
    }

    // --- direct methods ---

    /// Sends a method to its target; the receiver gets the answer.
    pub(crate) fn call_method(
        &self,
        target: &ClientId,
        name: &str,
        payload: Option<&Value>,
    ) -> Result<(String, oneshot::Receiver<MethodAnswer>), MethodTarget> {
        let mut state = self.lock();
        if state.methods.len() >= MAX_METHODS {
            return Err(MethodTarget::Busy);
        }
        let identity = state.identities.get(target).ok_or(MethodTarget::Unknown)?;
        let qos = identity.session.as_ref().and_then(|session| session.subscriptions.methods);
        let qos = qos.ok_or(MethodTarget::NotConnected)?;
        let rid = uuid::Uuid::new_v4().to_string();
        let topic = format!("$iothub/methods/POST/{name}/?$rid={rid}");
        let body = payload.map(Value::to_string).unwrap_or_default();
        if !identity.publish(topic, body.into(), qos) {
            return Err(MethodTarget::NotConnected);
        }
        let (sender, receiver) = oneshot::channel();
        state.methods.insert(rid.clone(), sender);
        Ok((rid, receiver))
    }

    /// Can the target take a method now?
    pub(crate) fn takes_methods(&self, target: &ClientId) -> Result<bool, MethodTarget> {
        let state = self.lock();
        let identity = state.identities.get(target).ok_or(MethodTarget::Unknown)?;
        Ok(identity.session.as_ref().is_some_and(|session| session.subscriptions.methods.is_some()))
    }

    pub(crate) fn forget_method(&self, rid: &str) {
        self.lock().methods.remove(&rid.to_lowercase());
    }

    // --- faults ---

    pub(crate) fn fault(&self, fault: &Fault) {
        let mut state = self.lock();
        let state = &mut *state;
        match fault {
            Fault::DropConnection { module } => {
                for (client, identity) in &mut state.identities {
                    if module.is_none() || *module == client.module {
                        identity.end_session();
                    }
                }
            }
            Fault::WithholdAcknowledgements { module, count, stored } => {
                state.faults.withhold =
                    (*count > 0).then(|| Withhold { module: module.clone(), count: *count, stored: *stored });
            }
            Fault::DelayAcknowledgements { milliseconds } => state.faults.delay_ms = *milliseconds,
            Fault::RefuseTokens { refuse } => state.faults.refuse_tokens = *refuse,
            Fault::RefuseConnections { code, count } => state.faults.refuse_connections = (*code, *count),
            Fault::ExpireTokens { after_ms } => state.faults.expire_after_ms = *after_ms,
            Fault::AnswerReports { status, count } => state.faults.reports = (*status, *count),
            Fault::AnswerSign { status, count } => state.faults.sign = (*status, *count),
            Fault::LoseDesiredPatches { module, count } => {
                if let Some(identity) = state.identities.get_mut(&self.module_id(module)) {
                    identity.lose_desired = *count;
                }
            }
            Fault::Offline { forget_twins } => {
                state.online = false;
                if *forget_twins {
                    state.identities.values_mut().for_each(|identity| identity.edge = None);
                }
            }
            Fault::Online => self.go_online(state),
            Fault::Restart { pause_ms } => {
                let until = Instant::now() + Duration::from_millis(*pause_ms);
                self.paused_until.send_replace(Some(until));
                state.identities.values_mut().for_each(Identity::end_session);
            }
            Fault::Clear => {
                state.faults = Faults::default();
                state.identities.values_mut().for_each(|identity| identity.lose_desired = 0);
                self.paused_until.send_replace(None);
                self.go_online(state);
            }
        }
        self.session_changed();
    }

    /// Sends up what waited, then gives each client the difference of its twin as one patch.
    fn go_online(&self, state: &mut State) {
        if std::mem::replace(&mut state.online, true) {
            return;
        }
        let expired = state.upstream.expire(Instant::now());
        state.count_dropped("ttl_expiry", expired);
        for waiting in state.upstream.drain() {
            self.record(state, &waiting.message);
        }
        for identity in state.identities.values_mut() {
            if let Some(pending) = identity.pending.take() {
                identity.reported = pending;
            }
            let known = identity.edge.as_ref().map(|(desired, _)| desired.clone());
            if identity.session.is_none() || known.as_ref().is_some_and(|known| *known == identity.desired) {
                continue;
            }
            let known = known.map(|known| known.properties).unwrap_or_default();
            let patch = twin::difference(&known, &identity.desired.properties);
            identity.push_desired(&patch);
        }
    }
}

fn report(identity: &mut Identity, patch: &Map<String, Value>, online: bool) -> Result<(), TwinLimitError> {
    twin::check(patch)?;
    if online {
        identity.reported = identity.reported.patched(patch)?;
        if let Some((_, reported)) = &mut identity.edge {
            *reported = identity.reported.clone();
        }
        return Ok(());
    }
    if let Some((_, reported)) = &mut identity.edge {
        reported.properties = reported.patched(patch)?.properties;
    }
    identity.pending = Some(identity.pending.as_ref().unwrap_or(&identity.reported).patched(patch)?);
    Ok(())
}

pub(crate) fn connection_state(client: &ClientId, identity: &Identity) -> &'static str {
    let runtime = matches!(client.module.as_deref(), Some(EDGE_AGENT | EDGE_HUB));
    if runtime || identity.session.is_some() { "Connected" } else { "Disconnected" }
}
