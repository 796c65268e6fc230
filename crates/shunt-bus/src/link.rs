//! The one trait behind which the back ends are.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use shunt_wire::{Name, TopicFilter, events::Presence};
use tokio::sync::watch;

use crate::{BusCounters, BusState, PublishError, SubscribeError, inbox::Inbox, message::Message};

/// A future of a back end.
pub(crate) type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A back end: one connection to one broker. Dropping it breaks the connection without a goodbye.
pub(crate) trait Link: fmt::Debug + Send + Sync {
    /// Queues the message, or refuses it at once.
    fn send_fast(&self, message: Message) -> Result<(), PublishError>;

    /// Resolves when the broker has the message.
    fn send_assured(&self, message: Message) -> Answer<'_, Result<(), PublishError>>;

    /// Adds a subscriber; resolves with the broker's answer, or at once if it is not there.
    fn subscribe(&self, filter: TopicFilter, inbox: Arc<Inbox>) -> Answer<'_, Result<(), SubscribeError>>;

    /// A subscriber's wish has changed.
    fn look(&self);

    /// Sends what is queued, says goodbye, and ends all subscriptions, within this time.
    fn close(&self, limit: Duration) -> Answer<'_, ()>;
}

/// What all back ends share.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) module: Name,
    /// Bounds each queue and window.
    pub(crate) queue: usize,
    pub(crate) max_message: usize,
    pub(crate) presence: Option<Presence>,
    /// Assured subscriptions outlive the goodbye.
    pub(crate) keep: bool,
    pub(crate) counters: Arc<Counters>,
    pub(crate) state: watch::Sender<BusState>,
    pub(crate) closed: AtomicBool,
}

/// [`BusCounters`], while they count.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) published: AtomicU64,
    pub(crate) unheard: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) dropped_sending: AtomicU64,
    pub(crate) dropped_receiving: AtomicU64,
    pub(crate) reconnects: AtomicU64,
    pub(crate) sent_locally: AtomicU64,
    pub(crate) received_locally: AtomicU64,
    pub(crate) dropped_locally: AtomicU64,
    /// Of those dropped while sending: the broker would not take them.
    pub(crate) refused: AtomicU64,
}

// === impl Common ===

impl Common {
    pub(crate) fn new(
        module: Name,
        queue: usize,
        max_message: usize,
        presence: Option<Presence>,
        keep: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            module,
            queue: queue.clamp(1, usize::from(u16::MAX)),
            max_message,
            presence,
            keep,
            counters: Arc::default(),
            state: watch::Sender::new(BusState::Disconnected("not connected yet".to_owned())),
            closed: AtomicBool::new(false),
        })
    }

    /// Is the broker there?
    pub(crate) fn is_connected(&self) -> bool {
        *self.state.borrow() == BusState::Connected
    }

    /// The broker is there; counts from the second time on.
    pub(crate) fn connected(&self, first: bool) {
        if !first {
            Counters::count(&self.counters.reconnects);
        }
        self.state.send_replace(BusState::Connected);
    }

    /// We closed the bus ourselves.
    pub(crate) fn closed(&self) {
        self.state.send_replace(BusState::Disconnected("the bus is closed".to_owned()));
    }

    /// The broker is not there, because of this. Logs when that is news.
    pub(crate) fn disconnected(&self, reason: String) {
        self.state.send_if_modified(|state| {
            let news = BusState::Disconnected(reason);
            let changed = *state != news;
            if changed {
                if let BusState::Disconnected(reason) = &news {
                    tracing::warn!(%reason, "The bus is not there; trying on.");
                }
                *state = news;
            }
            changed
        });
    }
}

// === impl Counters ===

impl Counters {
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> BusCounters {
        BusCounters {
            published: self.published.load(Ordering::Relaxed),
            unheard: self.unheard.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            dropped_sending: self.dropped_sending.load(Ordering::Relaxed),
            dropped_receiving: self.dropped_receiving.load(Ordering::Relaxed),
            reconnects: self.reconnects.load(Ordering::Relaxed),
            sent_locally: self.sent_locally.load(Ordering::Relaxed),
            received_locally: self.received_locally.load(Ordering::Relaxed),
            dropped_locally: self.dropped_locally.load(Ordering::Relaxed),
        }
    }
}
