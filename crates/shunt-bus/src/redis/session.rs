//! One session with Redis, over as many connections as it takes. One task owns all of it.
//!
//! It holds three connections at a time, which live and break together: one for commands, one that listens to
//! channels, and one on which `XREADGROUP` waits for what comes into our stream.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use shunt_wire::{BinaryMessage, Envelope, TopicFilter};
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    AssuredPublish, Handle, Outgoing, Published, Server, longest,
    names::{assured_pattern, channel, pattern, topic},
    resp::Reply,
    scripts::{Script, Scripts},
    socket::{Broken, Talk},
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
    mqtt::Tls,
    presence,
    registry::Registry,
};

/// How long our stream and our subscriptions are kept while we are away.
const KEEP: Duration = Duration::from_hours(24);
/// How often we say that we are there, and look for those who are not.
const BEAT: Duration = Duration::from_secs(1);
/// So long after our last word the others are told that we are gone.
const ALIVE: Duration = Duration::from_secs(5);
/// How long Redis may leave a command without an answer.
const SILENCE: Duration = Duration::from_secs(5);
/// How long one `XREADGROUP` waits.
const BLOCK: Duration = Duration::from_secs(2);
/// How long the numbers of assured events that we sent are remembered after the last one, for the case that we send
/// one again.
const REMEMBER: Duration = Duration::from_hours(1);
/// The most events in the stream of one client, as `max_queued_messages` of Mosquitto (`deliver.lua` bounds their bytes).
/// Full: publishers wait while the client is there; of one that is away, or acknowledges nothing for [`PATIENCE`], the
/// newest are dropped and counted, and it learns their number.
const STREAM_BOUND: &str = "10000";
/// How long publishers wait for a client whose stream is full and who acknowledges nothing: it must not stop the others
/// for ever.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most entries of our stream in one answer: each may be as large as a message may be.
const READ_AT_ONCE: usize = 16;
/// So long after a connection was made, whatever `XREADGROUP` waited on the one before has ended. What the server handed
/// to that one in between is ours, but nobody read it: so we ask for it a second time.
const SECOND_LOOK: Duration = BLOCK.saturating_add(Duration::from_secs(1));
/// The most acknowledgements in one command.
const ACKS: usize = 1000;
/// The most topics of which we know the retained event. Beyond it, one may come a second time after a reconnect.
const RETAINED: usize = 4096;
/// How often to look at what changes without a message while there is no connection.
const OFFLINE_LOOK: Duration = Duration::from_secs(1);
/// The content type of the structured mode.
const STRUCTURED: &str = "application/cloudevents+json";
/// Bits of a token that hold the second half of a stream's entry id.
const SEQUENCE_BITS: u32 = 20;

type Queues = crate::handle::Queues<Outgoing, AssuredPublish>;

/// The session.
pub(super) struct Session {
    server: Server,
    tls: Option<Tls>,
    common: Arc<Common>,
    queues: Queues,
    wake: Arc<Notify>,
    closing: CancellationToken,
    end: CancellationToken,
    gone: CancellationToken,
    line: Arc<AckLine>,
    registry: Registry,
    /// Tells this life of the client from others: it owns the name, and numbers its assured events.
    life: String,
    /// Assured publishes without an answer, in the order they were made. Bounded by our queue.
    inflight: VecDeque<InFlight>,
    /// How many of them went out on these connections; the others follow.
    sent: usize,
    next_number: u64,
    /// Filters that Redis should forget when it is there.
    forget: Vec<TopicFilter>,
    /// What we know to be retained, as a digest, so that only news come after a reconnect. Bounded by [`RETAINED`].
    retained: HashMap<String, u64>,
    connections: u64,
    /// What the server refused last, which is told once.
    trouble: Option<String>,
    /// It is told that another module has our name.
    told_taken: bool,
}

/// An assured publish on its way.
struct InFlight {
    number: u64,
    message: Outgoing,
    done: oneshot::Sender<Published>,
}

/// A subscription on its way.
struct Asked {
    id: usize,
    filter: TopicFilter,
    delivery: Delivery,
    /// A new subscriber waits; nothing for a subscription that is made again.
    subscriber: Option<Asker>,
}

/// A subscriber, and how it hears the answer.
type Asker = (Arc<Inbox>, oneshot::Sender<Result<(), SubscribeError>>);

