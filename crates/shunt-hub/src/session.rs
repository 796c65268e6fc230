//! What happens on one connection, from SUBSCRIBE to its end.

use std::{
    collections::{HashMap, VecDeque},
    future::{Future, pending},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use rumqttc::mqttbytes::{
    QoS,
    v4::{Packet, PubAck, Publish, SubAck, Subscribe, SubscribeFilter, SubscribeReasonCode},
};
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, mpsc::error::TrySendError, oneshot},
    time::{Instant, sleep_until},
};

use crate::{
    ack::AckQueue,
    fault::{Fault, chain},
    hub::{Core, HubState},
    message::{Encoded, InputAck, InputMessage},
    method::{Answer, MethodCall, MethodReply},
    token::{Signer, Token},
    topic::{self, Identity, Incoming},
    twin::{Step, TwinCache, parse_twin, pause, split_version},
    wire::Wire,
    workload::WorkloadError,
};

/// Telemetry that waits for PUBACK. edgeHub stops reading at 16 unanswered messages, pings included.
const MAX_IN_FLIGHT: usize = 12;
/// Twin requests that wait for an answer; further ones wait in their queue.
const MAX_REQUESTS: usize = 16;
/// Answers to methods on their way to the connection; more wait in [`MethodReply::answer`].
const MAX_ANSWERS: usize = 32;
/// Messages on inputs that are not acknowledged. edgeHub sends one at a time. At more the connection is given up.
pub(crate) const MAX_INPUTS: usize = 64;
/// SUBACK; edgeHub answers at once.
const SUBSCRIBE_LIMIT: Duration = Duration::from_secs(20);
/// PUBACK on a living connection. edgeHub repeats nothing, so without one only a new connection helps.
const PUBACK_LIMIT: Duration = Duration::from_mins(2);
/// The answer to a GET of the twin.
const FETCH_LIMIT: Duration = Duration::from_secs(15);
/// Between two GETs after an error or an answer without a version: from, to.
const FETCH_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// Before a planned new connection open acknowledgements are awaited, so that nothing is sent twice.
const RENEWAL_LIMIT: Duration = Duration::from_secs(5);

/// A message to the hub, on its way.
pub(crate) struct Outgoing {
    pub(crate) encoded: Encoded,
    /// Told when the hub has acknowledged it.
    pub(crate) done: oneshot::Sender<()>,
}

/// A question about the twin.
pub(crate) struct Request {
    /// The patch of the reported properties, or none: GET.
    pub(crate) report: Option<Bytes>,
    pub(crate) reply: oneshot::Sender<TwinAnswer>,
}

/// The hub's answer to it.
pub(crate) struct TwinAnswer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

/// A message that was sent and not yet acknowledged. It outlives the connection.
struct InFlight {
    packet_id: u16,
    sent: Instant,
    message: Outgoing,
}

/// What outlives a connection.
pub(crate) struct Link {
    pub(crate) core: Arc<Core>,
    pub(crate) identity: Identity,
    pub(crate) signer: Signer,
    pub(crate) keep_alive: Duration,
    pub(crate) telemetry: mpsc::Receiver<Outgoing>,
    pub(crate) requests: mpsc::Receiver<Request>,
    /// In the order of sending.
    in_flight: VecDeque<InFlight>,
    twin: TwinCache,
    last_packet_id: u16,
    last_rid: u64,
    /// Was there ever a connection?
    pub(crate) connected_once: bool,
}

/// Why a connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It is the first.
    First,
    /// The one before ended unplanned.
    AfterFault,
    /// The token was renewed.
    Renewal,
}

/// How a connection ended.
pub(crate) enum End {
    /// Unplanned.
    Fault(Fault),
    /// Because the token runs out; here is the next.
    Renewed(Token),
    /// The client is closed and nothing is open.
    Closed,
}

enum Fetch {
    Idle,
    At(Instant),
    Waiting { rid: String, until: Instant },
}

