//! The handle on the hub, and the task that keeps a connection.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use rumqttc::mqttbytes::v4::Connect;
use rustls::{ClientConfig, pki_types::ServerName};
use serde_json::{Map, Value};
use tokio::{
    net::TcpStream,
    sync::{Notify, mpsc, mpsc::error::TrySendError, oneshot, watch},
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    fault::Fault,
    invoke::{InvokeError, InvokeLimits, MethodAnswer, invoke},
    message::{HubMessage, InputMessage, MAX_PACKET, SendError},
    method::MethodCall,
    options::HubOptions,
    session::{Arrival, End, Link, MAX_INPUTS, Outgoing, Request, Session, TwinAnswer},
    tls,
    token::{Signer, Token},
    twin::{Desired, Twin, TwinError, parse_twin, pause},
    wire::Wire,
};

/// Messages that wait to be sent; further ones wait in [`Hub::send`].
const TELEMETRY_QUEUE: usize = 32;
/// Questions about the twin; further ones wait in the call.
const REQUEST_QUEUE: usize = 16;
/// Method calls that wait to be taken; further ones are answered 503.
const METHOD_QUEUE: usize = 16;
/// The whole of a report or GET, waiting for a connection and repetitions included.
const TWIN_LIMIT: Duration = Duration::from_mins(1);
/// Repetitions after 429 (throttled) and 5xx (the hub's own trouble), and the pause before them: from, to.
const THROTTLED_TRIES: u32 = 6;
const FAILED_TRIES: u32 = 3;
const TWIN_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// Each step of making a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);
/// edgeHub asks the cloud about identities it does not know before it answers.
const CONNACK_LIMIT: Duration = Duration::from_secs(45);
/// Between two attempts: from, to.
const RECONNECT_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// A connection that lived so long was a good one: the next attempt follows soon.
const STABLE: Duration = Duration::from_secs(10);
/// After so many short connections in a row somebody should look: the hub takes one client for an identity.
const THROWN_OUT_HINT: u32 = 4;

/// Is the hub there?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HubState {
    /// Not yet, or no more; the reason of the last failure.
    Disconnected(String),
    /// Yes. It stays so while the connection is renewed as planned.
    Connected,
}

/// Counters since the start, for `/metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HubCounters {
    /// Messages acknowledged by the hub.
    pub acknowledged: u64,
    /// Times the connection came back after a fault.
    pub reconnects: u64,
    /// Times it was renewed because the token ran out, as planned.
    pub renewals: u64,
}

/// A handle on the hub; clones share one connection, which ends with the last of them.
#[derive(Clone)]
pub struct Hub(Arc<Inner>);

struct Inner {
    core: Arc<Core>,
    options: HubOptions,
    signer: Signer,
    telemetry: mpsc::Sender<Outgoing>,
    requests: mpsc::Sender<Request>,
    _kill: DropGuard,
}

/// What the handle and the connection share.
pub(crate) struct Core {
    pub(crate) desired: watch::Sender<Option<Desired>>,
    state: watch::Sender<HubState>,
    pub(crate) acknowledged: AtomicU64,
    pub(crate) reconnects: AtomicU64,
    pub(crate) renewals: AtomicU64,
    methods: Mutex<Option<mpsc::Sender<MethodCall>>>,
    inputs: Mutex<Option<mpsc::Sender<InputMessage>>>,
    /// Somebody asked for methods or inputs.
    asked: Notify,
    /// Calls that are not finished.
    open: AtomicUsize,
    idle: Notify,
    /// Finish what is open, begin nothing.
    drain: CancellationToken,
    /// End now.
    kill: CancellationToken,
    ended: CancellationToken,
}

/// A call that is not finished.
struct Operation<'a>(&'a Core);

// === impl Hub ===

