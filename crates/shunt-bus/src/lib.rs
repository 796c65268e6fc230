//! The bus: publish, subscribe, acknowledge.
//!
//! - [`Bus::open`] connects in the background, for as long as it takes, and comes back after each break with
//!   its subscriptions; no module waits for the broker to start.
//! - [`Delivery::Fast`] is for frames and live values: at most once, nothing kept, the newest wins.
//! - [`Delivery::Assured`] is for what must reach the relay: [`Bus::publish`] resolves only when the broker has
//!   the event, also through reconnects, and the broker forgets it only after [`Ack::ack`], which goes out in
//!   the order of arrival. What is published while a subscriber is away waits for it at the broker.
//! - Three back ends pass one conformance suite: MQTT v5 (`mqtt://`, `mqtts://`), Redis (`redis://`, `rediss://`,
//!   `redis+unix://`) and in-process (`memory:`).
//! - Where modules share a folder in memory ([`BusOptions::shared`]), fast events also go straight from publisher to
//!   subscriber, with any back end. Who does not share it gets them from the broker, and nobody gets one twice.
//!
//! Every queue is bounded: a fast event that finds its queue full is dropped and counted ([`BusCounters`]), an
//! assured one waits.
//!
//! It deliberately does no request and answer (those go straight to a module's HTTP port), knows nothing of what
//! events mean, and keeps nothing on disk: what must outlive the broker is the relay's duty.
//!
//! ```
//! use shunt_bus::{Bus, BusOptions, Delivery};
//! use shunt_wire::{Envelope, Kind, TopicFilter};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bus = Bus::open(BusOptions::new("memory:example", "emotion".parse()?))?;
//! let mut labels = bus.subscribe(&TopicFilter::kind(&Kind::LABEL), Delivery::Assured).await?;
//!
//! let event = Envelope::new("1", Kind::LABEL, "front-door".parse()?, "2026-11-21T09:00:00Z");
//! bus.publish(event, Delivery::Assured).await?;
//!
//! let received = labels.next().await.ok_or("the bus was closed")?;
//! assert_eq!(received.topic, "shunt/label/front-door");
//! assert_eq!(received.envelope?.id, "1");
//! received.ack.ack();
//! # Ok(()) }
//! ```

mod ack;
mod backoff;
pub mod bridge;
pub mod clock;
mod handle;
mod inbox;
mod link;
mod local;
pub mod memory;
mod message;
mod mqtt;
mod options;
mod presence;
pub mod raw;
mod redis;
mod registry;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use shunt_wire::{Envelope, EnvelopeError, Mono, TopicFilter};
use tokio::sync::watch;

pub use ack::Ack;
pub use options::{BusOptions, BusTls, TlsFrom, TlsSource};

use inbox::{Inbox, Item, Wish};
use link::{Common, Counters, Link};
use local::Local;
use message::Message;
use options::Address;

/// How sure a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// At most once, nothing kept (MQTT `QoS` 0): frames and live values.
    Fast,
    /// At least once, acknowledged on both sides (MQTT `QoS` 1): what must reach the relay.
    Assured,
}

/// Is the broker there?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusState {
    /// Not yet, or no more; the reason of the last failure.
    Disconnected(String),
    /// Yes.
    Connected,
}

/// A handle on the bus; clones share one connection.
///
/// The connection ends with the last of its handles and subscriptions; [`Bus::close`] ends it in order.
#[derive(Debug, Clone)]
pub struct Bus(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    common: Arc<Common>,
    link: Box<dyn Link>,
    /// The way past the broker, where a folder is shared.
    local: Option<Local>,
}

/// Why the bus cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// The address is not one of the forms understood.
    #[error(
        "the bus address {0:?} is not of the form mqtt://host:port, mqtts://host:port, redis://[user:password@]host:port[/database], rediss://... or redis+unix:///path"
    )]
    Address(String),
    /// The address says `mqtts://` or `rediss://`, but nothing says whom to trust.
    #[error("the bus address {0:?} wants TLS, but no trusted certificates are given")]
    Trust(String),
    /// Certificates or keys cannot be used.
    #[error("the {what} of the bus's TLS cannot be used: {why}")]
    Tls {
        /// `trust` or `identity`.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The address is good for events, but has no messages of other kinds.
    #[error("the bus address {0:?} has no raw messages; those of mqtt, mqtts, redis and rediss have")]
    NotRaw(String),
    /// Called outside of a tokio runtime.
    #[error("the bus needs a tokio runtime")]
    Runtime,
}