type Signing = Pin<Box<dyn Future<Output = Result<Token, WorkloadError>> + Send>>;

pub(crate) struct Session<'a, S> {
    link: &'a mut Link,
    wire: Wire<S>,
    arrival: Arrival,
    /// The hub has taken the subscriptions: everything may flow.
    ready: bool,
    started: Instant,
    subscribing: Vec<(u16, Vec<String>)>,
    methods_subscribed: bool,
    inputs_subscribed: bool,
    pending: HashMap<String, oneshot::Sender<TwinAnswer>>,
    fetch: Fetch,
    fetches_failed: u32,
    acks: Arc<AckQueue>,
    answers: mpsc::Receiver<Answer>,
    answers_sender: mpsc::Sender<Answer>,
    ping_sent: Option<Instant>,
    token_ends: Instant,
    renew_at: Instant,
    signing: Option<Signing>,
    renewing: Option<(Token, Instant)>,
}

// === impl Link ===

impl Link {
    pub(crate) fn new(
        core: Arc<Core>,
        identity: Identity,
        signer: Signer,
        keep_alive: Duration,
        telemetry: mpsc::Receiver<Outgoing>,
        requests: mpsc::Receiver<Request>,
    ) -> Self {
        Self {
            core,
            identity,
            signer,
            keep_alive,
            telemetry,
            requests,
            in_flight: VecDeque::new(),
            twin: TwinCache::default(),
            last_packet_id: 0,
            last_rid: 0,
            connected_once: false,
        }
    }

    fn packet_id(&mut self) -> u16 {
        loop {
            self.last_packet_id = self.last_packet_id.wrapping_add(1);
            let id = self.last_packet_id;
            if id != 0 && !self.in_flight.iter().any(|message| message.packet_id == id) {
                return id;
            }
        }
    }

    fn rid(&mut self) -> String {
        self.last_rid += 1;
        format!("{:x}", self.last_rid)
    }
}

// === impl Session ===

impl<'a, S: AsyncRead + AsyncWrite> Session<'a, S> {
    pub(crate) fn new(link: &'a mut Link, wire: Wire<S>, token: &Token, arrival: Arrival) -> Self {
        let (answers_sender, answers) = mpsc::channel(MAX_ANSWERS);
        Self {
            link,
            wire,
            arrival,
            ready: false,
            started: Instant::now(),
            subscribing: Vec::new(),
            methods_subscribed: false,
            inputs_subscribed: false,
            pending: HashMap::new(),
            fetch: Fetch::Idle,
            fetches_failed: 0,
            acks: Arc::default(),
            answers,
            answers_sender,
            ping_sent: None,
            token_ends: token.ends_at,
            renew_at: token.renew_at,
            signing: None,
            renewing: None,
        }
    }

    /// Until the connection ends.
    pub(crate) async fn run(mut self) -> End {
        let end = match self.drive().await {
            Ok(end) => end,
            Err(fault) => End::Fault(fault),
        };
        self.link.twin.interrupted();
        if !matches!(end, End::Fault(_)) {
            self.wire.goodbye().await;
        }
        end
    }

