//! The bus inside one process, for tests: brokers by name that keep sessions, retained messages and wills like
//! a real one, and can be cut off.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    sync::{Arc, LazyLock, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use shunt_wire::TopicFilter;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    time::{interval, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    BusState, Delivery, PublishError, SubscribeError,
    ack::AckLine,
    clock,
    inbox::Inbox,
    link::{Answer, Common, Counters, Link},
    message::{Arrived, Message},
    presence,
    registry::Registry,
};

/// The most assured messages waiting for one session. Full: publishers wait while the subscriber is there, and
/// are refused while it is not.
const SESSION_QUEUE: usize = 10_000;
/// How often to look at what changes without a message.
const LOOK: Duration = Duration::from_secs(1);

/// Brokers live as long as somebody uses them.
static BROKERS: LazyLock<Mutex<HashMap<String, Weak<Inner>>>> = LazyLock::new(Mutex::default);

/// A broker in this process: that of the address `memory:<name>`. It lives as long as a bus or a handle on it.
#[derive(Debug, Clone)]
pub struct MemoryBroker(Arc<Inner>);

struct Inner {
    name: String,
    /// Can it be reached?
    up: watch::Sender<bool>,
    state: Mutex<State>,
    /// A session's queue has room again.
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    sessions: BTreeMap<String, Session>,
    retained: BTreeMap<String, Message>,
}

/// What the broker keeps for one client.
#[derive(Debug, Default)]
struct Session {
    /// The client, while it is there.
    client: Option<Arc<Client>>,
    filters: Vec<(TopicFilter, Delivery)>,
    /// Bounded by [`SESSION_QUEUE`].
    queue: VecDeque<Message>,
    /// Delivered and not acknowledged. Bounded by the client's queue.
    inflight: VecDeque<(u64, Message)>,
    next_token: u64,
}

/// The client's end of a session.
#[derive(Debug)]
struct Client {
    common: Arc<Common>,
    registry: Mutex<Registry>,
    line: Arc<AckLine>,
    wake: Arc<Notify>,
    end: CancellationToken,
}

#[derive(Debug)]
struct MemoryLink {
    broker: MemoryBroker,
    client: Arc<Client>,
}

/// Connects to the broker of this name.
pub(crate) fn open(name: &str, common: &Arc<Common>, runtime: &Handle) -> impl Link + use<> {
    let broker = MemoryBroker::named(name);
    let wake = Arc::<Notify>::default();
    let line = AckLine::new(Arc::clone(&wake));
    let registry = Mutex::new(Registry::new(Arc::clone(&line), Arc::clone(&common.counters)));
    let common = Arc::clone(common);
    let client = Arc::new(Client { common, registry, line, wake, end: CancellationToken::new() });
    broker.0.attach(&client);
    runtime.spawn(serve(broker.clone(), Arc::clone(&client)));
    MemoryLink { broker, client }
}

/// Passes on a client's acknowledgements and wishes until it is gone.
async fn serve(broker: MemoryBroker, client: Arc<Client>) {
    let mut look = interval(LOOK);
    loop {
        tokio::select! {
            () = client.end.cancelled() => return,
            () = client.wake.notified() => {}
            _ = look.tick() => {}
        }
        broker.0.settle(&client);
    }
}

// === impl MemoryBroker ===

impl MemoryBroker {
    /// The broker of the address `memory:<name>`; made if nobody uses it yet.
    pub fn named(name: &str) -> Self {
        let mut brokers = BROKERS.lock();
        brokers.retain(|_, broker| broker.strong_count() > 0);
        if let Some(broker) = brokers.get(name).and_then(Weak::upgrade) {
            return Self(broker);
        }
        let inner = Inner {
            name: name.to_owned(),
            up: watch::Sender::new(true),
            state: Mutex::default(),
            room: Notify::new(),
        };
        let broker = Arc::new(inner);
        brokers.insert(name.to_owned(), Arc::downgrade(&broker));
        Self(broker)
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("memory:{}", self.0.name)
    }

    /// Cuts all clients off until [`MemoryBroker::heal`].
    pub fn cut(&self) {
        self.0.up.send_replace(false);
        for client in self.0.clients() {
            client.common.disconnected("the line is cut".to_owned());
        }
    }

    /// Lets the clients in again, with their sessions; what they did not acknowledge is delivered again.
    pub fn heal(&self) {
        if self.0.up.send_replace(true) {
            return;
        }
        for client in self.0.clients() {
            self.0.welcome(&client, false);
        }
    }

    /// Loses all sessions and what waits in them, as a broker without a disk does that is started anew. The
    /// clients must be cut off before.
    pub fn forget_sessions(&self) {
        for session in self.0.state.lock().sessions.values_mut() {
            session.queue.clear();
            session.inflight.clear();
            session.filters.clear();
            if let Some(client) = &session.client {
                client.line.resume(false);
            }
        }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MemoryBroker").field("name", &self.name).finish_non_exhaustive()
    }
}