/// Why an event was not published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Fast delivery: not connected, or the queue is full; the event is dropped and counted.
    #[error("the bus cannot take the event now: {0}")]
    Unavailable(&'static str),
    /// The message is larger than allowed.
    #[error("the message has {size} bytes, {max} are allowed")]
    TooLarge {
        /// Bytes of the message.
        size: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// An attribute that no broker would take.
    #[error("the event's attribute {attribute:?} cannot be sent: {rule}")]
    Attribute {
        /// Its name, shortened.
        attribute: String,
        /// What is allowed.
        rule: &'static str,
    },
    /// Assured delivery: the broker refused it.
    #[error("the broker refused the event: {0}")]
    Refused(String),
    /// The bus was closed.
    #[error("the bus is closed")]
    Closed,
}

/// Why a subscription was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The broker refused the filter.
    #[error("the broker refused the subscription: {0}")]
    Refused(String),
    /// The bus was closed.
    #[error("the bus is closed")]
    Closed,
}

/// What a subscriber receives.
#[derive(Debug)]
pub struct Received {
    /// The topic as it came.
    pub topic: String,
    /// The event, or why the message is none (its first bytes are in `payload`).
    pub envelope: Result<Envelope, EnvelopeError>,
    /// The payload as it came.
    pub payload: bytes::Bytes,
    /// When it came from the socket.
    pub received_at: Mono,
    /// The key to acknowledge it; dropping it unused leaves an assured message unacknowledged, to be delivered
    /// again after a reconnect.
    pub ack: Ack,
}

/// A stream of received messages.
///
/// Dropping it ends the subscription at this client. Of an assured one the broker keeps the messages for the
/// next subscriber of this client, also in a later process: that is how a module restarts without loss
/// ([`BusOptions::keep`]). A fast subscriber beside it gets copies, and acknowledges nothing for it.
/// [`Subscription::unsubscribe`] ends it at the broker too.
#[derive(Debug)]
pub struct Subscription {
    inbox: Arc<Inbox>,
    inner: Arc<Inner>,
}

/// Counters since the start, for `/metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BusCounters {
    /// Events handed to the broker.
    pub published: u64,
    /// Assured ones among them that nobody had subscribed to: the broker has not kept them.
    pub unheard: u64,
    /// Messages received; one that came by two ways counts once.
    pub received: u64,
    /// Fast events not sent to anybody: not connected, or the queue was full, and nobody who shares memory took it.
    pub dropped_sending: u64,
    /// Fast messages that a slow subscriber did not take in time (the newest wins), and assured ones that the
    /// broker kept for a subscription that this module does not make any more, or (Redis) that found the stream of
    /// this module full while it was away or acknowledged nothing.
    pub dropped_receiving: u64,
    /// Times the connection came back.
    pub reconnects: u64,
    /// Fast events sent past the broker, once for each module that took it. The broker gets them as well.
    pub sent_locally: u64,
    /// Messages among those received whose first copy came past the broker.
    pub received_locally: u64,
    /// Fast events of those sent past the broker that a slow module did not take in time (the newest wins). The
    /// broker's copy may have reached it.
    pub dropped_locally: u64,
}

// === impl Bus ===