/// What the connection for commands answers.
enum Expect {
    /// Nothing that we wait for.
    Done,
    /// A fast event is told.
    Fast,
    /// We have said that we are there.
    Hello,
    Publish,
    Beat,
    /// An assured subscription is made.
    Made(Asked),
    /// All retained events, for a fast subscription.
    Retained(Asked),
    Bye,
}

/// What the listening connection answers.
enum Heard {
    /// So many confirmations.
    Patterns(usize, Option<Asked>),
    Pong,
}

/// What the reading connection answers.
#[derive(Clone, Copy)]
enum Read {
    /// What was delivered before and not acknowledged.
    Again,
    New,
}

/// The three connections.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Talks {
    main: Talk<Expect>,
    live: Talk<Heard>,
    queue: Talk<Read>,
    scripts: Scripts,
    /// Our stream and its group are there.
    has_stream: bool,
    /// Where we are in what was delivered before, while there is more of it.
    again: Option<Bytes>,
    second_look: SecondLook,
    /// Our hello, and subscriptions that are made again, where they are not confirmed yet. We are connected when there
    /// are none.
    missing: usize,
    connected: bool,
    /// Our goodbye is written, and answered.
    leaving: bool,
    left: bool,
}

/// Where we are in the second look at what was delivered before.
enum SecondLook {
    /// The first one is not done.
    AfterFirst,
    At(Instant),
    Begun,
}

/// Why a conversation ended.
enum End {
    Broken(Broken),
    Closed,
}

// === impl Session ===