    async fn drive(&mut self) -> Result<End, Fault> {
        let core = self.link.core.clone();
        // The hub keeps no session, so everything is subscribed on every connection, and before the GET, so that
        // no patch falls between.
        self.subscribe(vec![
            (topic::TWIN_ANSWERS.to_owned(), QoS::AtMostOnce),
            (topic::DESIRED_PATCHES.to_owned(), QoS::AtMostOnce),
        ])?;
        loop {
            while let Some(packet_id) = self.acks.next_ready() {
                self.wire.queue(&Packet::PubAck(PubAck::new(packet_id)))?;
            }
            if self.acks.abandoned() {
                return Err(Fault::InputDropped);
            }
            if core.is_drained() && self.answers.is_empty() {
                return Ok(End::Closed);
            }
            self.pending.retain(|_, reply| !reply.is_closed());
            let quiet = self.link.in_flight.is_empty() && self.pending.is_empty();
            if let Some((token, _)) = self.renewing.take_if(|(_, until)| quiet || Instant::now() >= *until) {
                return Ok(End::Renewed(token));
            }

            let open = self.ready && self.renewing.is_none();
            let may_send = open && self.link.in_flight.len() < MAX_IN_FLIGHT;
            let may_ask = open && self.pending.len() < MAX_REQUESTS;
            let wake = self.next_wake();
            tokio::select! {
                packet = self.wire.next() => self.take(packet?)?,
                Some(message) = self.link.telemetry.recv(), if may_send => self.send(message)?,
                Some(request) = self.link.requests.recv(), if may_ask => self.ask(request)?,
                Some(answer) = self.answers.recv() => self.answer(&answer)?,
                () = self.acks.changed() => {}
                () = core.asked() => self.subscribe(Vec::new())?,
                signed = signed(&mut self.signing) => self.signed(signed),
                () = sleep_until(wake) => self.on_time()?,
                () = core.drained() => {}
            }
        }
    }

    // --- Time ---

    /// For an answer to a ping. With the time of silence before the ping it makes one keep-alive time.
    fn ping_limit(&self) -> Duration {
        self.link.keep_alive / 2
    }

    /// When something is due next.
    fn next_wake(&self) -> Instant {
        let ping = match self.ping_sent {
            Some(sent) => sent + self.ping_limit(),
            None => self.wire.last_sent.min(self.wire.last_received) + self.link.keep_alive / 2,
        };
        let fetch = match self.fetch {
            Fetch::Idle => None,
            Fetch::At(at) => Some(at),
            Fetch::Waiting { until, .. } => Some(until),
        };
        let others = [
            (!self.ready).then(|| self.started + SUBSCRIBE_LIMIT),
            fetch,
            (self.signing.is_none() && self.renewing.is_none()).then_some(self.renew_at),
            self.renewing.as_ref().map(|(_, until)| *until),
            self.link.in_flight.front().filter(|_| self.ready).map(|message| message.sent + PUBACK_LIMIT),
        ];
        others.into_iter().flatten().fold(ping, Instant::min)
    }

    fn on_time(&mut self) -> Result<(), Fault> {
        let now = Instant::now();
        if !self.ready && now >= self.started + SUBSCRIBE_LIMIT {
            return Err(Fault::Late("the hub's SUBACK"));
        }
        match self.ping_sent {
            Some(sent) if self.wire.last_received > sent => self.ping_sent = None,
            Some(sent) if now >= sent + self.ping_limit() => {
                return Err(Fault::Late("an answer to our ping"));
            }
            None if now >= self.wire.last_sent.min(self.wire.last_received) + self.link.keep_alive / 2 => {
                self.wire.queue(&Packet::PingReq)?;
                self.ping_sent = Some(now);
            }
            Some(_) | None => {}
        }
        if self.ready && self.link.in_flight.front().is_some_and(|message| now >= message.sent + PUBACK_LIMIT)
        {
            return Err(Fault::Late("the hub's PUBACK"));
        }
        match &self.fetch {
            Fetch::At(at) if now >= *at => self.fetch_twin()?,
            Fetch::Waiting { until, .. } if now >= *until => {
                tracing::warn!("The hub gave no answer when asked for the twin; it is asked again.");
                self.link.twin.interrupted();
                self.fetch_later();
            }
            _ => {}
        }
        if self.signing.is_none() && self.renewing.is_none() && now >= self.renew_at {
            // Signed while the old connection still works.
            let signer = self.link.signer.clone();
            self.signing = Some(Box::pin(async move { signer.token().await }));
        }
        Ok(())
    }

    fn signed(&mut self, signed: Result<Token, WorkloadError>) {
        let now = Instant::now();
        match signed {
            Ok(token) => self.renewing = Some((token, now + RENEWAL_LIMIT)),
            Err(error) => {
                let left = self.token_ends.saturating_duration_since(now);
                self.renew_at = now + (left / 10).clamp(Duration::from_secs(1), Duration::from_mins(1));
                tracing::warn!(
                    error = chain(&error),
                    ?left,
                    "The token could not be renewed; it is tried again."
                );
            }
        }
    }

