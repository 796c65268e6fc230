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

use crate::{
    Ack, Delivery,
    local::{TwoWays, Verdict},
    message::Arrived,
};

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
    /// Where fast events come by two ways.
    ways: Option<Mutex<TwoWays>>,
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
        Self::with(delivery, capacity, None)
    }

    /// An inbox whose fast events come by two ways.
    pub(crate) fn of_two_ways(delivery: Delivery, capacity: usize) -> Arc<Self> {
        Self::with(delivery, capacity, Some(Mutex::default()))
    }

    fn with(delivery: Delivery, capacity: usize, ways: Option<Mutex<TwoWays>>) -> Arc<Self> {
        let capacity = capacity.max(1);
        Arc::new(Self { delivery, capacity, state: Mutex::default(), arrived: Notify::new(), ways })
    }

    /// Adds a fast message from the broker, unless it is here already; returns whether it was not.
    pub(crate) fn offer(&self, item: Item, dropped: &AtomicU64) -> bool {
        let Some(ways) = &self.ways else {
            self.push(item, dropped);
            return true;
        };
        // Held until it is added, so that no other way gets in between.
        let mut ways = ways.lock();
        let verdict = ways.by_broker(item);
        let is_news = matches!(verdict, Verdict::New(_));
        self.follow(verdict, dropped);
        is_news
    }

    /// Adds an event that came past the broker from this publisher, unless it is here already. Returns whether it
    /// was not, and whether it waits for [`Inbox::release`]. `patient`: it may wait.
    pub(crate) fn offer_local(
        &self,
        publisher: u64,
        item: Item,
        patient: bool,
        dropped: &AtomicU64,
    ) -> (bool, bool) {
        let Some(ways) = &self.ways else { return (false, false) };
        let message = Arc::clone(&item.message);
        let mut ways = ways.lock();
        let verdict = ways.by_socket(publisher, item, patient, self.capacity);
        let held = matches!(verdict, Verdict::Held);
        let is_news = match &verdict {
            Verdict::New(_) | Verdict::Held => true,
            Verdict::Known => false,
            Verdict::Release(items) => items.back().is_some_and(|item| Arc::ptr_eq(&item.message, &message)),
        };
        self.follow(verdict, dropped);
        (is_news, held)
    }

    /// What waits of this publisher waits no longer; `end`: it is gone.
    pub(crate) fn release(&self, publisher: u64, end: bool, dropped: &AtomicU64) {
        if let Some(ways) = &self.ways {
            let mut ways = ways.lock();
            let items = ways.release(publisher, end);
            self.follow(Verdict::Release(items), dropped);
        }
    }

    fn follow(&self, verdict: Verdict, dropped: &AtomicU64) {
        match verdict {
            Verdict::New(item) => self.push(item, dropped),
            Verdict::Known | Verdict::Held => {}
            Verdict::Release(items) => items.into_iter().for_each(|item| self.push(item, dropped)),
        }
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