impl Session {
    pub(super) fn new(server: Server, tls: Option<Tls>, handle: &Handle, queues: Queues) -> Self {
        let acks = AckLine::new(Arc::clone(&handle.wake));
        let registry = Registry::new(Arc::clone(&acks), Arc::clone(&handle.common.counters));
        Self {
            server,
            tls,
            common: Arc::clone(&handle.common),
            queues,
            wake: Arc::clone(&handle.wake),
            closing: handle.closing.clone(),
            end: handle.end.clone(),
            gone: handle.gone.clone(),
            line: acks,
            registry,
            life: format!("{:032x}", rand::random::<u128>()),
            inflight: VecDeque::new(),
            sent: 0,
            next_number: 1,
            forget: Vec::new(),
            retained: HashMap::new(),
            connections: 0,
            trouble: None,
            told_taken: false,
        }
    }

    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        while let Some(talks) = self.connect(&mut backoff).await {
            match self.converse(talks, &mut backoff).await {
                End::Closed => break,
                End::Broken(broken) => self.broken(&broken),
            }
        }
        self.registry.end();
        self.common.closed();
        self.gone.cancel();
    }

    /// Tries until Redis is there; nothing if the bus was closed meanwhile.
    async fn connect(&mut self, backoff: &mut Backoff) -> Option<Talks> {
        let mut look = interval(OFFLINE_LOOK);
        let mut told = false;
        loop {
            let (server, tls, delay) = (self.server.clone(), self.tls.clone(), backoff.next());
            let (name, max) = (self.common.module.to_string(), longest(self.common.max_message));
            let attempt = async move {
                sleep(delay).await;
                let [mut main, live, queue] = server.connect(tls.as_ref(), &name, max).await?;
                let scripts = Scripts::load(&mut main).await?;
                Ok::<_, Broken>(Talks::new(Talk::new(main), Talk::new(live), Talk::new(queue), scripts))
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
                Ok(talks) => return Some(talks),
                Err(broken) => self.common.disconnected(broken.to_string()),
            }
        }
    }

    /// Talks to Redis until a line breaks or the bus is closed.
    async fn converse(&mut self, mut talks: Talks, backoff: &mut Backoff) -> End {
        self.begin(&mut talks);
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut closing = false;
        loop {
            if let Err(broken) = self.take_replies(&mut talks) {
                return End::Broken(broken);
            }
            if talks.connected {
                backoff.reset();
            }
            self.pull(&mut talks);
            if talks.left {
                return End::Closed;
            }
            if closing && !talks.leaving && self.nothing_to_send() && self.inflight.is_empty() {
                self.leave(&mut talks);
            }
            // Before our subscriptions are made again, what we publish would pass them by.
            let room = talks.main.has_room() && talks.connected && !talks.leaving;
            let more = room && self.sent == self.inflight.len() && self.inflight.len() < self.common.queue;
            // What is on its way, out and in, comes before what is taken anew; and after each event `pull` takes from all
            // queues, so that none starves.
            let turned = tokio::select! { biased;
                () = self.end.cancelled() => return End::Closed,
                _ = beat.tick() => self.beat(&mut talks),
                turned = talks.main.turn() => turned,
                turned = talks.queue.turn() => turned,
                turned = talks.live.turn() => turned,
                () = self.wake.notified() => {
                    self.sweep();
                    Ok(())
                }
                Some(new) = self.queues.control.recv(), if room => {
                    self.subscribe(new, &mut talks);
                    Ok(())
                }
                Some(assured) = self.queues.assured.recv(), if more => {
                    self.launch(assured, &mut talks);
                    Ok(())
                }
                Some(message) = self.queues.fast.recv(), if room => {
                    self.send_fast(&message, &mut talks);
                    Ok(())
                }
                () = self.closing.cancelled(), if !closing => {
                    closing = true;
                    self.registry.close();
                    Ok(())
                }
            };
            if let Err(broken) = turned {
                return End::Broken(broken);
            }
        }
    }

    /// Redis is there: tell it that we are, subscribe again, send again what it did not confirm.
    fn begin(&mut self, talks: &mut Talks) {
        // Entries of a stream have ids that never come again, so what we hold is still known by its id.
        self.line.resume(true);
        self.sent = 0;
        self.hello(talks, Expect::Hello);
        let filters: Vec<_> = self
            .registry
            .entries()
            .iter()
            .map(|entry| (entry.id, entry.filter.clone(), entry.delivery))
            .collect();
        talks.missing = filters.len() + 1;
        for (id, filter, delivery) in filters {
            Self::listen(talks, Asked { id, filter, delivery, subscriber: None });
        }
    }

    /// Are all subscriptions made again? Then we are connected.
    fn is_complete(&mut self, talks: &mut Talks) {
        if talks.missing == 0 && !talks.connected {
            talks.connected = true;
            self.connections += 1;
            tracing::info!(broker = ?self.server, "The bus is there.");
            self.common.connected(self.connections == 1);
        }
    }

    /// Says that we are there, and what is to be told when we are not.
    fn hello(&self, talks: &mut Talks, expect: Expect) {
        let (online, will) = (self.presence(true), self.presence(false));
        let alive = ALIVE.as_millis().to_string();
        let parts: [&[u8]; 6] = [
            self.common.module.as_str().as_bytes(),
            self.life.as_bytes(),
            alive.as_bytes(),
            &online,
            &will,
            STREAM_BOUND.as_bytes(),
        ];
        talks.run(Script::Hello, &parts, expect);
    }

    /// The event that says that we are there, or not; empty if the module does not tell.
    fn presence(&self, online: bool) -> Bytes {
        let message = presence::message(&self.common, online).and_then(|message| Outgoing::new(message).ok());
        message.map(|message| message.event).unwrap_or_default()
    }

    fn beat(&mut self, talks: &mut Talks) -> Result<(), Broken> {
        self.sweep();
        let silent = talks.main.is_silent(SILENCE)
            || talks.live.is_silent(SILENCE)
            || talks.queue.is_silent(SILENCE + BLOCK);
        if silent {
            return Err(Broken::Silent);
        }
        if talks.leaving {
            return Ok(());
        }
        talks.live.ask(&[b"PING"], Heard::Pong);
        // Streams that nobody here reads any more expire.
        let keep = if self.registry.any(Delivery::Assured) { KEEP.as_secs() } else { 0 };
        let (alive, keep) = (ALIVE.as_millis().to_string(), keep.to_string());
        let parts: [&[u8]; 5] = [
            self.common.module.as_str().as_bytes(),
            self.life.as_bytes(),
            alive.as_bytes(),
            keep.as_bytes(),
            STREAM_BOUND.as_bytes(),
        ];
        talks.run(Script::Beat, &parts, Expect::Beat);
        Ok(())
    }

    /// The line broke.
    fn broken(&mut self, broken: &Broken) {
        // Two of one name take it from each other each second.
        if matches!(broken, Broken::Taken) && !self.told_taken {
            self.told_taken = true;
            tracing::error!(module = %self.common.module, "{broken}");
        }
        self.common.disconnected(broken.to_string());
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
    fn pull(&mut self, talks: &mut Talks) {
        if talks.leaving {
            return;
        }
        self.acknowledge(talks);
        for filter in std::mem::take(&mut self.forget) {
            self.unsubscribe(&filter, talks);
        }
        if !talks.connected {
            return;
        }
        while talks.main.has_room() && self.sent < self.inflight.len() {
            self.send_next(talks);
        }
        while talks.main.has_room()
            && self.inflight.len() < self.common.queue
            && let Ok(assured) = self.queues.assured.try_recv()
        {
            self.launch(assured, talks);
        }
        while talks.main.has_room()
            && let Ok(message) = self.queues.fast.try_recv()
        {
            self.send_fast(&message, talks);
        }
        while talks.main.has_room()
            && let Ok(new) = self.queues.control.try_recv()
        {
            self.subscribe(new, talks);
        }
        self.read_on(talks);
    }

    fn acknowledge(&self, talks: &mut Talks) {
        let client = self.common.module.as_str().as_bytes();
        for tokens in self.line.take_ready().chunks(ACKS) {
            let ids: Vec<_> = tokens.iter().map(|token| entry_id(*token)).collect();
            let parts: Vec<_> = std::iter::once(client).chain(ids.iter().map(String::as_bytes)).collect();
            talks.run(Script::Acknowledge, &parts, Expect::Done);
        }
    }

    /// Asks for as many entries of our stream as there is room for.
    fn read_on(&self, talks: &mut Talks) {
        let room = self.common.queue.saturating_sub(self.line.waiting()).min(READ_AT_ONCE);
        let wanted = talks.connected && talks.has_stream && self.registry.any(Delivery::Assured);
        if !wanted || room == 0 || !talks.queue.expected.is_empty() {
            return;
        }
        if talks.again.is_none()
            && let SecondLook::At(time) = talks.second_look
            && time <= Instant::now()
        {
            talks.again = Some(Bytes::from_static(b"0"));
            talks.second_look = SecondLook::Begun;
        }
        let client = self.common.module.as_str();
        let (queue, count, block) =
            (format!("shunt:queue:{client}"), room.to_string(), BLOCK.as_millis().to_string());
        let (from, expect) = match &talks.again {
            Some(from) => (from.clone(), Read::Again),
            None => (Bytes::from_static(b">"), Read::New),
        };
        let parts: [&[u8]; 11] = [
            b"XREADGROUP",
            b"GROUP",
            client.as_bytes(),
            client.as_bytes(),
            b"COUNT",
            count.as_bytes(),
            b"BLOCK",
            block.as_bytes(),
            b"STREAMS",
            queue.as_bytes(),
            &from,
        ];
        talks.queue.ask(&parts, expect);
    }

    fn send_fast(&self, message: &Outgoing, talks: &mut Talks) {
        let channel = channel(&message.topic);
        talks.main.ask(&[b"PUBLISH", channel.as_bytes(), &message.event], Expect::Fast);
        Counters::count(&self.common.counters.published);
    }

    /// Gives an assured publish its number and sends it.
    fn launch(&mut self, assured: AssuredPublish, talks: &mut Talks) {
        let AssuredPublish { message, done } = assured;
        self.inflight.push_back(InFlight { number: self.next_number, message, done });
        self.next_number += 1;
        if self.sent + 1 == self.inflight.len() {
            self.send_next(talks);
        }
    }

    /// Sends the next assured publish that did not go out on this connection.
    fn send_next(&mut self, talks: &mut Talks) {
        let Some(InFlight { number, message, .. }) = self.inflight.get(self.sent) else { return };
        let lowest = self.inflight.front().map_or(*number, |first| first.number).to_string();
        let (number, remember) = (number.to_string(), REMEMBER.as_secs().to_string());
        let patience = PATIENCE.as_secs().to_string();
        let parts: [&[u8]; 9] = [
            self.life.as_bytes(),
            number.as_bytes(),
            lowest.as_bytes(),
            message.topic.as_bytes(),
            &message.event,
            if message.retain { b"1" } else { b"0" },
            STREAM_BOUND.as_bytes(),
            patience.as_bytes(),
            remember.as_bytes(),
        ];
        talks.run(Script::Publish, &parts, Expect::Publish);
        self.sent += 1;
    }

    fn subscribe(&mut self, new: NewSubscriber, talks: &mut Talks) {
        let NewSubscriber { filter, inbox, done } = new;
        let id = self.registry.add(&filter, &inbox);
        let delivery = self.registry.entries().iter().find(|entry| entry.id == id);
        let delivery = delivery.map_or(inbox.delivery, |entry| entry.delivery);
        Self::listen(talks, Asked { id, filter, delivery, subscriber: Some((inbox, done)) });
    }

    /// First the channels, so that nothing is missed, then the stream or what is retained.
    fn listen(talks: &mut Talks, asked: Asked) {
        let plain = pattern(&asked.filter);
        match asked.delivery {
            Delivery::Assured => {
                talks.live.ask(&[b"PSUBSCRIBE", plain.as_bytes()], Heard::Patterns(1, Some(asked)));
            }
            Delivery::Fast => {
                let assured = assured_pattern(&asked.filter);
                let parts: [&[u8]; 3] = [b"PSUBSCRIBE", plain.as_bytes(), assured.as_bytes()];
                talks.live.ask(&parts, Heard::Patterns(2, Some(asked)));
            }
        }
    }

    fn unsubscribe(&self, filter: &TopicFilter, talks: &mut Talks) {
        let plain = pattern(filter);
        let needed = self.registry.entries().iter().any(|entry| pattern(&entry.filter) == plain);
        if !needed {
            let assured = assured_pattern(filter);
            let parts: [&[u8]; 3] = [b"PUNSUBSCRIBE", plain.as_bytes(), assured.as_bytes()];
            talks.live.ask(&parts, Heard::Patterns(2, None));
        }
        let key = format!("shunt:filters:{}", self.common.module);
        talks.main.ask(&[b"SREM", key.as_bytes(), filter.as_str().as_bytes()], Expect::Done);
    }

    /// Subscribers or acknowledgements have changed.
    fn sweep(&mut self) {
        let forget = self.registry.sweep();
        self.forget.extend(forget);
    }

    /// Takes all whole replies that came.
    fn take_replies(&mut self, talks: &mut Talks) -> Result<(), Broken> {
        while let Some(reply) = talks.main.reply()? {
            let expect = talks.main.expected.pop_front();
            let expect = expect.ok_or(Broken::Protocol("an answer to no command"))?;
            self.answered(expect, reply, talks)?;
        }
        while let Some(reply) = talks.queue.reply()? {
            let read = talks.queue.expected.pop_front();
            self.read(read.ok_or(Broken::Protocol("an answer to no command"))?, reply, talks)?;
        }
        while let Some(reply) = talks.live.reply()? {
            self.heard(reply, talks)?;
        }
        Ok(())
    }

    /// The connection for commands answered.
    fn answered(&mut self, expect: Expect, reply: Reply, talks: &mut Talks) -> Result<(), Broken> {
        if let Reply::Error(error) = &reply
            && is_fatal(error)
        {
            return Err(Broken::Failed(error.clone()));
        }
        match (expect, reply) {
            (Expect::Done | Expect::Beat, Reply::Error(error)) => self.tell(error),
            (Expect::Hello, reply) => {
                if let Reply::Error(error) = reply {
                    self.tell(error);
                }
                self.made_again(talks);
            }
            (Expect::Fast, Reply::Error(error)) => {
                Counters::count(&self.common.counters.dropped_sending);
                tracing::debug!(%error, "The broker refused a fast event.");
            }
            (Expect::Done | Expect::Fast, _) => {}
            (Expect::Publish, reply) => self.published(reply),
            (Expect::Beat, Reply::Text(_)) => return Err(Broken::Taken),
            (Expect::Beat, reply) => self.beaten(reply, talks),
            (Expect::Made(asked) | Expect::Retained(asked), Reply::Error(error)) => {
                self.refused(asked, error)?;
            }
            (Expect::Made(asked), _) => self.made(asked, talks),
            (Expect::Retained(asked), reply) => {
                self.take_retained(&asked, reply);
                self.made(asked, talks);
            }
            (Expect::Bye, _) => talks.left = true,
        }
        Ok(())
    }

    fn published(&mut self, reply: Reply) {
        let Some(InFlight { message, done, .. }) = self.inflight.pop_front() else { return };
        self.sent -= 1;
        let counters = &self.common.counters;
        let result = match reply {
            Reply::Error(error) => Published::Failed(PublishError::Refused(error)),
            Reply::Text(client) => Published::Full(String::from_utf8_lossy(&client).into_owned()),
            reply => {
                Counters::count(&counters.published);
                if reply == Reply::Int(0) {
                    Counters::count(&counters.unheard);
                    tracing::debug!(
                        topic = message.topic,
                        "The broker took an event that nobody has subscribed to."
                    );
                }
                Published::Done
            }
        };
        // The publisher may be gone.
        drop(done.send(result));
    }

    /// The server refuses what we cannot do without; it is told when that is news.
    fn tell(&mut self, error: String) {
        if self.trouble.as_ref() != Some(&error) {
            tracing::error!(%error, "The broker refuses a command of the bus; others may take this module for gone.");
            self.trouble = Some(error);
        }
    }

    fn beaten(&mut self, reply: Reply, talks: &mut Talks) {
        let Some(list) = reply.into_list() else { return };
        let [Reply::Int(mine), Reply::Int(dropped)] = list.as_slice() else { return };
        if let Ok(dropped @ 1..) = u64::try_from(*dropped) {
            tracing::error!(dropped, "The stream of this module was full; events were dropped.");
            self.common.counters.dropped_receiving.fetch_add(dropped, std::sync::atomic::Ordering::Relaxed);
        }
        if *mine == 0 && self.common.presence.is_some() {
            // We were silent for so long that the others were told we are gone.
            self.hello(talks, Expect::Done);
        } else {
            self.trouble = None;
        }
    }

    fn made(&mut self, mut asked: Asked, talks: &mut Talks) {
        talks.has_stream |= asked.delivery == Delivery::Assured;
        if let Some((_, done)) = asked.subscriber.take() {
            // The subscriber may be gone.
            drop(done.send(Ok(())));
        } else {
            self.made_again(talks);
        }
    }

    /// The hello, or one of the subscriptions of before the break, is settled.
    fn made_again(&mut self, talks: &mut Talks) {
        talks.missing = talks.missing.saturating_sub(1);
        self.is_complete(talks);
    }

    /// A new subscriber learns it. One that was granted before is asked for again, with a growing pause: without it we
    /// would seem to be there and hear nothing.
    fn refused(&mut self, mut asked: Asked, reason: String) -> Result<(), Broken> {
        let Some((inbox, done)) = asked.subscriber.take() else { return Err(Broken::Failed(reason)) };
        self.registry.refuse(asked.id, &inbox);
        // The subscriber may be gone.
        drop(done.send(Err(SubscribeError::Refused(reason))));
        Ok(())
    }

    /// Delivers what is retained: to a new subscriber all, after a reconnect what is new.
    fn take_retained(&mut self, asked: &Asked, reply: Reply) {
        let list = reply.into_list().unwrap_or_default();
        for pair in list.chunks(2) {
            let [Reply::Text(topic), Reply::Text(event)] = pair else { continue };
            let topic = String::from_utf8_lossy(topic).into_owned();
            if !asked.filter.matches(&topic) {
                continue;
            }
            let is_new = self.note_retained(&topic, event);
            if is_new || asked.subscriber.is_some() {
                self.registry.dispatch(arrived(topic, event.clone(), None), &[asked.id], None, false);
            }
        }
    }

    /// Notes the retained event of a topic; returns whether it is news.
    fn note_retained(&mut self, topic: &str, event: &Bytes) -> bool {
        let mut hasher = DefaultHasher::new();
        event.hash(&mut hasher);
        let digest = hasher.finish();
        if self.retained.len() >= RETAINED && !self.retained.contains_key(topic) {
            return true;
        }
        self.retained.insert(topic.to_owned(), digest) != Some(digest)
    }

    /// The listening connection heard something.
    fn heard(&mut self, reply: Reply, talks: &mut Talks) -> Result<(), Broken> {
        if let Reply::List(list) = &reply
            && let [Reply::Text(kind), Reply::Text(pattern), Reply::Text(channel), Reply::Text(event)] =
                list.as_slice()
            && &kind[..] == b"pmessage"
        {
            self.live(&String::from_utf8_lossy(pattern), &String::from_utf8_lossy(channel), event);
            return Ok(());
        }
        let expect = talks.live.expected.pop_front();
        match (expect.ok_or(Broken::Protocol("an answer to no command"))?, reply) {
            (Heard::Patterns(_, Some(asked)), Reply::Error(error)) => self.refused(asked, error)?,
            (_, Reply::Error(error)) => return Err(Broken::Failed(error)),
            (Heard::Pong | Heard::Patterns(0 | 1, None), _) => {}
            (Heard::Patterns(0 | 1, Some(asked)), _) => self.listening(asked, talks),
            (Heard::Patterns(count, asked), _) => {
                talks.live.expected.push_front(Heard::Patterns(count - 1, asked));
            }
        }
        Ok(())
    }

    /// The channels of a subscription are heard.
    fn listening(&self, asked: Asked, talks: &mut Talks) {
        match asked.delivery {
            Delivery::Fast => talks.main.ask(&[b"HGETALL", b"shunt:retained"], Expect::Retained(asked)),
            Delivery::Assured => {
                let keep = KEEP.as_secs().to_string();
                let filter = asked.filter.to_string();
                let parts: [&[u8]; 4] = [
                    self.common.module.as_str().as_bytes(),
                    filter.as_bytes(),
                    keep.as_bytes(),
                    if asked.subscriber.is_some() { b"1" } else { b"0" },
                ];
                talks.run(Script::Subscribe, &parts, Expect::Made(asked));
            }
        }
    }

    /// A message on a channel that one of our patterns matches.
    fn live(&mut self, heard_by: &str, channel: &str, event: &Bytes) {
        let (topic, assured) = topic(channel);
        let entries = self.registry.entries();
        let ids: Vec<_> = if assured {
            if entries.iter().any(|entry| entry.delivery == Delivery::Assured && entry.filter.matches(&topic))
            {
                // It comes by our stream.
                return;
            }
            let mine = entries.iter().filter(|entry| assured_pattern(&entry.filter) == heard_by);
            mine.filter(|entry| entry.filter.matches(&topic)).map(|entry| entry.id).collect()
        } else {
            let mine = entries.iter().filter(|entry| pattern(&entry.filter) == heard_by);
            mine.filter(|entry| entry.filter.matches(&topic)).map(|entry| entry.id).collect()
        };
        if assured && topic.starts_with("shunt/presence/") {
            self.note_retained(&topic, event);
        }
        if !ids.is_empty() {
            self.registry.dispatch(arrived(topic, event.clone(), None), &ids, None, false);
        }
    }

    /// The reading connection brought entries of our stream.
    fn read(&mut self, read: Read, reply: Reply, talks: &mut Talks) -> Result<(), Broken> {
        if let Reply::Error(error) = reply {
            // Somebody deleted the stream or its group: it is made again with the subscriptions.
            return Err(Broken::Failed(error));
        }
        let unexpected = || Broken::Protocol("an answer to XREADGROUP of another form");
        let mut entries = Vec::new();
        for stream in reply.into_list().ok_or_else(unexpected)? {
            let parts = stream.into_list().ok_or_else(unexpected)?;
            let [_, stream] = <[Reply; 2]>::try_from(parts).map_err(|_| unexpected())?;
            entries.extend(stream.into_list().ok_or_else(unexpected)?);
        }
        let again = matches!(read, Read::Again);
        if again && entries.is_empty() {
            talks.again = None;
            if matches!(talks.second_look, SecondLook::AfterFirst) {
                talks.second_look = SecondLook::At(Instant::now() + SECOND_LOOK);
            }
        }
        for entry in entries {
            let parts = entry.into_list().ok_or_else(unexpected)?;
            let [id, fields] = <[Reply; 2]>::try_from(parts).map_err(|_| unexpected())?;
            let id = id.text().cloned().ok_or_else(unexpected)?;
            if again {
                talks.again = Some(id.clone());
            }
            self.entry(&id, fields, again, talks);
        }
        Ok(())
    }

    /// One entry of our stream.
    fn entry(&mut self, id: &Bytes, fields: Reply, again: bool, talks: &mut Talks) {
        let fields = fields.into_list().unwrap_or_default();
        let field = |wanted: &[u8]| {
            let mut pairs = fields.chunks(2);
            pairs.find_map(|pair| match pair {
                [Reply::Text(name), Reply::Text(value)] if &name[..] == wanted => Some(value.clone()),
                _ => None,
            })
        };
        let (Some(token), Some(topic)) = (token(id), field(b"topic")) else {
            // Deleted meanwhile, or written by somebody else in another form: nobody could be given it.
            tracing::warn!(id = %String::from_utf8_lossy(id), "An entry of the stream is no event; it is dropped.");
            Counters::count(&self.common.counters.dropped_receiving);
            let client = self.common.module.as_str().as_bytes();
            talks.run(Script::Acknowledge, &[client, id], Expect::Done);
            return;
        };
        if again && self.line.has(token) {
            // The second look sees what came on this connection too.
            return;
        }
        let topic = String::from_utf8_lossy(&topic).into_owned();
        let event = field(b"event").unwrap_or_default();
        self.registry.dispatch(arrived(topic, event, Some(id)), &[], Some(token), again);
    }

    /// Says goodbye: the others are told, and our stream is kept for our next life.
    fn leave(&self, talks: &mut Talks) {
        let offline = self.presence(false);
        let keeps = self.common.keep && self.registry.keeps();
        let keep: &[u8] = if keeps { b"1" } else { b"0" };
        let parts: [&[u8]; 5] = [
            self.common.module.as_str().as_bytes(),
            self.life.as_bytes(),
            keep,
            &offline,
            STREAM_BOUND.as_bytes(),
        ];
        talks.run(Script::Bye, &parts, Expect::Bye);
        talks.leaving = true;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some((_, done)) = self.subscriber.take() {
            // The line broke; the subscription is made when it is there again. The subscriber itself may be gone.
            drop(done.send(Ok(())));
        }
    }
}