    // --- To the hub ---

    /// Subscribes to these and to what somebody asked for meanwhile.
    fn subscribe(&mut self, mut filters: Vec<(String, QoS)>) -> Result<(), Fault> {
        // What has to be acknowledged holds back what comes behind it, so only inputs are at QoS 1.
        if !self.methods_subscribed && self.link.core.methods_wanted() {
            self.methods_subscribed = true;
            filters.push((topic::METHODS.to_owned(), QoS::AtMostOnce));
        }
        if !self.inputs_subscribed
            && self.link.core.inputs_wanted()
            && let Some(filter) = self.link.identity.inputs()
        {
            self.inputs_subscribed = true;
            filters.push((filter, QoS::AtLeastOnce));
        }
        if filters.is_empty() {
            return Ok(());
        }
        let packet_id = self.link.packet_id();
        self.subscribing.push((packet_id, filters.iter().map(|(filter, _)| filter.clone()).collect()));
        let mut subscribe =
            Subscribe::new_many(filters.into_iter().map(|(filter, qos)| SubscribeFilter::new(filter, qos)));
        subscribe.pkid = packet_id;
        self.wire.queue(&Packet::Subscribe(subscribe))
    }

    fn send(&mut self, message: Outgoing) -> Result<(), Fault> {
        self.publish_telemetry(message)?;
        while self.link.in_flight.len() < MAX_IN_FLIGHT
            && let Ok(message) = self.link.telemetry.try_recv()
        {
            self.publish_telemetry(message)?;
        }
        Ok(())
    }

    fn publish_telemetry(&mut self, message: Outgoing) -> Result<(), Fault> {
        if message.done.is_closed() {
            // Nobody waits for it any more.
            return Ok(());
        }
        let packet_id = self.link.packet_id();
        let mut publish = Publish::from_bytes(
            message.encoded.topic.clone(),
            QoS::AtLeastOnce,
            message.encoded.body.clone(),
        );
        publish.pkid = packet_id;
        self.link.in_flight.push_back(InFlight { packet_id, sent: Instant::now(), message });
        self.wire.queue(&Packet::Publish(publish))
    }

    /// At `QoS` 0: its answer is its acknowledgement.
    fn publish(&mut self, topic: String, body: Bytes) -> Result<(), Fault> {
        self.wire.queue(&Packet::Publish(Publish::from_bytes(topic, QoS::AtMostOnce, body)))
    }

    fn ask(&mut self, request: Request) -> Result<(), Fault> {
        if request.reply.is_closed() {
            return Ok(());
        }
        let rid = self.link.rid();
        match request.report {
            Some(patch) => self.publish(topic::report(&rid), patch)?,
            None => self.publish(topic::get_twin(&rid), Bytes::new())?,
        }
        self.pending.insert(rid, request.reply);
        Ok(())
    }

    fn answer(&mut self, answer: &Answer) -> Result<(), Fault> {
        self.publish(
            topic::method_answer(answer.status, &answer.rid),
            Bytes::copy_from_slice(&answer.payload),
        )
    }

    fn fetch_twin(&mut self) -> Result<(), Fault> {
        let rid = self.link.rid();
        self.publish(topic::get_twin(&rid), Bytes::new())?;
        self.link.twin.fetching();
        self.fetch = Fetch::Waiting { rid, until: Instant::now() + FETCH_LIMIT };
        Ok(())
    }

    fn fetch_later(&mut self) {
        self.fetch = Fetch::At(Instant::now() + pause(self.fetches_failed, FETCH_PAUSE.0, FETCH_PAUSE.1));
        self.fetches_failed += 1;
    }

    // --- From the hub ---

