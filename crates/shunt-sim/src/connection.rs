//! One MQTT connection as edgeHub keeps it.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{Notify, mpsc},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    codec::{self, CodecError, Connect, Packet, Publish, Will},
    fault,
    identity::{ClientId, UserNameError, parse_user_name},
    message::{Message, MessageError, telemetry_topic},
    state::{Command, Inner, MethodAnswer, Opened},
    token::{self, Token, TokenError},
};

/// CONNACK codes.
const UNAVAILABLE: u8 = 3;
const NOT_AUTHORIZED: u8 = 5;
/// No CONNECT within this time: closed.
const CONNECT_LIMIT: Duration = Duration::from_mins(1);
/// Longest keep-alive; 0 means this too.
const MAX_KEEP_ALIVE_S: u64 = 600;
/// The connection is read on only while fewer messages of the client wait for their PUBACK.
const MAX_UNANSWERED: usize = 16;
/// Packets sent at quality of service 1 and not yet acknowledged; a client with more of them is closed.
const MAX_OPEN: usize = 1_000;
/// A client that takes nothing for so long is closed.
const WRITE_LIMIT: Duration = Duration::from_secs(30);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the client said goodbye")]
    Goodbye,
    #[error("the server closed it")]
    Closed,
    #[error("no packet came within 1.5 times the keep-alive")]
    KeepAlive,
    #[error("the token ended")]
    TokenEnded,
    #[error("a client of {own} published as {topic:?}")]
    OtherIdentity { own: ClientId, topic: String },
    #[error("the topic {0:?} is no twin or method request")]
    Topic(String),
    #[error("a packet came out of place")]
    OutOfPlace,
    #[error("the client does not acknowledge what it is sent")]
    TooManyOpen,
    #[error("the client takes no data")]
    WriteLimit,
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error("the line broke: {0}")]
    Line(#[from] std::io::Error),
}

/// Why a CONNECT is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    UserName(#[from] UserNameError),
    #[error("there is no user name")]
    NoUserName,
    #[error("the client id {0:?} is not the identity of the user name")]
    ClientId(String),
    #[error("there is no identity {0}")]
    Unknown(ClientId),
    #[error("there is no password, and certificates are not offered")]
    NoPassword,
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("100 clients are connected already")]
    Full,
    #[error("a fault was asked for")]
    Fault(u8),
}

// === impl Refusal ===

impl Refusal {
    fn code(&self) -> u8 {
        match self {
            Self::UserName(_) | Self::NoUserName | Self::Full => UNAVAILABLE,
            Self::Fault(code) => *code,
            _ => NOT_AUTHORIZED,
        }
    }
}

/// A packet at quality of service 1 that the client has not acknowledged.
struct Open {
    packet_id: u16,
    /// The place in the inbox, for messages.
    message: Option<(u32, u64)>,
}

/// A PUBACK that we owe.
struct Owed {
    packet_id: u16,
    /// `None`: never.
    due: Option<Instant>,
}

struct Connection<S> {
    inner: Arc<Inner>,
    stream: S,
    incoming: BytesMut,
    outgoing: BytesMut,
    client: ClientId,
    number: u64,
    keep_alive: Duration,
    last_heard: Instant,
    connected: Instant,
    /// When the stored token was last looked at.
    checked: Instant,
    token_expiry: u64,
    next_packet_id: u16,
    open: VecDeque<Open>,
    owed: VecDeque<Owed>,
    /// The message that the client works on, and when it was sent.
    current: Option<((u32, u64), Instant)>,
}

