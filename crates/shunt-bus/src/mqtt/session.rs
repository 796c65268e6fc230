//! One session with the broker, over as many connections as it takes. One task owns all of it.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::{
    QoS,
    v5::{
        Connect, ConnectProperties, Filter, Packet, PingReq, Publish, RetainForwardRule, SubAck, Subscribe,
        SubscribeProperties, SubscribeReasonCode, Unsubscribe,
    },
};
use shunt_wire::{Mono, TopicFilter};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, oneshot},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    AssuredPublish, Handle,
    packets::{self, Incoming, last_will, publish_packet, reason_text, write_disconnect, write_puback},
    socket::{Broken, Socket, Target},
};
use crate::{
    Delivery, PublishError, SubscribeError,
    ack::AckLine,
    backoff::Backoff,
    clock,
    handle::NewSubscriber,
    inbox::Inbox,
    link::{Common, Counters},
    message::Arrived,
    presence,
    registry::Registry,
};

/// How long the broker keeps our session, with the assured messages for it, while we are away.
const SESSION_EXPIRY: Duration = Duration::from_hours(24);
/// After 1.5 times this without a packet of ours, the broker takes us for dead.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How often we look whether the line is alive: two looks without a packet, and it is not.
const LOOK: Duration = Duration::from_secs(5);
/// How often to look at what changes without a message while there is no connection.
const OFFLINE_LOOK: Duration = Duration::from_secs(1);
/// Bytes waiting to be written above which no further message is taken: the queues fill instead.
const OUT_LIMIT: usize = 256 << 10;
/// Read at least so much at once.
pub(super) const READ: usize = 16 << 10;
/// How long the broker may take to close the connection after our goodbye.
const GOODBYE_LIMIT: Duration = Duration::from_millis(500);
/// A connection that the broker closes without a word before this is suspicious, so many in a row mean that
/// somebody else takes our session, again and again.
const SHORT: Duration = Duration::from_secs(10);
const TAKEN_OVER: u32 = 3;
/// PUBACK "no matching subscribers": a success, but what was published is gone.
const NOBODY_LISTENS: u8 = 0x10;
/// What MQTT assumes where the broker says nothing.
const DEFAULT_RECEIVE_MAXIMUM: u16 = u16::MAX;

type Queues = crate::handle::Queues<Publish, AssuredPublish>;

/// The session.
#[derive(Debug)]
pub(super) struct Session {
    target: Target,
    common: Arc<Common>,
    queues: Queues,
    wake: Arc<Notify>,
    closing: CancellationToken,
    end: CancellationToken,
    gone: CancellationToken,
    line: Arc<AckLine>,
    registry: Registry,
    /// Assured publishes without the broker's answer, in the order they were made. Bounded by the broker's
    /// receive maximum and by our queue.
    inflight: VecDeque<InFlight>,
    /// How many of them went out on this connection; the others follow.
    sent: usize,
    next_pkid: u16,
    /// Subscriptions without the broker's answer.
    asked: Vec<Asked>,
    /// Filters that the broker should forget when it is there.
    forget: Vec<TopicFilter>,
    connections: u64,
    /// How often the broker closed the connection soon after it accepted it, without a word.
    short: u32,
}

/// An assured publish on its way.
#[derive(Debug)]
struct InFlight {
    publish: Publish,
    done: oneshot::Sender<Result<(), PublishError>>,
}

/// A subscription on its way.
#[derive(Debug)]
struct Asked {
    pkid: u16,
    id: usize,
    /// A new subscriber waits; nothing for a subscription that is made again.
    subscriber: Option<Asker>,
}

/// A subscriber, and how it hears the broker's answer.
type Asker = (Arc<Inbox>, oneshot::Sender<Result<(), SubscribeError>>);

/// One connection.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Talk {
    pub(super) socket: Socket,
    /// What is to be written. Bounded by [`OUT_LIMIT`] and one message.
    pub(super) out: BytesMut,
    /// Something was written and not flushed yet.
    pub(super) flush: bool,
    /// Assured publishes that the broker takes at once.
    window: usize,
    /// The largest packet that the broker takes.
    pub(super) max_packet: usize,
    pub(super) heard: bool,
    pinged: bool,
    /// Our DISCONNECT is written.
    pub(super) leaving: bool,
}

