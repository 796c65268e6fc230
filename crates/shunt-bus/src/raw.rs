//! Messages of any topic and any payload, without envelopes: for the bridge, and for what a broker tells of itself
//! (`$SYS` topics).
//!
//! All of it is fast: at most once, nothing kept. A connection comes back by itself with its subscriptions. On MQTT
//! a topic is a topic and a filter an MQTT filter; on Redis a topic is a channel, a filter a pattern of `PSUBSCRIBE`,
//! and nothing is retained.
//!
//! ```no_run
//! use shunt_bus::raw::{RawBus, RawOptions};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bus = RawBus::open(RawOptions::new("mqtt://127.0.0.1:1883", "watch".parse()?))?;
//! let mut loads = bus.subscribe("$SYS/broker/load/#").await?;
//! while let Some(message) = loads.next().await {
//!     println!("{}: {} bytes", message.topic, message.payload.len());
//! }
//! # Ok(()) }
//! ```

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use shunt_wire::Name;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    BusCounters, BusError, BusState, PublishError, SubscribeError, TlsFrom,
    link::{Common, Counters},
    message::is_forbidden,
    mqtt,
    options::{Address, without_password},
    redis,
};

/// Subscriptions on their way to the connection's task: a handful. Full: the caller waits.
const CONTROL_QUEUE: usize = 16;
/// How long a broker that is there may take to answer a subscription.
const SUBSCRIBE_LIMIT: Duration = Duration::from_secs(10);

/// Where the broker is and who we are on it. Its `Debug` form shows no password.
#[derive(Clone)]
pub struct RawOptions {
    /// `mqtt://`, `mqtts://`, `redis://`, `rediss://` or `redis+unix://`, as in [`crate::BusOptions`].
    pub url: String,
    /// The name of this connection; another one of this name at the same MQTT broker would end it.
    pub client_id: Name,
    /// Most messages waiting to be sent, and most received and not yet taken by one subscriber.
    pub queue: usize,
    /// The largest message in bytes.
    pub max_message: usize,
    /// For `mqtts://` and `rediss://`: whom to trust, and who we are.
    pub tls: Option<TlsFrom>,
    /// Do our own messages come back to our own subscriptions?
    pub echo: bool,
}

/// A message as it is on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawMessage {
    /// Its topic (MQTT) or channel (Redis).
    pub topic: String,
    /// Its payload.
    pub payload: Bytes,
    /// The broker had kept it (MQTT).
    pub retain: bool,
}

/// A connection for raw messages; clones share it. It ends with the last of its handles and subscriptions.
#[derive(Debug, Clone)]
pub struct RawBus(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    common: Arc<Common>,
    /// Bounded by the options' `queue`. Full: the message is refused, and counted as dropped.
    outgoing: mpsc::Sender<RawMessage>,
    control: mpsc::Sender<NewRaw>,
    is_mqtt: bool,
    closing: CancellationToken,
    end: CancellationToken,
    gone: CancellationToken,
}

/// A stream of raw messages. Dropping it ends the subscription at this client.
#[derive(Debug)]
pub struct RawSubscription {
    /// Bounded by the options' `queue`. Full: the message that comes is dropped and counted.
    messages: mpsc::Receiver<RawMessage>,
    _inner: Arc<Inner>,
}

/// A subscriber, and who waits for the broker's answer.
#[derive(Debug)]
pub(crate) struct NewRaw {
    pub(crate) filter: String,
    pub(crate) messages: mpsc::Sender<RawMessage>,
    pub(crate) done: oneshot::Sender<Result<(), SubscribeError>>,
}

/// The other ends of a connection's queues: what its task has.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) common: Arc<Common>,
    pub(crate) outgoing: mpsc::Receiver<RawMessage>,
    pub(crate) control: mpsc::Receiver<NewRaw>,
    pub(crate) echo: bool,
    /// Cancelled: send what is queued, then say goodbye.
    pub(crate) closing: CancellationToken,
    /// Cancelled: stop at once.
    pub(crate) end: CancellationToken,
    /// Cancelled by the task when it is gone.
    pub(crate) gone: CancellationToken,
}

// === impl RawOptions ===

impl RawOptions {
    /// The broker at this address: 256 messages in each queue, 8 MiB a message, own messages come back.
    pub fn new(url: impl Into<String>, client_id: Name) -> Self {
        Self { url: url.into(), client_id, queue: 256, max_message: 8 << 20, tls: None, echo: true }
    }
}

impl fmt::Debug for RawOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, client_id, queue, max_message, tls, echo } = self;
        formatter
            .debug_struct("RawOptions")
            .field("url", &without_password(url))
            .field("client_id", client_id)
            .field("queue", queue)
            .field("max_message", max_message)
            .field("tls", tls)
            .field("echo", echo)
            .finish()
    }
}

// === impl RawBus ===

