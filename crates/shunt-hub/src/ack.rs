//! Acknowledgements of messages from the hub, in the order the messages came.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The open acknowledgements of one connection. edgeHub ignores a PUBACK that is not for the oldest open
/// message, and everything behind it stalls; so one that is ready early waits here for those before it.
#[derive(Debug, Default)]
pub(crate) struct AckQueue {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Bounded by the session, which ends when too many are open. `true`: ready.
    open: VecDeque<(u16, bool)>,
    abandoned: bool,
}

// === impl AckQueue ===

impl AckQueue {
    /// A message came. False if it is open already.
    pub(crate) fn open(&self, packet_id: u16, ready: bool) {
        self.state.lock().open.push_back((packet_id, ready));
    }

    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().open.len()
    }

    /// A message is taken.
    pub(crate) fn done(&self, packet_id: u16) {
        if let Some(slot) = self.state.lock().open.iter_mut().find(|slot| slot.0 == packet_id && !slot.1) {
            slot.1 = true;
        }
        self.changed.notify_one();
    }

    /// A message will not be taken, so nothing behind it can be acknowledged on this connection.
    pub(crate) fn abandon(&self) {
        self.state.lock().abandoned = true;
        self.changed.notify_one();
    }

    /// Resolves when something became ready or was abandoned. Cancel-safe.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The next one to send.
    pub(crate) fn next_ready(&self) -> Option<u16> {
        let mut state = self.state.lock();
        match state.open.front() {
            Some((packet_id, true)) => {
                let packet_id = *packet_id;
                state.open.pop_front();
                Some(packet_id)
            }
            _ => None,
        }
    }

    /// Was a message dropped without acknowledgement?
    pub(crate) fn abandoned(&self) -> bool {
        self.state.lock().abandoned
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn acknowledgements_leave_in_the_order_of_the_messages(
            order in Just((1_u16..=12).collect::<Vec<_>>()).prop_shuffle()
        ) {
            let queue = AckQueue::default();
            (1..=12).for_each(|id| queue.open(id, false));
            let mut sent = Vec::new();
            for id in order {
                queue.done(id);
                sent.extend(std::iter::from_fn(|| queue.next_ready()));
            }
            prop_assert_eq!(sent, (1_u16..=12).collect::<Vec<_>>());
            prop_assert_eq!(queue.len(), 0);
        }
    }
}