/// Why a conversation ended.
pub(super) enum End {
    Broken(Broken),
    Closed,
}

// === impl Session ===

impl Session {
    pub(super) fn new(target: Target, handle: &Handle, queues: Queues) -> Self {
        let acks = AckLine::new(Arc::clone(&handle.wake));
        let registry = Registry::new(Arc::clone(&acks), Arc::clone(&handle.common.counters));
        Self {
            target,
            common: Arc::clone(&handle.common),
            queues,
            wake: Arc::clone(&handle.wake),
            closing: handle.closing.clone(),
            end: handle.end.clone(),
            gone: handle.gone.clone(),
            line: acks,
            registry,
            inflight: VecDeque::new(),
            sent: 0,
            next_pkid: 0,
            asked: Vec::new(),
            forget: Vec::new(),
            connections: 0,
            short: 0,
        }
    }

    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        while let Some(socket) = self.connect(&mut backoff).await {
            let since = Instant::now();
            match self.converse(socket, &mut backoff).await {
                End::Closed => break,
                End::Broken(broken) => self.broken(broken, since.elapsed() < SHORT),
            }
        }
        self.registry.end();
        self.common.closed();
        self.gone.cancel();
    }

    /// Tries until the broker is there; nothing if the bus was closed meanwhile.
    async fn connect(&mut self, backoff: &mut Backoff) -> Option<Socket> {
        let mut look = interval(OFFLINE_LOOK);
        let mut told = false;
        loop {
            let (connect, will) = (self.connect_packet(), presence::message(&self.common, false));
            let (target, delay, max) = (self.target.clone(), backoff.next(), self.common.max_message);
            let attempt = async move {
                sleep(delay).await;
                target.connect(connect, will.map(last_will), max).await
            };
            tokio::pin!(attempt);
            let result = loop {
                tokio::select! {
                    () = self.end.cancelled() => return None,
                    result = &mut attempt => break result,
                    () = self.closing.cancelled(), if !told => {
                        told = true;
                        self.registry.close();
                    }
                    () = self.wake.notified() => self.sweep(),
                    Some(new) = self.queues.control.recv() => {
                        self.registry.add(&new.filter, &new.inbox);
                        // The subscriber may be gone.
                        drop(new.done.send(Ok(())));
                    }
                    _ = look.tick() => self.sweep(),
                }
                if told && self.nothing_to_send() {
                    return None;
                }
            };
            match result {
                Ok(socket) => return Some(socket),
                Err(broken) => self.common.disconnected(broken.to_string()),
            }
        }
    }

    fn connect_packet(&self) -> Connect {
        let properties = ConnectProperties {
            session_expiry_interval: Some(SESSION_EXPIRY.as_secs() as u32),
            receive_maximum: Some(self.common.queue as u16),
            max_packet_size: Some(u32::try_from(self.common.max_message).unwrap_or(u32::MAX).max(1)),
            ..ConnectProperties::new()
        };
        Connect {
            keep_alive: KEEP_ALIVE.as_secs() as u16,
            client_id: self.common.module.to_string(),
            // The session continues, also that of our last process: it holds what came while we were away.
            clean_start: false,
            properties: Some(properties),
        }
    }

    /// Talks to the broker until the line breaks or the bus is closed.
    async fn converse(&mut self, socket: Socket, backoff: &mut Backoff) -> End {
        let mut talk = Talk::new(socket, self.common.queue, self.common.max_message);
        self.begin(&mut talk);
        let mut look = interval(talk.look());
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        look.reset();
        let mut closing = false;
        loop {
            self.pull(&mut talk);
            if closing
                && !talk.leaving
                && talk.is_written()
                && self.nothing_to_send()
                && self.inflight.is_empty()
            {
                self.leave(&mut talk);
            }
            if talk.leaving && talk.is_written() {
                talk.hang_up().await;
                return End::Closed;
            }
            let Talk { socket, out, flush, window, leaving, .. } = &mut talk;
            let Socket { reader, writer, inbox, .. } = socket;
            let room = out.len() < OUT_LIMIT && !*leaving;
            let more = room && self.sent == self.inflight.len() && self.inflight.len() < *window;
            let read = async {
                inbox.reserve(READ);
                reader.read_buf(inbox).await
            };
            let writing = !out.is_empty();
            let flushing = !writing && *flush;
            let write = async {
                if writing { writer.write_buf(out).await } else { writer.flush().await.map(|()| 0) }
            };
            // What keeps the connection alive comes first; what is read comes before what is sent, and after
            // each event `pull` takes from all queues, so that none starves.
            tokio::select! { biased;
                () = self.end.cancelled() => return End::Closed,
                _ = look.tick() => {
                    self.sweep();
                    if let Err(broken) = talk.keep_alive() {
                        return End::Broken(broken);
                    }
                }
                written = write, if writing || flushing => match written {
                    Ok(_) => talk.flush = writing,
                    Err(error) => return End::Broken(error.into()),
                },
                read = read => match read {
                    Ok(0) => return End::Broken(Broken::Closed),
                    Ok(_) => match self.read(&mut talk) {
                        // The connection has proved good.
                        Ok(()) => backoff.reset(),
                        Err(broken) => return End::Broken(broken),
                    },
                    Err(error) => return End::Broken(error.into()),
                },
                () = self.wake.notified() => self.sweep(),
                Some(new) = self.queues.control.recv(), if room => self.subscribe(new, &mut talk),
                Some(assured) = self.queues.assured.recv(), if more => self.launch(assured, &mut talk),
                Some(publish) = self.queues.fast.recv(), if room => self.send_fast(&publish, &mut talk),
                () = self.closing.cancelled(), if !closing => {
                    closing = true;
                    self.registry.close();
                }
            }
        }
    }

    /// The broker accepted us: subscribe again, tell that we are there, send again what it did not confirm.
    fn begin(&mut self, talk: &mut Talk) {
        let same_session = talk.socket.connack.session_present;
        self.line.resume(same_session);
        self.sent = 0;
        for flying in &mut self.inflight {
            flying.publish.dup &= same_session;
        }
        if let Some(message) = presence::message(&self.common, true) {
            talk.write_publish(&publish_packet(message, false));
        }
        let filters: Vec<_> = self
            .registry
            .entries()
            .iter()
            .map(|entry| (entry.id, entry.filter.clone(), entry.delivery))
            .collect();
        for (id, filter, delivery) in filters {
            // Retained messages again only where the broker lost the subscription.
            self.ask(talk, id, &filter, delivery, RetainForwardRule::OnNewSubscribe, None);
        }
        self.connections += 1;
        let first = self.connections == 1;
        tracing::info!(broker = ?self.target, same_session, "The bus is there.");
        self.common.connected(first);
    }

    /// The line broke.
    fn broken(&mut self, broken: Broken, short: bool) {
        self.short = if short && matches!(broken, Broken::Closed) { self.short + 1 } else { 0 };
        // Mosquitto 2.0.11 does not say so (0x8E) when the session goes on at another client.
        let taken = matches!(broken, Broken::Ended(0x8E)) || self.short >= TAKEN_OVER;
        let broken = if taken { Broken::Taken } else { broken };
        if taken && self.short <= TAKEN_OVER {
            tracing::error!(module = %self.common.module, "{broken}");
        }
        self.common.disconnected(broken.to_string());
        for asked in self.asked.drain(..) {
            if let Some((_, done)) = asked.subscriber {
                // It is made when the broker is there again; the subscriber itself may be gone.
                drop(done.send(Ok(())));
            }
        }
        // Fast events do not wait for a broker: when it is back, they are old.
        while self.queues.fast.try_recv().is_ok() {
            Counters::count(&self.common.counters.dropped_sending);
        }
    }

    fn nothing_to_send(&self) -> bool {
        let Queues { fast, assured, control } = &self.queues;
        fast.is_empty() && assured.is_empty() && control.is_empty() && self.inflight.is_empty()
    }

    /// Takes from all queues what can be sent now.
    fn pull(&mut self, talk: &mut Talk) {
        if talk.leaving {
            return;
        }
        for token in self.line.take_ready() {
            write_puback(&mut talk.out, token as u16);
        }
        for filter in std::mem::take(&mut self.forget) {
            let pkid = self.fresh_pkid();
            let unsubscribe = Unsubscribe { pkid, ..Unsubscribe::new(filter.as_str(), None) };
            talk.write(&Packet::Unsubscribe(unsubscribe));
        }
        while talk.has_room() && self.sent < self.inflight.len().min(talk.window) {
            self.send_next(talk);
        }
        while talk.has_room()
            && self.sent == self.inflight.len()
            && self.inflight.len() < talk.window
            && let Ok(assured) = self.queues.assured.try_recv()
        {
            self.launch(assured, talk);
        }
        while talk.has_room()
            && let Ok(publish) = self.queues.fast.try_recv()
        {
            self.send_fast(&publish, talk);
        }
        while talk.has_room()
            && let Ok(new) = self.queues.control.try_recv()
        {
            self.subscribe(new, talk);
        }
    }

    fn send_fast(&mut self, publish: &Publish, talk: &mut Talk) {
        let fits = publish.size() <= talk.max_packet;
        let counters = &self.common.counters;
        Counters::count(if fits { &counters.published } else { &counters.dropped_sending });
        if fits {
            talk.write_publish(publish);
        } else {
            tracing::warn!(
                bytes = publish.size(),
                allowed = talk.max_packet,
                "An event is larger than the broker takes; it is dropped."
            );
        }
    }

    /// Gives an assured publish its packet identifier and sends it.
    fn launch(&mut self, assured: AssuredPublish, talk: &mut Talk) {
        let AssuredPublish { mut publish, done } = assured;
        publish.pkid = self.fresh_pkid();
        self.inflight.push_back(InFlight { publish, done });
        self.send_next(talk);
    }

    /// Sends the next assured publish that did not go out on this connection.
    fn send_next(&mut self, talk: &mut Talk) {
        let Some(flying) = self.inflight.get_mut(self.sent) else { return };
        let size = flying.publish.size();
        if size > talk.max_packet {
            if let Some(flying) = self.inflight.remove(self.sent) {
                let error = PublishError::TooLarge { size, max: talk.max_packet };
                // The publisher may be gone.
                drop(flying.done.send(Err(error)));
            }
            return;
        }
        talk.write_publish(&flying.publish);
        flying.publish.dup = true;
        self.sent += 1;
    }

    /// A packet identifier that nothing on its way uses.
    fn fresh_pkid(&mut self) -> u16 {
        loop {
            self.next_pkid = self.next_pkid.checked_add(1).unwrap_or(1);
            let pkid = self.next_pkid;
            // Far fewer than 65535 are ever on their way, so this ends.
            if !self.inflight.iter().any(|flying| flying.publish.pkid == pkid)
                && !self.asked.iter().any(|asked| asked.pkid == pkid)
            {
                return pkid;
            }
        }
    }

    fn subscribe(&mut self, new: NewSubscriber, talk: &mut Talk) {
        let NewSubscriber { filter, inbox, done } = new;
        let id = self.registry.add(&filter, &inbox);
        let delivery = self.registry.entries().iter().find(|entry| entry.id == id);
        let delivery = delivery.map_or(inbox.delivery, |entry| entry.delivery);
        let subscriber = Some((inbox, done));
        self.ask(talk, id, &filter, delivery, RetainForwardRule::OnEverySubscribe, subscriber);
    }

    fn ask(
        &mut self,
        talk: &mut Talk,
        id: usize,
        filter: &TopicFilter,
        delivery: Delivery,
        retained: RetainForwardRule,
        subscriber: Option<Asker>,
    ) {
        let pkid = self.fresh_pkid();
        let qos = match delivery {
            Delivery::Fast => QoS::AtMostOnce,
            Delivery::Assured => QoS::AtLeastOnce,
        };
        let filter = Filter { retain_forward_rule: retained, ..Filter::new(filter.as_str(), qos) };
        let properties = SubscribeProperties { id: Some(id), user_properties: Vec::new() };
        let properties = talk.takes_identifiers().then_some(properties);
        talk.write(&Packet::Subscribe(Subscribe { pkid, ..Subscribe::new(filter, properties) }));
        self.asked.push(Asked { pkid, id, subscriber });
    }

    /// Subscribers or acknowledgements have changed.
    fn sweep(&mut self) {
        let forget = self.registry.sweep();
        self.forget.extend(forget);
    }

    /// Reads all whole packets that came.
    fn read(&mut self, talk: &mut Talk) -> Result<(), Broken> {
        let now = clock::now();
        talk.heard = true;
        while let Some(incoming) = packets::next(&mut talk.socket.inbox, self.common.max_message)? {
            match incoming {
                Incoming::PubAck { pkid, reason } => self.acknowledged(pkid, reason),
                Incoming::Disconnect { reason } => return Err(Broken::Ended(reason)),
                Incoming::Packet(Packet::Publish(publish)) => self.arrived(publish, now)?,
                Incoming::Packet(Packet::SubAck(answer)) => self.subscribed(&answer),
                Incoming::Packet(Packet::PingResp(_) | Packet::UnsubAck(_)) => {}
                Incoming::Packet(_) => return Err(Broken::Protocol("a packet that only a client may send")),
            }
        }
        Ok(())
    }

    fn acknowledged(&mut self, pkid: u16, reason: u8) {
        let at = self.inflight.iter().position(|flying| flying.publish.pkid == pkid);
        let Some(at) = at.filter(|at| *at < self.sent) else {
            tracing::debug!(pkid, "The broker acknowledged what we did not send.");
            return;
        };
        let Some(InFlight { publish, done }) = self.inflight.remove(at) else { return };
        self.sent -= 1;
        let result = if reason < 0x80 {
            Counters::count(&self.common.counters.published);
            if reason == NOBODY_LISTENS {
                Counters::count(&self.common.counters.unheard);
                let topic = String::from_utf8_lossy(&publish.topic);
                tracing::debug!(%topic, "The broker took an event that nobody has subscribed to.");
            }
            Ok(())
        } else {
            Err(PublishError::Refused(reason_text(reason)))
        };
        // The publisher may be gone.
        drop(done.send(result));
    }

    fn arrived(&mut self, publish: Publish, received_at: Mono) -> Result<(), Broken> {
        let Publish { dup, qos, topic, pkid, payload, properties, .. } = publish;
        let token = match qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(u64::from(pkid)),
            QoS::ExactlyOnce => {
                return Err(Broken::Protocol("a message of QoS 2, which we did not subscribe to"));
            }
        };
        if topic.is_empty() {
            return Err(Broken::Protocol("a topic alias, which we did not allow"));
        }
        // Our receive maximum should be the bound. Mosquitto 2.0.11 exceeds it with every acknowledgement while it
        // has a backlog, so to insist on it would break the connection again and again. Then its own
        // `max_queued_messages` bounds what waits here, and the number of packet identifiers does.
        if token.is_some() && self.line.waiting() >= usize::from(u16::MAX) {
            return Err(Broken::Protocol("more messages on their way than there are packet identifiers"));
        }
        let properties = properties.unwrap_or_default();
        let message = Arrived {
            topic: String::from_utf8_lossy(&topic).into_owned(),
            content_type: properties.content_type,
            attributes: properties.user_properties,
            payload,
            received_at,
        };
        self.registry.dispatch(message, &properties.subscription_identifiers, token, dup);
        Ok(())
    }

    fn subscribed(&mut self, answer: &SubAck) {
        let Some(at) = self.asked.iter().position(|asked| asked.pkid == answer.pkid) else { return };
        let Asked { id, subscriber, .. } = self.asked.swap_remove(at);
        let refused =
            answer.return_codes.iter().find(|code| !matches!(code, SubscribeReasonCode::Success(_)));
        let refused = refused.map(|code| format!("{code:?}"));
        match (refused, subscriber) {
            (None, None) => {}
            (None, Some((_, done))) => drop(done.send(Ok(()))),
            (Some(reason), Some((inbox, done))) => {
                self.registry.refuse(id, &inbox);
                drop(done.send(Err(SubscribeError::Refused(reason))));
            }
            (Some(reason), None) => {
                tracing::error!(%reason, "The broker refuses a subscription that it had granted; its messages are missing from now on.");
            }
        }
    }

    /// Says goodbye. The broker publishes our will, which says that we are gone, and keeps the session for
    /// our next life.
    fn leave(&mut self, talk: &mut Talk) {
        let keep = self.common.keep && self.registry.keeps();
        if keep {
            let fast = self.registry.entries().iter().filter(|entry| entry.delivery == Delivery::Fast);
            for filter in fast.map(|entry| entry.filter.clone()).collect::<Vec<_>>() {
                let pkid = self.fresh_pkid();
                let unsubscribe = Unsubscribe { pkid, ..Unsubscribe::new(filter.as_str(), None) };
                talk.write(&Packet::Unsubscribe(unsubscribe));
            }
        }
        write_disconnect(&mut talk.out, self.common.presence.is_some(), keep);
        talk.leaving = true;
    }
}

