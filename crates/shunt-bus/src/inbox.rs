//! What waits for a subscriber.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{Ack, Delivery, message::Arrived};

/// One subscriber's waiting messages.
///
/// Fast ones are bounded by `capacity`: the newest wins, the oldest is dropped and counted. Assured ones are
/// never dropped; their number is bounded by what waits for an acknowledgement ([`crate::ack::AckLine`]).
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) delivery: Delivery,
    capacity: usize,
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    /// How many of them are fast.
    fast: usize,
    /// What the subscriber wants.
    wish: Wish,
    /// The bus was closed: nothing comes any more.
    ended: bool,
}

/// What the subscriber wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Messages.
    #[default]
    Messages,
    /// It is gone; the broker keeps assured messages for the next one.
    Gone,
    /// It wants no more messages, those that wait included.
    NoMore,
}

/// A message and the key to acknowledge it.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) message: Arc<Arrived>,
    pub(crate) ack: Ack,
}

// === impl Inbox ===

impl Inbox {
    pub(crate) fn new(delivery: Delivery, capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            delivery,
            capacity: capacity.max(1),
            state: Mutex::default(),
            arrived: Notify::new(),
        })
    }

    /// Adds a message; counts one that it drops for it.
    pub(crate) fn push(&self, item: Item, dropped: &AtomicU64) {
        let mut state = self.state.lock();
        if !item.ack.is_wanted() {
            state.fast += 1;
            if state.fast > self.capacity {
                let oldest = state.items.iter().position(|item| !item.ack.is_wanted());
                if oldest.and_then(|at| state.items.remove(at)).is_some() {
                    state.fast -= 1;
                    dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        state.items.push_back(item);
        drop(state);
        self.arrived.notify_one();
    }

    /// The next message; nothing after the end.
    pub(crate) async fn next(&self) -> Option<Item> {
        loop {
            let arrived = self.arrived.notified();
            {
                let mut state = self.state.lock();
                if let Some(item) = state.items.pop_front() {
                    if !item.ack.is_wanted() {
                        state.fast -= 1;
                    }
                    return Some(item);
                }
                if state.ended {
                    return None;
                }
            }
            arrived.await;
        }
    }

    /// The next message if one waits.
    pub(crate) fn try_next(&self) -> Option<Item> {
        let mut state = self.state.lock();
        let item = state.items.pop_front()?;
        if !item.ack.is_wanted() {
            state.fast -= 1;
        }
        Some(item)
    }

    /// Nothing comes any more.
    pub(crate) fn end(&self) {
        self.state.lock().ended = true;
        self.arrived.notify_one();
    }

    /// The subscriber says what it wants.
    pub(crate) fn set_wish(&self, wish: Wish) {
        self.state.lock().wish = wish;
    }

    /// What the subscriber wants.
    pub(crate) fn wish(&self) -> Wish {
        self.state.lock().wish
    }

    /// Takes all messages that wait.
    pub(crate) fn drain(&self) -> Vec<Item> {
        let mut state = self.state.lock();
        state.fast = 0;
        state.items.drain(..).collect()
    }
}