/// Serves one connection until it ends or `stop` is cancelled.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    inner: Arc<Inner>,
    mut stream: S,
    stop: CancellationToken,
) {
    let mut incoming = BytesMut::with_capacity(8 * 1024);
    let first = tokio::select! {
        first = timeout(inner.options.connect_limit.unwrap_or(CONNECT_LIMIT), first_packet(&mut stream, &mut incoming)) => first,
        () = stop.cancelled() => return,
    };
    let connect = match first {
        Ok(Ok(Packet::Connect(connect))) => connect,
        Ok(Ok(_)) => {
            return tracing::info!("A connection began with another packet than CONNECT and is closed.");
        }
        Ok(Err(error)) => return tracing::info!("A connection ended before CONNECT: {error}."),
        Err(_) => return tracing::info!("A connection sent no CONNECT in time and is closed."),
    };
    let (client, model_id, token_expiry) = match admit(&inner, &connect) {
        Ok(admitted) => admitted,
        Err(refusal) => {
            tracing::warn!(
                client_id = connect.client_id,
                code = refusal.code(),
                "A client is refused: {refusal}."
            );
            return refuse(&mut stream, refusal.code()).await;
        }
    };
    let Some(Opened { number, commands, close, signal, restored }) =
        inner.open_session(&client, model_id, connect.clean_session)
    else {
        return refuse(&mut stream, NOT_AUTHORIZED).await;
    };
    tracing::info!(%client, "A client is connected.");
    let keep_alive_s = match u64::from(connect.keep_alive_s) {
        0 => MAX_KEEP_ALIVE_S,
        seconds => seconds.min(MAX_KEEP_ALIVE_S),
    };
    let now = Instant::now();
    let mut outgoing = BytesMut::new();
    codec::connack(&mut outgoing, restored, 0);
    let mut connection = Connection {
        inner,
        stream,
        incoming,
        outgoing,
        client,
        number,
        keep_alive: Duration::from_millis(keep_alive_s * 1500),
        last_heard: now,
        connected: now,
        checked: now,
        token_expiry,
        next_packet_id: 0,
        open: VecDeque::new(),
        owed: VecDeque::new(),
        current: None,
    };
    let end = connection.run(commands, &close, &signal).await;
    connection.inner.close_session(&connection.client, number);
    match &end {
        Ok(()) | Err(End::Goodbye | End::Closed | End::Line(_)) => {
            tracing::info!(client = %connection.client, "A client is gone: {}.", reason(&end));
        }
        Err(_) => {
            tracing::warn!(client = %connection.client, "A client's connection is closed: {}.", reason(&end));
        }
    }
    if !matches!(end, Err(End::Goodbye))
        && let Some(will) = connect.will
    {
        connection.publish_will(will);
    }
    // The goodbye of TLS; a peer that is gone already does not matter.
    if let Ok(Err(error)) = timeout(Duration::from_secs(1), connection.stream.shutdown()).await {
        tracing::debug!("A connection was not closed in order: {error}.");
    }
}

fn reason(end: &Result<(), End>) -> String {
    end.as_ref().err().map_or_else(|| "the line ended".to_owned(), End::to_string)
}