impl Hub {
    /// Begins to connect, in the background, for as long as it takes. Needs a tokio runtime.
    pub fn open(options: HubOptions) -> Self {
        let core = Arc::new(Core {
            desired: watch::Sender::new(None),
            state: watch::Sender::new(HubState::Disconnected("not connected yet".to_owned())),
            acknowledged: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            renewals: AtomicU64::new(0),
            methods: Mutex::new(None),
            inputs: Mutex::new(None),
            asked: Notify::new(),
            open: AtomicUsize::new(0),
            idle: Notify::new(),
            drain: CancellationToken::new(),
            kill: CancellationToken::new(),
            ended: CancellationToken::new(),
        });
        let signer = Signer::new(options.identity.resource(), options.key.clone(), options.token_lifetime);
        let (telemetry, telemetry_receiver) = mpsc::channel(TELEMETRY_QUEUE);
        let (requests, requests_receiver) = mpsc::channel(REQUEST_QUEUE);
        let link = Link::new(
            core.clone(),
            options.identity.clone(),
            signer.clone(),
            options.keep_alive,
            telemetry_receiver,
            requests_receiver,
        );
        tokio::spawn(run(link, options.clone()));
        let kill = core.kill.clone().drop_guard();
        Self(Arc::new(Inner { core, options, signer, telemetry, requests, _kill: kill }))
    }

    /// Sends telemetry; resolves when the hub has acknowledged it (PUBACK), through any number of reconnects.
    ///
    /// Messages go out in the order in which the futures are first polled, several at a time. After a lost
    /// connection what was not acknowledged is sent again, so the hub may get a message twice. While the queue is
    /// full, this waits. A future that is dropped leaves open whether its message was sent.
    pub async fn send(&self, message: HubMessage) -> Result<(), SendError> {
        let options = &self.0.options;
        let encoded = message.encode(&options.identity, options.model_id.as_deref())?;
        let _open = self.0.core.begin().ok_or(SendError::Closed)?;
        let (done, acknowledged) = oneshot::channel();
        self.0.telemetry.send(Outgoing { encoded, done }).await.map_err(|_| SendError::Closed)?;
        acknowledged.await.map_err(|_| SendError::Closed)
    }

    /// The desired properties, first when they were fetched, then at each change: `changed()` resolves at once where
    /// they are known already. `None` until they are known; an empty twin without `$version` (edgeHub offline,
    /// never seen) does not count as known. They stay while the hub is away.
    pub fn desired(&self) -> watch::Receiver<Option<Desired>> {
        let mut receiver = self.0.core.desired.subscribe();
        if receiver.borrow().is_some() {
            receiver.mark_changed();
        }
        receiver
    }

    /// Both sections of the twin, asked from the hub now; within one minute.
    pub async fn twin(&self) -> Result<Twin, TwinError> {
        let answer = self.ask(None).await?;
        parse_twin(&answer.body)
    }

    /// Reports properties: a JSON merge patch on the reported section. Resolves when the hub has taken it; edgeHub
    /// does so while the cloud is away. Throttling (429) and trouble of the hub (5xx) are waited out for a while;
    /// the whole takes one minute at most. Two calls at the same time may pass each other.
    pub async fn report(&self, patch: &Map<String, Value>) -> Result<(), TwinError> {
        let patch = serde_json::to_vec(patch).map_err(|error| TwinError::Malformed(error.to_string()))?;
        // The topic is shorter than that.
        let size = patch.len() + 128;
        if size > MAX_PACKET {
            return Err(TwinError::TooLarge { size, max: MAX_PACKET });
        }
        self.ask(Some(patch.into())).await.map(drop)
    }

    /// The direct methods called from now on. One receiver, the last one asked for; calls made while it is full (16)
    /// are answered 503, calls made after it was dropped 501. Until this is called the hub does not offer methods of
    /// this module at all (callers get 404).
    pub fn methods(&self) -> mpsc::Receiver<MethodCall> {
        let (sender, receiver) = mpsc::channel(METHOD_QUEUE);
        *self.0.core.methods.lock() = Some(sender);
        self.0.core.asked.notify_one();
        receiver
    }

    /// The messages that routes bring to this module's inputs, from now on. One receiver, the last one asked for. A
    /// module that does not take its messages (64 open) loses the connection, and gets them again. Only for modules:
    /// a device gets none.
    pub fn inputs(&self) -> mpsc::Receiver<InputMessage> {
        let (sender, receiver) = mpsc::channel(MAX_INPUTS);
        *self.0.core.inputs.lock() = Some(sender);
        self.0.core.asked.notify_one();
        receiver
    }

    /// Calls a method of another module of this device through edgeHub (HTTPS, port 443). This is the slow way, for
    /// modules that speak nothing else.
    pub async fn invoke(
        &self,
        module: &str,
        method: &str,
        payload: &Value,
        limits: InvokeLimits,
    ) -> Result<MethodAnswer, InvokeError> {
        invoke(&self.0.options, &self.0.signer, module, method, payload, limits).await
    }