// === impl Inner ===

impl Inner {
    fn clients(&self) -> Vec<Arc<Client>> {
        self.state.lock().sessions.values().filter_map(|session| session.client.clone()).collect()
    }

    fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    /// A new client; one of the same name is cut off for good.
    fn attach(&self, client: &Arc<Client>) {
        let mut state = self.state.lock();
        let session = state.sessions.entry(client.common.module.to_string()).or_default();
        if let Some(older) = session.client.replace(Arc::clone(client)) {
            older.end.cancel();
            older.common.disconnected("another client of the same name took over the session".to_owned());
        }
        drop(state);
        if self.is_up() {
            self.welcome(client, true);
        }
    }

    /// The client is connected: its subscriptions, its presence, and what it did not acknowledge.
    fn welcome(&self, client: &Arc<Client>, first: bool) {
        client.common.connected(first);
        client.line.resume(true);
        let filters: Vec<_> = {
            let registry = client.registry.lock();
            registry.entries().iter().map(|entry| (entry.filter.clone(), entry.delivery)).collect()
        };
        let mut state = self.state.lock();
        let retained = state.retained.clone();
        if let Some(session) = state.session_of(client) {
            for (filter, delivery) in &filters {
                if session.subscribe(filter, *delivery) {
                    session.deliver_retained(client, filter, *delivery, &retained);
                }
            }
            for (token, message) in session.inflight.clone() {
                client.receive(message, Some(token), true);
            }
            session.pump(client);
        }
        if let Some(message) = presence::message(&client.common, true) {
            state.publish(&message, true);
        }
    }

    /// Takes the client's acknowledgements, and forgets subscribers that are gone.
    fn settle(&self, client: &Arc<Client>) {
        let mut state = self.state.lock();
        let forget = client.registry.lock().sweep();
        let up = self.is_up();
        let Some(session) = state.session_of(client) else { return };
        session.filters.retain(|(filter, _)| !forget.contains(filter));
        if !up {
            return;
        }
        for token in client.line.take_ready() {
            session.inflight.retain(|(other, _)| *other != token);
        }
        session.pump(client);
        if session.queue.len() < SESSION_QUEUE {
            self.room.notify_waiters();
        }
    }

    fn detach(&self, client: &Arc<Client>) {
        client.end.cancel();
        let keeps = {
            let mut registry = client.registry.lock();
            registry.end();
            client.common.keep && registry.keeps()
        };
        client.common.closed();
        let mut state = self.state.lock();
        let Some(session) = state.session_of(client) else { return };
        session.client = None;
        session.filters.retain(|(_, delivery)| keeps && *delivery == Delivery::Assured);
        if !keeps {
            session.queue.clear();
            session.inflight.clear();
        }
        if session.filters.is_empty() && session.queue.is_empty() {
            state.sessions.remove(client.common.module.as_str());
        }
        if let Some(message) = presence::message(&client.common, false) {
            state.publish(&message, true);
        }
        self.room.notify_waiters();
    }
}

// === impl State ===

impl State {
    fn session_of(&mut self, client: &Arc<Client>) -> Option<&mut Session> {
        let session = self.sessions.get_mut(client.common.module.as_str())?;
        session.client.as_ref().is_some_and(|other| Arc::ptr_eq(other, client)).then_some(session)
    }

    /// A session whose queue has no room for this message, and whether its client is there.
    fn full(&self, message: &Message) -> Option<(&str, bool)> {
        let full = self.sessions.iter().find(|(_, session)| {
            session.queue.len() >= SESSION_QUEUE && session.wants(&message.topic) == Some(Delivery::Assured)
        });
        full.map(|(name, session)| (name.as_str(), session.client.is_some()))
    }

    /// Returns whether somebody has subscribed to it.
    fn publish(&mut self, message: &Message, assured: bool) -> bool {
        let mut heard = false;
        if message.retain {
            self.retained.insert(message.topic.clone(), message.clone());
        }
        for session in self.sessions.values_mut() {
            let client = session.client.clone();
            let wants = session.wants(&message.topic);
            heard |= wants.is_some();
            match wants {
                None => {}
                Some(Delivery::Assured) if assured => {
                    session.queue.push_back(message.clone());
                    if let Some(client) = client {
                        session.pump(&client);
                    }
                }
                Some(_) => {
                    if let Some(client) = client {
                        client.receive(message.clone(), None, false);
                    }
                }
            }
        }
        heard
    }
}

// === impl Session ===

impl Session {
    /// Notes the filter; returns whether it is new.
    fn subscribe(&mut self, filter: &TopicFilter, delivery: Delivery) -> bool {
        if let Some((_, known)) = self.filters.iter_mut().find(|(other, _)| other == filter) {
            *known = delivery;
            return false;
        }
        self.filters.push((filter.clone(), delivery));
        true
    }