// === impl Talks ===

impl Talks {
    fn new(main: Talk<Expect>, live: Talk<Heard>, queue: Talk<Read>, scripts: Scripts) -> Self {
        Self {
            main,
            live,
            queue,
            scripts,
            has_stream: false,
            again: Some(Bytes::from_static(b"0")),
            second_look: SecondLook::AfterFirst,
            missing: 0,
            connected: false,
            leaving: false,
            left: false,
        }
    }

    fn run(&mut self, script: Script, arguments: &[&[u8]], expect: Expect) {
        let mut parts: Vec<&[u8]> = vec![b"EVALSHA", self.scripts.digest(script), b"0"];
        parts.extend(arguments);
        self.main.ask(&parts, expect);
    }
}

/// The message as it would have come over MQTT; what is no event as it is, for the subscriber to see.
fn arrived(topic: String, event: Bytes, entry: Option<&Bytes>) -> Arrived {
    let received_at = clock::now();
    if let Ok(envelope) = Envelope::from_structured(&event) {
        let BinaryMessage { content_type, attributes, body } = envelope.to_binary();
        return Arrived { topic, content_type, attributes, payload: body, received_at };
    }
    // An entry of a stream is told from others by its id.
    let entry = entry.map(|id| ("entry".to_owned(), String::from_utf8_lossy(id).into_owned()));
    let attributes = entry.into_iter().collect();
    Arrived { topic, content_type: Some(STRUCTURED.to_owned()), attributes, payload: event, received_at }
}