impl RawBus {
    /// Begins to connect, in the background, for as long as it takes.
    pub fn open(options: RawOptions) -> Result<Self, BusError> {
        let runtime = Handle::try_current().map_err(|_| BusError::Runtime)?;
        let RawOptions { url, client_id, queue, max_message, tls, echo } = options;
        let address = Address::parse(&url)?;
        let common = Common::new(client_id, queue, max_message, None, false);
        let (outgoing, outgoing_end) = mpsc::channel(common.queue);
        let (control, control_end) = mpsc::channel(CONTROL_QUEUE);
        let inner = Inner {
            common: Arc::clone(&common),
            outgoing,
            control,
            is_mqtt: matches!(address, Address::Mqtt { .. }),
            closing: CancellationToken::new(),
            end: CancellationToken::new(),
            gone: CancellationToken::new(),
        };
        let ends = Ends {
            common,
            outgoing: outgoing_end,
            control: control_end,
            echo,
            closing: inner.closing.clone(),
            end: inner.end.clone(),
            gone: inner.gone.clone(),
        };
        match address {
            Address::Mqtt { host, port, tls: private } => {
                let tls = if private { Some(tls.ok_or(BusError::Trust(url))?) } else { None };
                let tls = tls.map(mqtt::Tls::new).transpose()?;
                runtime.spawn(mqtt::raw::run(host, port, tls, ends));
            }
            Address::Redis(server) => {
                let tls = server.tls(tls)?;
                runtime.spawn(redis::raw::run(server, tls, ends));
            }
            Address::Memory(_) => return Err(BusError::NotRaw(url)),
        }
        Ok(Self(Arc::new(inner)))
    }

    /// Sends a message: returns when it is queued, refuses at once where it cannot be. `retain` asks an MQTT broker to
    /// keep it for those who subscribe later; Redis keeps nothing.
    pub fn publish(&self, topic: &str, payload: Bytes, retain: bool) -> Result<(), PublishError> {
        let common = &self.0.common;
        if common.closed.load(Ordering::Acquire) {
            return Err(PublishError::Closed);
        }
        if self.0.is_mqtt {
            check_topic(topic)?;
        }
        let (size, max) = (topic.len() + payload.len() + 8, common.max_message);
        if size > max {
            return Err(PublishError::TooLarge { size, max });
        }
        let message = RawMessage { topic: topic.to_owned(), payload, retain };
        let sent = if common.is_connected() {
            self.0.outgoing.try_send(message).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => PublishError::Unavailable("its queue is full"),
                mpsc::error::TrySendError::Closed(_) => PublishError::Closed,
            })
        } else {
            Err(PublishError::Unavailable("the broker is not there"))
        };
        if matches!(sent, Err(PublishError::Unavailable(_))) {
            Counters::count(&common.counters.dropped_sending);
        }
        sent
    }

    /// Subscribes. Waits for the broker's answer if it is there, else returns at once and subscribes when it is.
    pub async fn subscribe(&self, filter: &str) -> Result<RawSubscription, SubscribeError> {
        let (messages, incoming) = mpsc::channel(self.0.common.queue);
        let (done, answer) = oneshot::channel();
        let new = NewRaw { filter: filter.to_owned(), messages, done };
        let answered = async {
            self.0.control.send(new).await.map_err(|_| SubscribeError::Closed)?;
            answer.await.unwrap_or(Err(SubscribeError::Closed))
        };
        let late = |_| Err(SubscribeError::Refused("it did not answer in time".to_owned()));
        timeout(SUBSCRIBE_LIMIT, answered).await.unwrap_or_else(late)?;
        Ok(RawSubscription { messages: incoming, _inner: Arc::clone(&self.0) })
    }

    /// How many of those published the broker would not have taken: they are too large for it.
    pub(crate) fn refused(&self) -> u64 {
        self.0.common.counters.refused.load(Ordering::Relaxed)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.0.common.is_connected()
    }

    /// Is the broker there? Changes are seen by `changed()`.
    pub fn state(&self) -> watch::Receiver<BusState> {
        self.0.common.state.subscribe()
    }

    /// Counters since the start; of them `unheard` stays 0.
    pub fn counters(&self) -> BusCounters {
        self.0.common.counters.read()
    }

    /// Sends what is queued and closes, within this time.
    pub async fn close(&self, limit: Duration) {
        self.0.common.closed.store(true, Ordering::Release);
        self.0.closing.cancel();
        if timeout(limit, self.0.gone.cancelled()).await.is_err() {
            self.0.end.cancel();
            self.0.gone.cancelled().await;
        }
    }
}

/// Only what a broker takes: others answer by closing the connection.
fn check_topic(topic: &str) -> Result<(), PublishError> {
    let rule = if topic.is_empty() {
        "a topic may not be empty"
    } else if topic.contains(['+', '#', '\0']) {
        "a topic may hold neither '+' nor '#' nor the character 0"
    } else if topic.chars().any(is_forbidden) {
        "a topic may hold no control characters"
    } else if topic.len() > usize::from(u16::MAX) {
        "a topic may have 65535 bytes at most"
    } else {
        return Ok(());
    };
    Err(PublishError::Attribute { attribute: "topic".to_owned(), rule })
}

// === impl RawSubscription ===

impl RawSubscription {
    /// The next message; nothing after the connection was closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<RawMessage> {
        self.messages.recv().await
    }
}

// === impl NewRaw ===

impl NewRaw {
    /// Hands the message over; counts it where it is dropped.
    pub(crate) fn hand(messages: &mpsc::Sender<RawMessage>, message: RawMessage, counters: &Counters) {
        if matches!(messages.try_send(message), Err(mpsc::error::TrySendError::Full(_))) {
            Counters::count(&counters.dropped_receiving);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end.cancel();
    }
}