    fn wants(&self, topic: &str) -> Option<Delivery> {
        let mut deliveries = self.filters.iter().filter(|(filter, _)| filter.matches(topic));
        let first = deliveries.next()?.1;
        let assured = first == Delivery::Assured || deliveries.any(|(_, other)| *other == Delivery::Assured);
        Some(if assured { Delivery::Assured } else { Delivery::Fast })
    }

    fn deliver_retained(
        &mut self,
        client: &Client,
        filter: &TopicFilter,
        delivery: Delivery,
        retained: &BTreeMap<String, Message>,
    ) {
        for message in retained.values().filter(|message| filter.matches(&message.topic)) {
            match delivery {
                Delivery::Fast => client.receive(message.clone(), None, false),
                Delivery::Assured => self.queue.push_back(message.clone()),
            }
        }
        self.pump(client);
    }

    /// Delivers what waits, as much as the client takes at once.
    fn pump(&mut self, client: &Client) {
        while client.common.is_connected()
            && self.inflight.len() < client.common.queue
            && let Some(message) = self.queue.pop_front()
        {
            self.next_token += 1;
            self.inflight.push_back((self.next_token, message.clone()));
            client.receive(message, Some(self.next_token), false);
        }
    }
}

// === impl Client ===

impl Client {
    fn receive(&self, message: Message, token: Option<u64>, again: bool) {
        if !self.common.is_connected() {
            return;
        }
        let Message { topic, content, .. } = message;
        let arrived = Arrived {
            topic,
            content_type: content.content_type,
            attributes: content.attributes,
            payload: content.body,
            received_at: clock::now(),
        };
        self.registry.lock().dispatch(arrived, &[], token, again);
    }
}

// === impl MemoryLink ===

impl Link for MemoryLink {
    fn send_fast(&self, message: Message) -> Result<(), PublishError> {
        if self.client.end.is_cancelled() {
            return Err(PublishError::Closed);
        }
        if !self.client.common.is_connected() {
            return Err(PublishError::Unavailable("the broker is not there"));
        }
        self.broker.0.state.lock().publish(&message, false);
        Counters::count(&self.client.common.counters.published);
        Ok(())
    }

    fn send_assured(&self, message: Message) -> Answer<'_, Result<(), PublishError>> {
        Box::pin(async move {
            let Inner { room, state, .. } = &*self.broker.0;
            let mut connected = self.client.common.state.subscribe();
            loop {
                let has_room = room.notified();
                tokio::select! {
                    () = self.client.end.cancelled() => return Err(PublishError::Closed),
                    // The sender lives in what we hold, so this does not fail.
                    _ = connected.wait_for(|state| *state == BusState::Connected) => {}
                }
                {
                    let mut state = state.lock();
                    match state.full(&message) {
                        // The line may have been cut after we looked.
                        None if self.client.common.is_connected() => {
                            let counters = &self.client.common.counters;
                            if !state.publish(&message, true) {
                                Counters::count(&counters.unheard);
                                tracing::debug!(topic = message.topic, "Nobody has subscribed to an event.");
                            }
                            Counters::count(&counters.published);
                            return Ok(());
                        }
                        None | Some((_, true)) => {}
                        Some((name, false)) => {
                            let reason = format!("{SESSION_QUEUE} messages wait for {name:?}, which is away");
                            return Err(PublishError::Refused(reason));
                        }
                    }
                }
                tokio::select! {
                    () = has_room => {}
                    _ = connected.changed() => {}
                    () = self.client.end.cancelled() => return Err(PublishError::Closed),
                }
            }
        })
    }

    fn subscribe(&self, filter: TopicFilter, inbox: Arc<Inbox>) -> Answer<'_, Result<(), SubscribeError>> {
        Box::pin(async move {
            if self.client.end.is_cancelled() {
                return Err(SubscribeError::Closed);
            }
            let mut state = self.broker.0.state.lock();
            let delivery = {
                let mut registry = self.client.registry.lock();
                let id = registry.add(&filter, &inbox);
                registry
                    .entries()
                    .iter()
                    .find(|entry| entry.id == id)
                    .map_or(inbox.delivery, |entry| entry.delivery)
            };
            if self.client.common.is_connected() {
                let retained = state.retained.clone();
                if let Some(session) = state.session_of(&self.client) {
                    session.subscribe(&filter, delivery);
                    session.deliver_retained(&self.client, &filter, delivery, &retained);
                }
            }
            Ok(())
        })
    }

    fn look(&self) {
        self.broker.0.settle(&self.client);
    }

    fn close(&self, limit: Duration) -> Answer<'_, ()> {
        Box::pin(async move {
            // An assured publish in another task may wait for the broker to come back.
            let mut up = self.broker.0.up.subscribe();
            self.client.registry.lock().close();
            drop(timeout(limit, up.wait_for(|up| *up)).await);
            self.broker.0.settle(&self.client);
            self.broker.0.detach(&self.client);
        })
    }
}

impl Drop for MemoryLink {
    fn drop(&mut self) {
        if !self.client.end.is_cancelled() {
            self.broker.0.detach(&self.client);
        }
    }
}
