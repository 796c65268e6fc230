//! An event that came by one way and comes by the other as well, and the order of events that come by two ways.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use shunt_wire::Mono;

use crate::{inbox::Item, message::Arrived};

/// The way by which a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Broker,
    Local,
}

/// What becomes of a message that came.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It goes to the subscriber.
    New(Item),
    /// The subscriber has it, or it waits.
    Known,
    /// It waits for its copy from the broker.
    Held,
    /// These go to the subscriber, in this order.
    Release(VecDeque<Item>),
}

/// One inbox to which fast events come by two ways.
///
/// Each way keeps the order of one publisher's events, but the way past the broker begins in the middle: the events
/// before its first one may still be with the broker, and would come after it. So what comes first by a socket
/// waits, with all behind it, until the broker brought one of these as well, which it does after those before it.
/// If that does not happen soon ([`super::HOLD`]), or the broker is not there, nothing waits.
#[derive(Debug, Default)]
pub(crate) struct TwoWays {
    seen: Seen,
    /// What is held of each publisher, by its number; nothing when its order is sure. Bounded by the number of
    /// publishers.
    publishers: HashMap<u64, Option<VecDeque<Item>>>,
}

/// So many events may have come by one way only. Beyond, the oldest is forgotten: should its other copy still come,
/// it counts as an event of its own.
const MOST: usize = 4096;
/// A copy that is so late counts as an event of its own: an identifier may be used again.
const LATE: Duration = Duration::from_secs(10);

/// The events that came by one way and not yet by the other.
///
/// It keeps a balance for each instead of a mark, so that who publishes an identifier twice is heard twice, and so
/// that nothing is kept of an event whose two copies have come.
#[derive(Debug, Default)]
struct Seen {
    open: HashMap<u64, Open>,
    /// In the order they were opened. Bounded by [`MOST`].
    order: VecDeque<(u64, u64)>,
    next: u64,
    hasher: RandomState,
}

#[derive(Debug)]
struct Open {
    /// Copies that came by sockets, less those that came by the broker.
    balance: i32,
    number: u64,
    at: Mono,
}

// === impl TwoWays ===

impl TwoWays {
    /// A fast message came from the broker.
    pub(crate) fn by_broker(&mut self, item: Item) -> Verdict {
        if self.seen.is_new(&item.message, Way::Broker) {
            return Verdict::New(item);
        }
        let is_copy = |other: &Item| {
            other.message.topic == item.message.topic && id(&other.message) == id(&item.message)
        };
        for held in self.publishers.values_mut() {
            if held.as_ref().is_some_and(|held| held.iter().any(is_copy)) {
                return held.take().map_or(Verdict::Known, Verdict::Release);
            }
        }
        Verdict::Known
    }

    /// An event came from this publisher. `patient`: it may have to wait, `most` at once.
    pub(crate) fn by_socket(&mut self, publisher: u64, item: Item, patient: bool, most: usize) -> Verdict {
        let is_new = self.seen.is_new(&item.message, Way::Local);
        let held = self.publishers.entry(publisher).or_insert_with(|| patient.then(VecDeque::new));
        match held {
            None if is_new => Verdict::New(item),
            None => Verdict::Known,
            Some(waiting) => {
                if is_new {
                    waiting.push_back(item);
                }
                if is_new && patient && waiting.len() < most {
                    Verdict::Held
                } else {
                    // The broker was first, so it has brought all that was before; or there is no use in waiting.
                    held.take().map_or(Verdict::Known, Verdict::Release)
                }
            }
        }
    }

    /// Nothing of this publisher waits any longer; `end`: it is gone.
    pub(crate) fn release(&mut self, publisher: u64, end: bool) -> VecDeque<Item> {
        if end {
            return self.publishers.remove(&publisher).flatten().unwrap_or_default();
        }
        self.publishers.get_mut(&publisher).and_then(Option::take).unwrap_or_default()
    }
}

fn id(message: &Arrived) -> Option<&str> {
    message.attributes.iter().find(|(name, _)| name == "id").map(|(_, id)| id.as_str())
}

// === impl Seen ===

impl Seen {
    /// Is this the first copy of the event? A message without an identifier (no event of ours) always is.
    fn is_new(&mut self, message: &Arrived, way: Way) -> bool {
        let Some(id) = id(message) else { return true };
        let key = self.hasher.hash_one((&message.topic, id));
        self.note(key, way, message.received_at)
    }

