//! Acknowledgements go out in the order the messages came.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The key to acknowledge one message.
///
/// Acknowledgements go out in the order the messages came, whatever the order of these calls: one that is
/// called early waits for those before it. For a fast message it does nothing.
///
/// As long as the key is held, the message is yours: the bus does not deliver it again after a reconnect, but
/// takes the broker's second delivery for the one that you have. Dropping the key unused gives the message
/// back: it stays unacknowledged (and holds back the acknowledgements of later messages), and is delivered
/// again after a reconnect, to this process or the next one of this name.
#[derive(Debug)]
#[must_use = "dropped unused, it leaves an assured message unacknowledged"]
pub struct Ack(Option<Key>);

#[derive(Debug)]
struct Key {
    mark: Arc<Mark>,
    line: Arc<AckLine>,
}

/// What became of one message at its subscribers.
#[derive(Debug)]
pub(crate) struct Mark {
    /// Subscribers that did not acknowledge yet.
    left: AtomicU32,
    /// A subscriber dropped its key unused.
    abandoned: AtomicBool,
}

/// The messages that the broker waits to hear of, in the order they came.
#[derive(Debug)]
pub(crate) struct AckLine {
    state: Mutex<Line>,
    /// Woken when something became ready to be acknowledged.
    wake: Arc<Notify>,
}

/// So many acknowledgements may be on the wire when it breaks. Of earlier ones the broker may deliver again: at
/// least once is what assured means.
const SAID: usize = 256;

#[derive(Debug, Default)]
struct Line {
    /// Bounded by the receive maximum (the broker sends no more before it has our acknowledgements), and by the
    /// number of packet identifiers where a broker does not keep to that.
    waiting: VecDeque<Entry>,
    /// Those of earlier connections of the same session, which the broker may deliver again. Bounded likewise.
    before: Vec<Entry>,
    /// To be acknowledged now, in this order. Never more than were waiting.
    ready: Vec<Entry>,
    /// Acknowledged on this connection, the latest ones: nobody knows whether the broker heard of them. Bounded
    /// by [`SAID`].
    said: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    /// The broker's name for the message in this session (MQTT: packet identifier).
    token: u64,
    /// Tells one message from another that the broker gave the same name later; nothing for a message that may
    /// have a twin.
    digest: Option<u64>,
    mark: Arc<Mark>,
}

// === impl Ack ===

impl Ack {
    /// The key of a message that needs no acknowledgement.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// Does the broker wait for it?
    pub(crate) fn is_wanted(&self) -> bool {
        self.0.is_some()
    }

    /// The message is safe with us: the broker may forget it.
    pub fn ack(mut self) {
        if let Some(key) = self.0.take()
            && key.mark.left.fetch_sub(1, Ordering::AcqRel) == 1
        {
            key.line.advance();
        }
    }
}

impl Drop for Ack {
    fn drop(&mut self) {
        if let Some(key) = self.0.take() {
            key.mark.abandoned.store(true, Ordering::Release);
        }
    }
}

// === impl Mark ===

impl Mark {
    /// One key for each of this many subscribers; none: the message counts as acknowledged.
    pub(crate) fn keys(self: &Arc<Self>, line: &Arc<AckLine>, count: u32) -> Vec<Ack> {
        self.left.store(count, Ordering::Release);
        if count == 0 {
            line.advance();
        }
        let key = || Ack(Some(Key { mark: Arc::clone(self), line: Arc::clone(line) }));
        (0..count).map(|_| key()).collect()
    }

    fn is_done(&self) -> bool {
        self.left.load(Ordering::Acquire) == 0
    }
}

// === impl AckLine ===