    /// Is the hub there? Changes are seen by `changed()`.
    pub fn state(&self) -> watch::Receiver<HubState> {
        self.0.core.state.subscribe()
    }

    /// Counters since the start.
    pub fn counters(&self) -> HubCounters {
        let core = &self.0.core;
        HubCounters {
            acknowledged: core.acknowledged.load(Ordering::Relaxed),
            reconnects: core.reconnects.load(Ordering::Relaxed),
            renewals: core.renewals.load(Ordering::Relaxed),
        }
    }

    /// Waits for open acknowledgements and answers, says goodbye and closes; within this time. What is still open then
    /// ends with `Closed`. Begins nothing new; may be called more than once.
    pub async fn close(&self, limit: Duration) {
        let core = &self.0.core;
        core.drain.cancel();
        if timeout(limit, core.ended.cancelled()).await.is_err() {
            core.kill.cancel();
            core.ended.cancelled().await;
        }
    }

    /// Asks about the twin until there is an answer of 2xx.
    async fn ask(&self, report: Option<Bytes>) -> Result<TwinAnswer, TwinError> {
        let core = &self.0.core;
        let _open = core.begin().ok_or(TwinError::Closed)?;
        let asking = async {
            let mut tried = 0;
            loop {
                let (reply, answer) = oneshot::channel();
                let request = Request { report: report.clone(), reply };
                self.0.requests.send(request).await.map_err(|_| TwinError::Closed)?;
                // If the connection ends before the answer, the question is asked again: it may be asked twice.
                let Ok(answer) = answer.await else { continue };
                tried += 1;
                match answer.status {
                    200..=299 => return Ok(answer),
                    429 if tried < THROTTLED_TRIES => {}
                    500..=599 if tried < FAILED_TRIES => {}
                    status => return Err(TwinError::Status(status)),
                }
                tracing::debug!(
                    status = answer.status,
                    tried,
                    "The hub asks to wait; the question is asked again."
                );
                sleep(pause(tried - 1, TWIN_PAUSE.0, TWIN_PAUSE.1)).await;
            }
        };
        timeout(TWIN_LIMIT, asking).await.unwrap_or_else(|_| {
            Err(TwinError::NoAnswer(match *core.state.borrow() {
                HubState::Connected => "it did not answer in time",
                HubState::Disconnected(_) => "not connected",
            }))
        })
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("options", &self.0.options)
            .field("state", &*self.0.core.state.borrow())
            .finish()
    }
}

// === impl Core ===

impl Core {
    /// A call begins, unless the client is closed.
    fn begin(&self) -> Option<Operation<'_>> {
        // First counted, then looked: so closing either sees the call or the call sees the closing.
        self.open.fetch_add(1, Ordering::SeqCst);
        let operation = Operation(self);
        (!self.drain.is_cancelled() && !self.ended.is_cancelled()).then_some(operation)
    }

    /// Closing, and nothing is open.
    pub(crate) fn is_drained(&self) -> bool {
        self.drain.is_cancelled() && self.open.load(Ordering::SeqCst) == 0
    }

    /// Resolves then.
    pub(crate) async fn drained(&self) {
        self.drain.cancelled().await;
        while self.open.load(Ordering::SeqCst) != 0 {
            self.idle.notified().await;
        }
    }

    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
    }

    pub(crate) fn set_state(&self, state: HubState) {
        self.state.send_if_modified(|shown| {
            let changed = *shown != state;
            *shown = state;
            changed
        });
    }

    pub(crate) fn methods_wanted(&self) -> bool {
        self.methods.lock().as_ref().is_some_and(|methods| !methods.is_closed())
    }

    pub(crate) fn inputs_wanted(&self) -> bool {
        self.inputs.lock().as_ref().is_some_and(|inputs| !inputs.is_closed())
    }

    pub(crate) fn offer_method(&self, call: MethodCall) -> Result<(), TrySendError<MethodCall>> {
        match self.methods.lock().as_ref() {
            Some(methods) => methods.try_send(call),
            None => Err(TrySendError::Closed(call)),
        }
    }

    pub(crate) fn offer_input(&self, message: InputMessage) -> Result<(), TrySendError<InputMessage>> {
        match self.inputs.lock().as_ref() {
            Some(inputs) => inputs.try_send(message),
            None => Err(TrySendError::Closed(message)),
        }
    }
}

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.idle.notify_one();
        }
    }
}