async fn first_packet<S: AsyncRead + Unpin>(stream: &mut S, incoming: &mut BytesMut) -> Result<Packet, End> {
    loop {
        if let Some(packet) = codec::decode(incoming)? {
            return Ok(packet);
        }
        if stream.read_buf(incoming).await? == 0 {
            return Err(End::Line(std::io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

async fn refuse<S: AsyncWrite + Unpin>(stream: &mut S, code: u8) {
    let mut out = BytesMut::new();
    codec::connack(&mut out, false, code);
    let answer = async {
        stream.write_all(&out).await?;
        stream.flush().await?;
        stream.shutdown().await
    };
    match timeout(WRITE_LIMIT, answer).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("A refusal was not delivered: {error}."),
        Err(_) => tracing::debug!("A refusal was not taken in time."),
    }
}

/// Checks the CONNECT: who it is, when the token ends.
fn admit(inner: &Inner, connect: &Connect) -> Result<(ClientId, Option<String>, u64), Refusal> {
    let mut state = inner.lock();
    if let Some(code) = fault::take(&mut state.faults.refuse_connections) {
        return Err(Refusal::Fault(code));
    }
    let user_name = parse_user_name(connect.user_name.as_deref().ok_or(Refusal::NoUserName)?)?;
    if connect.client_id != user_name.client.to_string() {
        return Err(Refusal::ClientId(connect.client_id.clone()));
    }
    let client = user_name.client;
    if state.faults.refuse_tokens {
        return Err(Refusal::Fault(NOT_AUTHORIZED));
    }
    let identity = state.identities.get(&client).ok_or_else(|| Refusal::Unknown(client.clone()))?;
    let replaces = identity.session.is_some();
    let password = connect.password.as_ref().and_then(|password| std::str::from_utf8(password).ok());
    let password = password.filter(|password| !password.is_empty()).ok_or(Refusal::NoPassword)?;
    let token = Token::parse(password)?;
    verify(inner, &token, &client)?;
    if !replaces && state.connected() >= inner.options.max_clients {
        return Err(Refusal::Full);
    }
    Ok((client, user_name.model_id, token.expiry()?))
}

/// Checks a module's or device's token against its two keys.
pub(crate) fn verify(inner: &Inner, token: &Token, client: &ClientId) -> Result<(), TokenError> {
    let mut hosts = vec![inner.options.hub_name.as_str()];
    hosts.extend(inner.gateway_names.iter().map(String::as_str));
    let (primary, secondary) = (inner.keys.primary(client), inner.keys.secondary(client));
    token.verify(&hosts, &client.resource(), &[&primary, &secondary], token::now())
}

// === impl Connection ===

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    async fn run(
        &mut self,
        mut commands: mpsc::Receiver<Command>,
        close: &CancellationToken,
        signal: &Notify,
    ) -> Result<(), End> {
        loop {
            self.settle()?;
            self.flush().await?;
            let deadline = self.deadline();
            let reading = self.owed.len() < MAX_UNANSWERED;
            tokio::select! {
                () = close.cancelled() => return Err(End::Closed),
                command = commands.recv() => {
                    // The session was replaced or removed.
                    let Some(command) = command else { return Err(End::Closed) };
                    self.send(&command.topic, &command.payload, command.qos, None)?;
                }
                read = self.stream.read_buf(&mut self.incoming), if reading => {
                    if read? == 0 {
                        return Ok(());
                    }
                    self.last_heard = Instant::now();
                }
                () = signal.notified() => {}
                () = sleep_until(deadline) => {}
            }
            self.check_clock()?;
        }
    }

    /// Does what can be done now: packets read, PUBACKs due, the next message.
    fn settle(&mut self) -> Result<(), End> {
        while self.owed.len() < MAX_UNANSWERED
            && let Some(packet) = codec::decode(&mut self.incoming)?
        {
            self.handle(packet)?;
            self.pay();
        }
        self.pay();
        self.next_message()
    }

    async fn flush(&mut self) -> Result<(), End> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        let write = async {
            self.stream.write_all(&self.outgoing).await?;
            self.stream.flush().await
        };
        timeout(WRITE_LIMIT, write).await.map_err(|_| End::WriteLimit)??;
        self.outgoing.clear();
        Ok(())
    }

    fn deadline(&self) -> Instant {
        let mut deadline = self.last_heard + self.keep_alive;
        if let Some(due) = self.owed.front().and_then(|owed| owed.due) {
            deadline = deadline.min(due);
        }
        if let Some((_, sent)) = self.current {
            deadline = deadline.min(sent + self.inner.options.message_ack_timeout);
        }
        // Tokens, and whatever faults were asked for meanwhile.
        deadline.min(Instant::now() + Duration::from_millis(200))
    }

    fn check_clock(&mut self) -> Result<(), End> {
        let now = Instant::now();
        // While the reader is held back, silence is not the client's fault.
        if self.owed.len() < MAX_UNANSWERED && now >= self.last_heard + self.keep_alive {
            return Err(End::KeepAlive);
        }
        let expire_after = self.inner.lock().faults.expire_after_ms;
        if expire_after.is_some_and(|after| now >= self.connected + Duration::from_millis(after)) {
            return Err(End::TokenEnded);
        }
        let checks = self.inner.options.token_check_interval;
        if now >= self.checked + checks {
            self.checked = now;
            if self.token_expiry <= token::now() {
                return Err(End::TokenEnded);
            }
        }
        Ok(())
    }

    fn handle(&mut self, packet: Packet) -> Result<(), End> {
        match packet {
            Packet::Connect(_) => Err(End::OutOfPlace),
            Packet::Publish(publish) => self.published(&publish),
            Packet::PubAck(packet_id) => {
                self.acknowledged(packet_id);
                Ok(())
            }
            Packet::Subscribe { packet_id, filters } => {
                let mut granted = Vec::with_capacity(filters.len());
                for (filter, qos) in &filters {
                    let qos = (*qos).min(1);
                    granted.push(qos);
                    self.inner.subscribe(&self.client, self.number, filter, Some(qos));
                }
                codec::suback(&mut self.outgoing, packet_id, &granted);
                Ok(())
            }
            Packet::Unsubscribe { packet_id, filters } => {
                for filter in &filters {
                    self.inner.subscribe(&self.client, self.number, filter, None);
                }
                codec::unsuback(&mut self.outgoing, packet_id);
                Ok(())
            }
            Packet::PingReq => {
                codec::pingresp(&mut self.outgoing);
                Ok(())
            }
            Packet::Disconnect => Err(End::Goodbye),
        }
    }

    fn published(&mut self, publish: &Publish) -> Result<(), End> {
        let mut due = Some(Instant::now());
        if let Some(request) = publish.topic.strip_prefix("$iothub/") {
            self.request(request, publish)?;
        } else {
            let (withheld, delay_ms) = {
                let mut state = self.inner.lock();
                let withheld =
                    publish.packet_id.and_then(|_| state.faults.take_withheld(self.client.module.as_deref()));
                (withheld, state.faults.delay_ms)
            };
            due = match withheld {
                Some(_) => None,
                None => Some(Instant::now() + Duration::from_millis(delay_ms)),
            };
            if withheld != Some(false) {
                self.telemetry(publish)?;
            }
        }
        if let Some(packet_id) = publish.packet_id {
            self.owed.push_back(Owed { packet_id, due });
        }
        Ok(())
    }

    /// Telemetry. What edgeHub cannot read it acknowledges and loses.
    fn telemetry(&self, publish: &Publish) -> Result<(), End> {
        if publish.duplicate {
            tracing::debug!(client = %self.client, "A message came again.");
        }
        let read = telemetry_topic(&publish.topic)
            .and_then(|(from, bag)| Message::read(from, bag, publish.retain, publish.payload.clone()));
        match read {
            Ok(message) if message.from == self.client => self.inner.accept(message),
            Ok(_) => {
                return Err(End::OtherIdentity { own: self.client.clone(), topic: publish.topic.clone() });
            }
            Err(error) => self.lose(&error),
        }
        Ok(())
    }

    fn lose(&self, error: &MessageError) {
        tracing::error!(client = %self.client, "A message is acknowledged and lost: {error}.");
        self.inner.lock().count_dropped(error.reason(), 1);
    }

    /// Twin requests and method answers: topics under `$iothub/`.
    fn request(&self, topic: &str, publish: &Publish) -> Result<(), End> {
        let bad = || End::Topic(publish.topic.clone());
        if let Some(rest) = topic.strip_prefix("methods/res/") {
            let (status, query) = rest.split_once('/').ok_or_else(bad)?;
            let Some(rid) = rid(query) else {
                tracing::info!(client = %self.client, "A method answer without a request id is ignored.");
                return Ok(());
            };
            let payload = if publish.payload.is_empty() {
                Value::Null
            } else {
                serde_json::from_slice(&publish.payload).unwrap_or(Value::Null)
            };
            // edgeHub answers the caller 400000 where the status is no number.
            let status = status.parse().unwrap_or(400_000);
            self.inner.lock().answer_method(&rid, MethodAnswer { status, payload });
            return Ok(());
        }
        if let Some(query) = topic.strip_prefix("twin/GET/") {
            let rid = rid(query).ok_or_else(bad)?;
            let twin = self.inner.get_twin(&self.client).to_string();
            self.inner.answer_twin(&self.client, self.number, 200, &rid, twin.into());
            return Ok(());
        }
        if let Some(query) = topic.strip_prefix("twin/PATCH/properties/reported/") {
            let status = self.inner.report(&self.client, &publish.payload);
            // A report without a request id is taken and not answered.
            if let Some(rid) = rid(query) {
                self.inner.answer_twin(&self.client, self.number, status, &rid, Bytes::new());
            }
            return Ok(());
        }
        Err(bad())
    }

    /// Sends the PUBACKs that are due, in the order of the messages.
    fn pay(&mut self) {
        let now = Instant::now();
        while let Some(owed) = self.owed.front() {
            if owed.due.is_none_or(|due| due > now) {
                break;
            }
            codec::puback(&mut self.outgoing, owed.packet_id);
            self.owed.pop_front();
        }
    }

    /// A PUBACK of the client. Only that of the oldest open packet counts; one out of order is ignored, and
    /// everything behind it stalls.
    fn acknowledged(&mut self, packet_id: u16) {
        if self.open.front().is_none_or(|open| open.packet_id != packet_id) {
            tracing::warn!(client = %self.client, packet_id, "An acknowledgement out of order is ignored.");
            self.inner.lock().count_dropped("puback_out_of_order", 1);
            return;
        }
        let Some(open) = self.open.pop_front() else { return };
        if let Some(key) = open.message {
            self.completed(key);
        }
    }

    fn completed(&mut self, key: (u32, u64)) {
        if let Some(identity) = self.inner.lock().identities.get_mut(&self.client) {
            identity.inbox.remove(key);
        }
        if self.current.is_some_and(|(current, _)| current == key) {
            self.current = None;
        }
    }

    /// Gives the client its next message, one at a time; the same again if it was not acknowledged in time.
    fn next_message(&mut self) -> Result<(), End> {
        loop {
            let now = Instant::now();
            let mut again = None;
            if let Some((key, sent)) = self.current {
                let holds =
                    self.inner.lock().identities.get(&self.client).is_some_and(|it| it.inbox.holds(key));
                if holds && now < sent + self.inner.options.message_ack_timeout {
                    return Ok(());
                }
                again = holds.then_some(key);
                self.current = None;
            }
            let Some((key, topic, payload, qos)) = self.take_message(now) else { return Ok(()) };
            if again == Some(key) {
                tracing::warn!(client = %self.client, "A message was not acknowledged in time and is sent again.");
            }
            self.send(&topic, &payload, qos, Some(key))?;
            if qos == 0 {
                self.completed(key);
            } else {
                self.current = Some((key, now));
                return Ok(());
            }
        }
    }

    /// The first message of the inbox, if the client has subscribed to it.
    fn take_message(&self, now: Instant) -> Option<((u32, u64), String, Bytes, u8)> {
        let mut state = self.inner.lock();
        let state = &mut *state;
        let identity = state.identities.get_mut(&self.client)?;
        let expired = identity.inbox.expire(now);
        let mut rejected = 0;
        let next = loop {
            let session = identity.session.as_ref().filter(|session| session.number == self.number);
            let (Some(session), Some((key, waiting))) = (session, identity.inbox.first()) else { break None };
            let message = &waiting.message;
            let (topic, qos) = match &waiting.input {
                Some(_) if session.subscriptions.inputs.is_empty() => break None,
                Some(input) => {
                    let topic = message.input_topic(&self.client, input);
                    let qos = session.subscriptions.input_qos(&topic);
                    (topic, qos)
                }
                None if session.subscriptions.to_device.is_none() => break None,
                None => {
                    let topic =
                        format!("devices/{}/messages/devicebound/{}", self.client.device, message.bag());
                    (topic, session.subscriptions.to_device)
                }
            };
            if let Some(qos) = qos {
                break Some((key, topic, message.body.clone(), qos));
            }
            // No filter covers the topic: the message is rejected.
            identity.inbox.remove(key);
            rejected += 1;
        };
        state.count_dropped("ttl_expiry", expired);
        state.count_dropped("no_subscription", rejected);
        next
    }

    fn send(&mut self, topic: &str, payload: &[u8], qos: u8, message: Option<(u32, u64)>) -> Result<(), End> {
        if qos == 0 {
            codec::publish_out(&mut self.outgoing, topic, None, payload);
            return Ok(());
        }
        if self.open.len() >= MAX_OPEN {
            return Err(End::TooManyOpen);
        }
        self.next_packet_id = self.next_packet_id.checked_add(1).unwrap_or(1);
        self.open.push_back(Open { packet_id: self.next_packet_id, message });
        codec::publish_out(&mut self.outgoing, topic, Some(self.next_packet_id), payload);
        Ok(())
    }

    /// The last will becomes telemetry, if its topic is the client's own telemetry topic.
    fn publish_will(&self, will: Will) {
        let read = telemetry_topic(&will.topic)
            .and_then(|(from, bag)| Message::read(from, bag, false, will.payload));
        match read {
            Ok(mut message) if message.from == self.client => {
                message.properties.insert("MessageType".to_owned(), "Will".to_owned());
                self.inner.accept(message);
            }
            _ => {
                tracing::warn!(client = %self.client, "A will to another topic than the client's telemetry is lost.");
            }
        }
    }
}

/// The `$rid` of a topic's query, verbatim.
fn rid(query: &str) -> Option<String> {
    let pairs = query.strip_prefix('?').unwrap_or(query).split('&');
    pairs
        .filter_map(|pair| pair.split_once('='))
        .find(|(name, _)| *name == "$rid" || *name == "%24rid")
        .and_then(|(_, rid)| (!rid.is_empty()).then(|| rid.to_owned()))
}