    fn note(&mut self, key: u64, way: Way, now: Mono) -> bool {
        let step = if way == Way::Local { 1 } else { -1 };
        if let Some(open) = self.open.get_mut(&key) {
            if now.since(open.at) < LATE {
                let is_new = open.balance.signum() == step;
                open.balance = open.balance.saturating_add(step);
                open.at = now;
                if open.balance == 0 {
                    self.open.remove(&key);
                }
                return is_new;
            }
            self.open.remove(&key);
        }
        if self.order.len() >= MOST
            && let Some((oldest, number)) = self.order.pop_front()
            && self.open.get(&oldest).is_some_and(|open| open.number == number)
        {
            self.open.remove(&oldest);
        }
        self.next += 1;
        self.order.push_back((key, self.next));
        self.open.insert(key, Open { balance: step, number: self.next, at: now });
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ack::Ack;

    const NOW: Mono = Mono::from_nanos(1_000_000_000);

    #[test]
    fn the_second_copy_is_known_whichever_way_comes_first() {
        let mut seen = Seen::default();
        for (first, second) in [(Way::Local, Way::Broker), (Way::Broker, Way::Local)] {
            assert!(seen.note(1, first, NOW));
            assert!(!seen.note(1, second, NOW));
            // Published again.
            assert!(seen.note(1, first, NOW));
            assert!(!seen.note(1, second, NOW));
        }
        assert!(seen.open.is_empty());
    }

    #[test]
    fn an_identifier_used_again_before_the_other_copies_came_is_heard_each_time() {
        let mut seen = Seen::default();
        assert!(seen.note(1, Way::Local, NOW));
        assert!(seen.note(1, Way::Local, NOW));
        assert!(!seen.note(1, Way::Broker, NOW));
        assert!(!seen.note(1, Way::Broker, NOW));
        assert!(seen.note(1, Way::Broker, NOW));
    }

    #[test]
    fn a_late_copy_is_an_event_of_its_own() {
        let mut seen = Seen::default();
        assert!(seen.note(1, Way::Local, NOW));
        assert!(seen.note(1, Way::Broker, Mono::from_nanos(12_000_000_000)));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut seen = Seen::default();
        for key in 0..3 * MOST as u64 {
            assert!(seen.note(key, Way::Local, NOW));
        }
        assert_eq!((seen.open.len(), seen.order.len()), (MOST, MOST));
        assert!(!seen.note(3 * MOST as u64 - 1, Way::Broker, NOW));
        assert!(seen.note(0, Way::Broker, NOW));
    }

    fn item(number: u64) -> Item {
        let message = Arrived {
            topic: "shunt/face/front-door".to_owned(),
            content_type: None,
            attributes: vec![("id".to_owned(), number.to_string())],
            payload: bytes::Bytes::new(),
            received_at: NOW,
        };
        Item { message: Arc::new(message), ack: Ack::none() }
    }

    /// Runs these arrivals (by socket?, number) and returns what the subscriber gets, in order.
    fn check(patient: bool, arrivals: &[(bool, u64)], expected: &[u64]) {
        let mut ways = TwoWays::default();
        let mut came = Vec::new();
        for (by_socket, number) in arrivals {
            let verdict = if *by_socket {
                ways.by_socket(1, item(*number), patient, 3)
            } else {
                ways.by_broker(item(*number))
            };
            match verdict {
                Verdict::New(item) => came.push(item),
                Verdict::Release(items) => came.extend(items),
                Verdict::Known | Verdict::Held => {}
            }
        }
        came.extend(ways.release(1, true));
        let came: Vec<u64> = came.iter().map(|item| id(&item.message).unwrap().parse().unwrap()).collect();
        assert_eq!(came, expected, "{arrivals:?}");
    }

    #[test]
    fn a_publisher_met_in_the_middle_is_heard_in_order() {
        let (socket, broker) = (true, false);
        // 1 and 2 are still with the broker when 3 comes by the socket.
        let late =
            [(socket, 3), (broker, 1), (socket, 4), (broker, 2), (broker, 3), (broker, 4), (socket, 5)];
        check(true, &late, &[1, 2, 3, 4, 5]);
        // The broker lost 3.
        check(true, &[(socket, 3), (socket, 4), (broker, 2), (broker, 4), (socket, 5)], &[2, 3, 4, 5]);
        // The broker was quicker.
        check(true, &[(broker, 1), (socket, 1), (socket, 2), (broker, 2), (socket, 3)], &[1, 2, 3]);
        // The broker brings nothing: no more wait than may, and the rest is released at the end.
        check(true, &[(socket, 1), (socket, 2), (socket, 3), (socket, 4)], &[1, 2, 3, 4]);
        check(true, &[(socket, 1), (socket, 2)], &[1, 2]);
        // The broker is not there.
        check(false, &[(socket, 1), (socket, 2)], &[1, 2]);
    }
}