impl Bus {
    /// Makes a bus and begins to connect, in the background, for as long as it takes: no module waits for the
    /// broker to start.
    pub fn open(options: BusOptions) -> Result<Self, BusError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| BusError::Runtime)?;
        let address = Address::parse(&options.url)?;
        let BusOptions { url, module, queue, max_message, presence, tls, shared, keep } = options;
        let common = Common::new(module, queue, max_message, presence, keep);
        let link: Box<dyn Link> = match address {
            Address::Memory(name) => Box::new(memory::open(&name, &common, &runtime)),
            Address::Mqtt { host, port, tls: false } => {
                Box::new(mqtt::open(host, port, None, &common, &runtime))
            }
            Address::Mqtt { host, port, tls: true } => {
                let tls = mqtt::Tls::new(tls.ok_or(BusError::Trust(url))?)?;
                Box::new(mqtt::open(host, port, Some(tls), &common, &runtime))
            }
            Address::Redis(server) => {
                let tls = server.tls(tls)?;
                Box::new(redis::open(server, tls, &common, &runtime))
            }
        };
        let local = shared.map(|shared| local::open(&shared, &common, &runtime));
        Ok(Self(Arc::new(Inner { common, link, local })))
    }

    /// Publishes the event on its own topic. Closes the hop of its stamps.
    ///
    /// Fast: returns when it is queued for the broker, or sent to a module that shares memory; refuses at once where
    /// neither can be. Assured: waits, also through a
    /// reconnect, and resolves only when the broker has it (PUBACK). Dropping the future of an assured publish
    /// leaves open whether the event is sent.
    pub async fn publish(&self, envelope: Envelope, delivery: Delivery) -> Result<(), PublishError> {
        self.send(envelope, delivery, false).await
    }

    /// Publishes a retained event (presence). Assured.
    pub async fn publish_retained(&self, envelope: Envelope) -> Result<(), PublishError> {
        self.send(envelope, Delivery::Assured, true).await
    }

    async fn send(
        &self,
        mut envelope: Envelope,
        delivery: Delivery,
        retain: bool,
    ) -> Result<(), PublishError> {
        let Inner { common, link, local } = &*self.0;
        if common.closed.load(Ordering::Acquire) {
            return Err(PublishError::Closed);
        }
        if let Some(stamps) = &mut envelope.stamps {
            stamps.close(&common.module, clock::now());
        }
        let message = Message::new(&envelope, retain, common.max_message)?;
        match delivery {
            Delivery::Fast => {
                let local = local.as_ref().is_some_and(|local| local.send(&message));
                let sent = link.send_fast(message);
                if !matches!(sent, Err(PublishError::Unavailable(_))) {
                    return sent;
                }
                if local {
                    // Those who share the folder have it.
                    return Ok(());
                }
                Counters::count(&common.counters.dropped_sending);
                sent
            }
            Delivery::Assured => link.send_assured(message).await,
        }
    }

    /// Subscribes. Waits for the broker's answer if it is there, else returns at once and subscribes when it is.
    /// An assured subscription lives in the broker's session of this client: what is published while we are
    /// away is delivered when we come back.
    pub async fn subscribe(
        &self,
        filter: &TopicFilter,
        delivery: Delivery,
    ) -> Result<Subscription, SubscribeError> {
        let Inner { common, link, local } = &*self.0;
        if common.closed.load(Ordering::Acquire) {
            return Err(SubscribeError::Closed);
        }
        let inbox = match local {
            Some(local) => local.inbox(delivery),
            None => Inbox::new(delivery, common.queue),
        };
        let subscription = Subscription { inbox: Arc::clone(&inbox), inner: Arc::clone(&self.0) };
        link.subscribe(filter.clone(), Arc::clone(&inbox)).await?;
        if let Some(local) = local {
            local.subscribe(filter.clone(), inbox);
        }
        Ok(subscription)
    }

    /// Is the broker there? Changes are seen by `changed()`.
    pub fn state(&self) -> watch::Receiver<BusState> {
        self.0.common.state.subscribe()
    }

    /// Counters since the start.
    pub fn counters(&self) -> BusCounters {
        self.0.common.counters.read()
    }

    /// Sends what is queued, says goodbye (publishing `online: false`), and closes; within this time.
    pub async fn close(&self, limit: Duration) {
        self.0.common.closed.store(true, Ordering::Release);
        if let Some(local) = &self.0.local {
            local.close().await;
        }
        self.0.link.close(limit).await;
    }
}

// === impl Subscription ===

impl Subscription {
    /// The next message; nothing after the bus was closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<Received> {
        Some(Received::new(self.inbox.next().await?))
    }

    /// The newest message; older ones that wait are dropped and counted (fast subscriptions: frames). An assured
    /// subscription drops nothing, so there this is [`Subscription::next`]. Cancel-safe.
    pub async fn newest(&mut self) -> Option<Received> {
        let mut item = self.inbox.next().await?;
        while self.inbox.delivery == Delivery::Fast
            && let Some(newer) = self.inbox.try_next()
        {
            item = newer;
            Counters::count(&self.inner.common.counters.dropped_receiving);
        }
        Some(Received::new(item))
    }

    /// Ends the subscription at the broker too: what waits here is dropped, and the broker keeps nothing more.
    pub fn unsubscribe(self) {
        self.inbox.set_wish(Wish::NoMore);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if self.inbox.wish() == Wish::Messages {
            self.inbox.set_wish(Wish::Gone);
        }
        self.inner.link.look();
        if let Some(local) = &self.inner.local {
            local.look();
        }
    }
}

// === impl Received ===

impl Received {
    fn new(item: Item) -> Self {
        let Item { message, ack } = item;
        let payload = message.payload.clone();
        let envelope =
            Envelope::from_binary(message.content_type.as_deref(), &message.attributes, payload.clone());
        Self { topic: message.topic.clone(), envelope, payload, received_at: message.received_at, ack }
    }
}