    fn take(&mut self, packet: Packet) -> Result<(), Fault> {
        if self.ping_sent.is_some_and(|sent| self.wire.last_received >= sent) {
            self.ping_sent = None;
        }
        match packet {
            Packet::Publish(publish) => self.received(publish),
            Packet::PubAck(PubAck { pkid }) => {
                self.acknowledged(pkid);
                Ok(())
            }
            Packet::SubAck(suback) => self.subscribed(&suback),
            Packet::PingResp => Ok(()),
            Packet::ConnAck(_) => Err(Fault::Unexpected("second CONNACK")),
            _ => Err(Fault::Unexpected("packet of a kind that only clients send")),
        }
    }

    fn acknowledged(&mut self, packet_id: u16) {
        let position = self.link.in_flight.iter().position(|message| message.packet_id == packet_id);
        let Some(message) = position.and_then(|position| self.link.in_flight.remove(position)) else {
            tracing::debug!(packet_id, "The hub acknowledged a message that is not open.");
            return;
        };
        self.link.core.acknowledged.fetch_add(1, Ordering::Relaxed);
        if message.message.done.send(()).is_err() {
            tracing::debug!(packet_id, "Nobody waits any more for a message that the hub acknowledged.");
        }
    }

    fn subscribed(&mut self, suback: &SubAck) -> Result<(), Fault> {
        let Some(position) = self.subscribing.iter().position(|(packet_id, _)| *packet_id == suback.pkid)
        else {
            return Ok(());
        };
        let (_, filters) = self.subscribing.swap_remove(position);
        for (filter, code) in filters.iter().zip(&suback.return_codes) {
            if *code == SubscribeReasonCode::Failure {
                tracing::error!(filter, "The hub refused a subscription; nothing will come on it.");
            }
        }
        if self.ready {
            return Ok(());
        }
        self.ready = true;
        self.link.connected_once = true;
        let core = &self.link.core;
        match self.arrival {
            Arrival::First => tracing::info!("Connected to the hub."),
            Arrival::AfterFault => {
                core.reconnects.fetch_add(1, Ordering::Relaxed);
                tracing::info!("Connected to the hub again.");
            }
            Arrival::Renewal => {
                core.renewals.fetch_add(1, Ordering::Relaxed);
                tracing::debug!("Connected to the hub with a new token, as planned.");
            }
        }
        core.set_state(HubState::Connected);
        // What was not acknowledged goes first, in its old order: the hub may have it or not.
        for again in std::mem::take(&mut self.link.in_flight) {
            self.publish_telemetry(again.message)?;
        }
        self.fetch_twin()
    }

    fn received(&mut self, publish: Publish) -> Result<(), Fault> {
        let incoming = self.link.identity.incoming(&publish.topic);
        if publish.qos == QoS::ExactlyOnce {
            return Err(Fault::Unexpected("message at QoS 2"));
        }
        let needs_ack = publish.qos == QoS::AtLeastOnce;
        if needs_ack {
            let input = matches!(incoming, Incoming::Input { .. });
            self.acks.open(publish.pkid, !input);
            if self.acks.len() > MAX_INPUTS {
                return Err(Fault::InputsFull(MAX_INPUTS));
            }
        }
        match incoming {
            Incoming::TwinAnswer { status, rid } => {
                self.twin_answer(status, &rid, publish.payload);
                Ok(())
            }
            Incoming::DesiredPatch { version } => self.desired_patch(version, &publish.payload),
            Incoming::Method { name, rid } => self.method(name, rid, &publish.payload),
            Incoming::Input { input, bag } => {
                let (system, properties) = bag.into_iter().partition(|(name, _)| name.starts_with("$."));
                let ack = InputAck::new(needs_ack.then(|| self.acks.clone()), publish.pkid);
                self.input(InputMessage { input, properties, system, body: publish.payload, ack })
            }
            Incoming::Unknown => {
                tracing::warn!(
                    topic = publish.topic,
                    "The hub sent a message on an unknown topic; it was dropped."
                );
                Ok(())
            }
        }
    }