impl AckLine {
    pub(crate) fn new(wake: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), wake })
    }

    /// A message came: its mark if it is new, nothing if a subscriber has it already.
    pub(crate) fn arrive(&self, token: u64, digest: Option<u64>, again: bool) -> Option<Arc<Mark>> {
        let mut line = self.state.lock();
        let known = line.before.iter().position(|entry| entry.token == token);
        let known = known.map(|at| line.before.remove(at));
        line.before.retain(|entry| entry.token != token);
        if let Some(entry) = known
            && again
            && entry.digest == digest
            && !entry.mark.abandoned.load(Ordering::Acquire)
        {
            line.waiting.push_back(entry);
            drop(line);
            self.advance();
            return None;
        }
        // Not done before its keys are made.
        let mark = Arc::new(Mark { left: AtomicU32::new(u32::MAX), abandoned: AtomicBool::new(false) });
        line.waiting.push_back(Entry { token, digest, mark: Arc::clone(&mark) });
        Some(mark)
    }

    /// Did the message of this name come on this connection?
    pub(crate) fn has(&self, token: u64) -> bool {
        let line = self.state.lock();
        let mut known = line.waiting.iter().chain(&line.ready).chain(&line.said);
        known.any(|entry| entry.token == token)
    }

    /// A connection was made: with the same session, in which the broker delivers again what it did not hear
    /// of, or with a new one, in which the old names mean nothing.
    pub(crate) fn resume(&self, same_session: bool) {
        let mut line = self.state.lock();
        let Line { waiting, before, ready, said } = &mut *line;
        // What was done two connections ago was heard, or comes again.
        before.retain(|entry| !entry.mark.is_done());
        // A later message may have had the same name: the latest one counts, so it comes first.
        before.splice(0..0, waiting.drain(..).chain(ready.drain(..)).chain(said.drain(..).rev()));
        if !same_session {
            before.clear();
        }
    }

    /// What can be acknowledged now, in order.
    pub(crate) fn take_ready(&self) -> Vec<u64> {
        let mut line = self.state.lock();
        let Line { ready, said, .. } = &mut *line;
        let tokens = ready.iter().map(|entry| entry.token).collect();
        // What has no digest cannot be told from another message of the same name.
        said.extend(ready.drain(..).filter(|entry| entry.digest.is_some()));
        said.drain(..said.len().saturating_sub(SAID));
        tokens
    }

    /// How many messages wait for an acknowledgement.
    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }

    fn advance(&self) {
        let mut line = self.state.lock();
        let mut moved = false;
        while line.waiting.front().is_some_and(|entry| entry.mark.is_done()) {
            if let Some(entry) = line.waiting.pop_front() {
                line.ready.push(entry);
                moved = true;
            }
        }
        drop(line);
        if moved {
            self.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrive(line: &Arc<AckLine>, token: u64, again: bool) -> Option<Ack> {
        let mark = line.arrive(token, Some(token), again)?;
        mark.keys(line, 1).pop()
    }

    #[test]
    fn acknowledgements_go_out_in_the_order_of_arrival() {
        let line = AckLine::new(Arc::default());
        let keys: Vec<_> = (1..=3).filter_map(|token| arrive(&line, token, false)).collect();
        let [first, second, third] = keys.try_into().unwrap();
        third.ack();
        assert!(line.take_ready().is_empty());
        first.ack();
        assert_eq!(line.take_ready(), [1]);
        second.ack();
        assert_eq!(line.take_ready(), [2, 3]);
    }

    #[test]
    fn a_message_in_hand_is_not_delivered_again() {
        let line = AckLine::new(Arc::default());
        let key = arrive(&line, 7, false).unwrap();
        line.resume(true);
        assert!(arrive(&line, 7, true).is_none());
        assert!(line.take_ready().is_empty());
        key.ack();
        assert_eq!(line.take_ready(), [7]);
    }

    #[test]
    fn a_message_whose_acknowledgement_was_lost_is_acknowledged_again_and_not_delivered() {
        let line = AckLine::new(Arc::default());
        for token in [7, 8] {
            arrive(&line, token, false).unwrap().ack();
        }
        assert_eq!(line.take_ready(), [7, 8]);
        line.resume(true);
        assert!(arrive(&line, 8, true).is_none());
        assert_eq!(line.take_ready(), [8]);
    }

    #[test]
    fn a_message_given_back_is_delivered_again() {
        let line = AckLine::new(Arc::default());
        drop(arrive(&line, 7, false));
        line.resume(true);
        assert!(arrive(&line, 7, true).is_some());
    }

    #[test]
    fn an_acknowledgement_of_a_lost_session_is_not_sent() {
        let line = AckLine::new(Arc::default());
        let old = arrive(&line, 7, false).unwrap();
        line.resume(false);
        let _new = arrive(&line, 7, false).unwrap();
        old.ack();
        assert!(line.take_ready().is_empty());
    }

    #[test]
    fn another_message_of_the_same_name_is_delivered() {
        let line = AckLine::new(Arc::default());
        let _old = arrive(&line, 7, false).unwrap();
        line.resume(true);
        assert!(line.arrive(7, Some(8), true).is_some());
    }

    #[test]
    fn a_message_for_two_subscribers_waits_for_both() {
        let line = AckLine::new(Arc::default());
        let mark = line.arrive(1, Some(1), false).unwrap();
        let mut keys = mark.keys(&line, 2);
        keys.pop().unwrap().ack();
        assert!(line.take_ready().is_empty());
        keys.pop().unwrap().ack();
        assert_eq!(line.take_ready(), [1]);
    }
}