// === impl Talk ===

impl Talk {
    pub(super) fn new(socket: Socket, queue: usize, max_message: usize) -> Self {
        let properties = socket.connack.properties.as_ref();
        let window = properties.and_then(|properties| properties.receive_max);
        let max_packet = properties.and_then(|properties| properties.max_packet_size);
        Self {
            window: usize::from(window.unwrap_or(DEFAULT_RECEIVE_MAXIMUM)).min(queue),
            max_packet: max_packet.map_or(max_message, |max| max as usize),
            socket,
            out: BytesMut::new(),
            flush: false,
            heard: true,
            pinged: false,
            leaving: false,
        }
    }

    /// How often to look whether the line is alive.
    pub(super) fn look(&self) -> Duration {
        let properties = self.socket.connack.properties.as_ref();
        let wanted = properties.and_then(|properties| properties.server_keep_alive).unwrap_or(0);
        let wanted = Duration::from_secs(u64::from(wanted)) / 2;
        if wanted.is_zero() { LOOK } else { wanted.min(LOOK) }
    }

    /// Asks whether the broker is there; says that it is not when it did not answer the last time.
    pub(super) fn keep_alive(&mut self) -> Result<(), Broken> {
        if !self.heard && self.pinged {
            return Err(Broken::Silent);
        }
        // Always, not only when idle: the broker hears nothing from a mere subscriber.
        self.write(&Packet::PingReq(PingReq));
        self.pinged = true;
        self.heard = false;
        Ok(())
    }