    fn twin_answer(&mut self, status: u16, rid: &str, body: Bytes) {
        if !matches!(&self.fetch, Fetch::Waiting { rid: waiting, .. } if waiting == rid) {
            if let Some(reply) = self.pending.remove(rid) {
                drop(reply.send(TwinAnswer { status, body }));
            }
            return;
        }
        self.fetch = Fetch::Idle;
        let desired = match (status, parse_twin(&body)) {
            (200..=299, Ok(twin)) => twin.desired,
            (status, twin) => {
                let error =
                    twin.err().filter(|_| (200..=299).contains(&status)).map(|error| error.to_string());
                tracing::warn!(status, error, "The hub gave no twin when asked for it; it is asked again.");
                self.link.twin.interrupted();
                self.fetch_later();
                return;
            }
        };
        let known = desired.is_some();
        let step = self.link.twin.fetched(desired);
        self.show_desired();
        if !known {
            // edgeHub is offline and has never seen our twin. It will push it when the cloud is back; asking now
            // and then costs little.
            tracing::info!("The hub does not know our twin yet.");
            self.fetch_later();
        } else if step == Step::Fetch {
            self.fetch_later();
        } else {
            self.fetches_failed = 0;
        }
    }

    fn desired_patch(&mut self, version: Option<u64>, body: &[u8]) -> Result<(), Fault> {
        let (in_body, patch) = match serde_json::from_slice::<Map<String, Value>>(body) {
            Ok(patch) => split_version(patch),
            Err(error) => {
                tracing::warn!(%error, "The hub sent a desired patch that is no JSON object; the twin is fetched.");
                return self.fetch_again();
            }
        };
        match self.link.twin.patched(in_body.or(version), patch) {
            Step::Nothing => Ok(()),
            Step::Changed => {
                self.show_desired();
                Ok(())
            }
            Step::Fetch => {
                tracing::info!("A version of the desired properties was missed; the twin is fetched.");
                self.fetch_again()
            }
        }
    }

    fn fetch_again(&mut self) -> Result<(), Fault> {
        match self.fetch {
            Fetch::Waiting { .. } => Ok(()),
            Fetch::Idle | Fetch::At(_) => self.fetch_twin(),
        }
    }

    fn show_desired(&self) {
        let held = self.link.twin.held();
        self.link.core.desired.send_if_modified(|shown| {
            let changed = shown.as_ref() != held;
            if changed {
                *shown = held.cloned();
            }
            changed
        });
    }

    fn method(&mut self, name: String, rid: String, body: &[u8]) -> Result<(), Fault> {
        let payload =
            if body.trim_ascii().is_empty() { Ok(Value::Null) } else { serde_json::from_slice(body) };
        let payload = match payload {
            Ok(payload) => payload,
            Err(error) => return self.refuse(rid, 400, &format!("the payload is not JSON: {error}")),
        };
        let reply = MethodReply::new(rid.clone(), self.answers_sender.clone());
        let call = MethodCall { name, payload, reply };
        let (call, status, message) = match self.link.core.offer_method(call) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(call)) => (call, 503, "too many calls at once"),
            Err(TrySendError::Closed(call)) => (call, 501, "this module answers no methods"),
        };
        call.reply.forget();
        self.refuse(rid, status, message)
    }

    fn refuse(&mut self, rid: String, status: u16, message: &str) -> Result<(), Fault> {
        self.answer(&Answer::new(rid, status, &json!({"message": message})))
    }

    fn input(&mut self, message: InputMessage) -> Result<(), Fault> {
        match self.link.core.offer_input(message) {
            Err(TrySendError::Full(_)) => Err(Fault::InputsFull(MAX_INPUTS)),
            // Closed: dropped with its acknowledgement; the next connection does not subscribe any more.
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
        }
    }
}

async fn signed(signing: &mut Option<Signing>) -> Result<Token, WorkloadError> {
    let token = match signing {
        Some(signing) => signing.await,
        None => pending().await,
    };
    *signing = None;
    token
}
