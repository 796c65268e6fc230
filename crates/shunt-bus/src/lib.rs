//! The bus: publish, subscribe, acknowledge.
//!
//! SKELETON: signatures are the contract; bodies are to be written.

pub mod clock;

use std::{sync::Arc, time::Duration};

use shunt_wire::{Envelope, EnvelopeError, Mono, Name, Topic, TopicFilter};
use tokio::sync::watch;

/// How sure a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// At most once, nothing kept (MQTT QoS 0): frames and live values.
    Fast,
    /// At least once, acknowledged on both sides (MQTT QoS 1): what must reach the relay.
    Assured,
}

/// Where the bus is and who we are on it.
#[derive(Debug, Clone)]
pub struct BusOptions {
    /// `mqtt://host:port`, `mqtts://host:port`, `memory:<name>` (in this process, for tests).
    pub url: String,
    /// The module; also the client id, so that its session survives a restart.
    pub module: Name,
    /// Most messages waiting to be sent, and most received and not yet taken by one subscriber.
    pub queue: usize,
    /// The largest message in bytes.
    pub max_message: usize,
    /// Published (retained) on `shunt/presence/<module>` when connected, and its `online: false` twin as last will.
    pub presence: Option<shunt_wire::events::Presence>,
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
#[derive(Debug, Clone)]
pub struct Bus(Arc<()>);

/// Why the bus cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// The address is not one of the forms understood.
    #[error("the bus address {0:?} is not of the form mqtt://host:port, mqtts://host:port or memory:name")]
    Address(String),
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

/// The key to acknowledge one message. Acknowledgements go out in the order the messages came, whatever the
/// order of these calls. For a fast message it does nothing.
#[derive(Debug)]
pub struct Ack(());

/// A stream of received messages. Dropping it ends the subscription at this client.
#[derive(Debug)]
pub struct Subscription(());

/// Counters since the start, for `/metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BusCounters {
    /// Events handed to the broker.
    pub published: u64,
    /// Messages received.
    pub received: u64,
    /// Fast events not sent: not connected, or the queue was full.
    pub dropped_sending: u64,
    /// Fast messages that a slow subscriber did not take in time; the newest wins.
    pub dropped_receiving: u64,
    /// Times the connection came back.
    pub reconnects: u64,
}

impl Bus {
    /// Makes a bus and begins to connect, in the background, for as long as it takes: no module waits for the
    /// broker to start.
    pub fn open(options: BusOptions) -> Result<Self, BusError> {
        let _ = options;
        todo!()
    }

    /// Publishes the event on its own topic. Closes the hop of its stamps.
    ///
    /// Fast: returns when it is queued; refuses at once where it cannot be. Assured: waits, also through a
    /// reconnect, and resolves only when the broker has it (PUBACK).
    pub async fn publish(&self, envelope: Envelope, delivery: Delivery) -> Result<(), PublishError> {
        let _ = (envelope, delivery);
        todo!()
    }

    /// Publishes a retained event (presence). Assured.
    pub async fn publish_retained(&self, envelope: Envelope) -> Result<(), PublishError> {
        let _ = envelope;
        todo!()
    }

    /// Subscribes. Waits for the broker's answer if it is there, else returns at once and subscribes when it is.
    /// An assured subscription lives in the broker's session of this client: what is published while we are
    /// away is delivered when we come back.
    pub async fn subscribe(
        &self,
        filter: &TopicFilter,
        delivery: Delivery,
    ) -> Result<Subscription, SubscribeError> {
        let _ = (filter, delivery);
        todo!()
    }

    /// Is the broker there? Changes are seen by `changed()`.
    pub fn state(&self) -> watch::Receiver<BusState> {
        todo!()
    }

    /// Counters since the start.
    pub fn counters(&self) -> BusCounters {
        todo!()
    }

    /// Sends what is queued, says goodbye (publishing `online: false`), and closes; within this time.
    pub async fn close(&self, limit: Duration) {
        let _ = limit;
        todo!()
    }
}

impl Subscription {
    /// The next message; nothing after the bus was closed.
    pub async fn next(&mut self) -> Option<Received> {
        todo!()
    }

    /// The newest message, older ones that wait are dropped and counted (fast subscriptions: frames).
    pub async fn newest(&mut self) -> Option<Received> {
        todo!()
    }
}

impl Ack {
    /// The message is safe with us: the broker may forget it.
    pub fn ack(self) {}
}

/// Used by nothing yet.
#[doc(hidden)]
pub fn _uses(_: &Topic) {}