// --- The task ---

async fn run(mut link: Link, options: HubOptions) {
    let core = link.core.clone();
    let _ended = core.ended.clone().drop_guard();
    tokio::select! {
        () = core.kill.cancelled() => {}
        () = keep_connected(&mut link, &options) => {}
    }
    core.set_state(HubState::Disconnected("closed".to_owned()));
}

/// Connects, again and again, until the client is closed and nothing is open.
async fn keep_connected(link: &mut Link, options: &HubOptions) {
    let core = link.core.clone();
    let mut arrival = Arrival::First;
    let mut prepared = None;
    let mut failures = 0;
    let mut thrown_out = 0;
    let mut last_reason = String::new();
    loop {
        let connected = tokio::select! {
            () = core.drained() => return,
            connected = connect(options, &link.signer, prepared.take()) => connected,
        };
        let began = Instant::now();
        let fault = match connected {
            Ok((wire, token, tls)) => match Session::new(link, wire, &token, arrival).run().await {
                End::Closed => return,
                End::Renewed(token) => {
                    prepared = Some((token, tls));
                    arrival = Arrival::Renewal;
                    continue;
                }
                End::Fault(fault) => fault,
            },
            Err(fault) => fault,
        };
        if began.elapsed() >= STABLE {
            failures = 0;
        }
        thrown_out = if matches!(fault, Fault::ClosedByHub) && failures > 0 { thrown_out + 1 } else { 0 };
        if thrown_out == THROWN_OUT_HINT {
            tracing::warn!(
                "The hub closes connection after connection; is another client running with our identity?"
            );
        }
        let reason = fault.reason();
        if reason == last_reason && failures > 0 {
            tracing::debug!(reason, failures, "No connection to the hub; trying again.");
        } else {
            tracing::warn!(reason, hub = options.gateway.host, "No connection to the hub; trying again.");
        }
        core.set_state(HubState::Disconnected(reason.clone()));
        last_reason = reason;
        arrival = if link.connected_once { Arrival::AfterFault } else { Arrival::First };
        let pause = pause(failures, RECONNECT_PAUSE.0, RECONNECT_PAUSE.1);
        failures += 1;
        tokio::select! {
            () = core.drained() => return,
            () = sleep(pause) => {}
        }
    }
}

/// Makes a connection. Trust and token come from outside where the last connection prepared them, so that a planned
/// renewal does not depend on the workload API once the old connection is gone.
async fn connect(
    options: &HubOptions,
    signer: &Signer,
    prepared: Option<(Token, Arc<ClientConfig>)>,
) -> Result<(Wire<TlsStream<TcpStream>>, Token, Arc<ClientConfig>), Fault> {
    let (token, tls) = if let Some(prepared) = prepared {
        prepared
    } else {
        let tls = tls::config(&options.trust).await?;
        (signer.token().await?, tls)
    };
    let (host, port) = (options.gateway.host.as_str(), options.gateway.port);
    let address = format!("{host}:{port}");
    let name = ServerName::try_from(host.to_owned()).map_err(|_| Fault::ServerName(host.to_owned()))?;

    let unreachable = |error| Fault::Unreachable(address.clone(), error);
    let stream = in_time("a tcp connection", TcpStream::connect((host, port))).await?.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    let stream = in_time("the tls handshake", TlsConnector::from(tls.clone()).connect(name, stream))
        .await?
        .map_err(|error| Fault::Handshake(address.clone(), error))?;

    let mut connect = Connect::new(options.identity.client_id());
    connect.keep_alive = options.keep_alive.as_secs() as u16;
    // edgeHub keeps no session whatever we say, so we say what we rely on.
    connect.clean_session = true;
    connect.set_login(options.identity.user_name(options.model_id.as_deref()), token.text.clone());
    let mut wire = Wire::new(stream);
    wire.connect(connect, CONNACK_LIMIT).await?;
    Ok((wire, token, tls))
}

async fn in_time<T>(what: &'static str, step: impl Future<Output = T>) -> Result<T, Fault> {
    timeout(CONNECT_LIMIT, step).await.map_err(|_| Fault::Late(what))
}