/// Errors after which this connection is of no use, or the server not ready.
fn is_fatal(error: &str) -> bool {
    let code = error.split(' ').next().unwrap_or_default();
    let useless =
        ["NOSCRIPT", "NOAUTH", "LOADING", "MASTERDOWN", "READONLY", "BUSY", "UNKILLABLE", "MISCONF"];
    useless.contains(&code)
}

/// The number by which we know an entry; nothing for an id of a form that `XADD` with `*` does not make.
fn token(id: &[u8]) -> Option<u64> {
    let (time, sequence) = std::str::from_utf8(id).ok()?.split_once('-')?;
    let (time, sequence) = (time.parse::<u64>().ok()?, sequence.parse::<u64>().ok()?);
    let fits = time >> (64 - SEQUENCE_BITS) == 0 && sequence >> SEQUENCE_BITS == 0;
    fits.then_some(time << SEQUENCE_BITS | sequence)
}

/// The id of the entry of this number.
fn entry_id(token: u64) -> String {
    format!("{}-{}", token >> SEQUENCE_BITS, token & ((1 << SEQUENCE_BITS) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_known_by_a_number_and_come_back() {
        for id in ["1763729100123-0", "0-1", "17592186044415-1048575"] {
            assert_eq!(entry_id(token(id.as_bytes()).unwrap()), id);
        }
        for id in ["", "1", "a-b", "1-", "17592186044416-0", "1-1048576", "-1-1"] {
            assert_eq!(token(id.as_bytes()), None, "{id}");
        }
    }
}