    fn takes_identifiers(&self) -> bool {
        let properties = self.socket.connack.properties.as_ref();
        properties.and_then(|properties| properties.subscription_identifiers_available) != Some(0)
    }

    pub(super) fn has_room(&self) -> bool {
        self.out.len() < OUT_LIMIT
    }

    pub(super) fn is_written(&self) -> bool {
        self.out.is_empty() && !self.flush
    }

    pub(super) fn write(&mut self, packet: &Packet) {
        if let Err(error) = packet.write(&mut self.out, None) {
            // Only a packet above 256 MiB; our own limits are far below.
            tracing::error!(%error, "A packet cannot be written; it is dropped.");
        }
    }

    pub(super) fn write_publish(&mut self, publish: &Publish) {
        if let Err(error) = publish.write(&mut self.out) {
            tracing::error!(%error, "An event cannot be written; it is dropped.");
        }
    }

    /// Closes our side and waits until the broker closed its side, so that nothing written is lost.
    pub(super) async fn hang_up(&mut self) {
        let Socket { reader, writer, inbox, .. } = &mut self.socket;
        let bye = async {
            writer.shutdown().await?;
            while reader.read_buf(inbox).await? > 0 {
                inbox.clear();
            }
            std::io::Result::Ok(())
        };
        // The goodbye is written; whether the broker closes in time changes nothing.
        drop(timeout(GOODBYE_LIMIT, bye).await);
    }
}
