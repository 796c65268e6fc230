//! Which subscriber gets which message.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use shunt_wire::TopicFilter;
use tokio::time::Instant;

use crate::{
    Counters, Delivery,
    ack::{Ack, AckLine},
    inbox::{Inbox, Item, Wish},
    message::Arrived,
};

/// How long assured messages wait for a subscriber who is not there: a module that just started subscribes in
/// this time to what the broker kept for it, and one that stops closes the bus in it. Then they are
/// acknowledged and counted, so that they do not stop the others for ever.
const GRACE: Duration = Duration::from_secs(10);
/// How long they wait where this life has made no assured subscription at all: a module may load a model for minutes
/// before it subscribes.
const LONG_GRACE: Duration = Duration::from_mins(10);

/// The subscriptions of one client.
#[derive(Debug)]
pub(crate) struct Registry {
    entries: Vec<Subscribed>,
    /// Assured messages that no subscriber is there for, since when. Bounded like what waits for an
    /// acknowledgement.
    unclaimed: VecDeque<(Instant, Item)>,
    next_id: usize,
    line: Arc<AckLine>,
    counters: Arc<Counters>,
    /// Since when this life has had an assured subscription.
    began: Option<Instant>,
    /// This life ended an assured subscription itself, for good.
    ended: bool,
    /// The bus is being closed: what has no subscriber now is for the next life of this client.
    closing: bool,
}

/// One filter that the broker knows of.
#[derive(Debug)]
pub(crate) struct Subscribed {
    /// Our number for it: MQTT's subscription identifier.
    pub(crate) id: usize,
    pub(crate) filter: TopicFilter,
    pub(crate) delivery: Delivery,
    inboxes: Vec<Arc<Inbox>>,
    /// Assured: since when no subscriber of that delivery is here.
    orphaned: Option<Instant>,
    /// That was so long ago, or so much by intent, that none is waited for: fast subscribers are all there is.
    resigned: bool,
}

// === impl Registry ===

impl Registry {
    pub(crate) fn new(line: Arc<AckLine>, counters: Arc<Counters>) -> Self {
        let (entries, unclaimed) = (Vec::new(), VecDeque::new());
        Self { entries, unclaimed, next_id: 1, line, counters, began: None, ended: false, closing: false }
    }

    /// The filters that the broker must know of.
    pub(crate) fn entries(&self) -> &[Subscribed] {
        &self.entries
    }

    /// Are there any of this delivery?
    pub(crate) fn any(&self, delivery: Delivery) -> bool {
        self.entries.iter().any(|entry| entry.delivery == delivery)
    }

    /// Shall the broker keep our assured subscriptions, and what waits for them, when we leave? Not where this life
    /// ended them itself. One that has not come to subscribe yet throws nothing of an earlier life away.
    pub(crate) fn keeps(&self) -> bool {
        self.any(Delivery::Assured) || !self.ended
    }

    /// Adds a subscriber; returns its filter's number.
    pub(crate) fn add(&mut self, filter: &TopicFilter, inbox: &Arc<Inbox>) -> usize {
        let is_assured = inbox.delivery == Delivery::Assured;
        if is_assured {
            self.began.get_or_insert_with(Instant::now);
        }
        let known = self.entries.iter_mut().find(|entry| entry.filter == *filter);
        let id = if let Some(entry) = known {
            entry.inboxes.push(Arc::clone(inbox));
            if is_assured {
                entry.delivery = Delivery::Assured;
                entry.orphaned = None;
                entry.resigned = false;
            }
            entry.id
        } else {
            let id = self.next_id;
            self.next_id += 1;
            let (filter, delivery) = (filter.clone(), inbox.delivery);
            let inboxes = vec![Arc::clone(inbox)];
            self.entries.push(Subscribed { id, filter, delivery, inboxes, orphaned: None, resigned: false });
            id
        };
        if is_assured {
            self.claim(filter, inbox);
        }
        id
    }

    /// Gives an assured subscriber what already waits for it.
    fn claim(&mut self, filter: &TopicFilter, inbox: &Inbox) {
        for (since, item) in std::mem::take(&mut self.unclaimed) {
            if filter.matches(&item.message.topic) {
                inbox.push(item, &self.counters.dropped_receiving);
            } else {
                self.unclaimed.push_back((since, item));
            }
        }
    }

    /// The broker refused the filter.
    pub(crate) fn refuse(&mut self, id: usize, inbox: &Arc<Inbox>) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id) {
            entry.inboxes.retain(|other| !Arc::ptr_eq(other, inbox));
        }
        self.entries.retain(|entry| entry.id != id || !entry.inboxes.is_empty());
    }

    /// Hands a message to its subscribers. `ids`: the filters that the broker names; none: all that match.
    /// `token`: its name at the broker, where that waits for an acknowledgement. `again`: the broker says that
    /// it may have delivered it before.
    pub(crate) fn dispatch(&mut self, message: Arrived, ids: &[usize], token: Option<u64>, again: bool) {
        let mark = match token {
            None => None,
            Some(token) => match self.line.arrive(token, message.digest(), again) {
                Some(mark) => Some(mark),
                None => return,
            },
        };
        let message = Arc::new(message);
        let mut inboxes = self.matching(|entry| ids.contains(&entry.id), &message);
        if inboxes.is_empty() {
            // A number of an earlier life of this client, or a broker that names none.
            inboxes = self.matching(|_| true, &message);
        }
        let Some(mark) = mark else { return self.hand_over(&message, inboxes) };
        Counters::count(&self.counters.received);
        let assured = inboxes.iter().filter(|inbox| inbox.delivery == Delivery::Assured).count();
        // Fast subscribers get a copy, but cannot acknowledge it for one who is not there yet.
        let waits = assured == 0 && !self.is_resigned(&message.topic);
        let mut keys = mark.keys(&self.line, if waits { 1 } else { assured as u32 });
        for inbox in inboxes {
            let key = if inbox.delivery == Delivery::Assured { keys.pop() } else { None };
            let item = Item { message: Arc::clone(&message), ack: key.unwrap_or_else(Ack::none) };
            inbox.push(item, &self.counters.dropped_receiving);
        }
        if let Some(ack) = keys.pop() {
            self.unclaimed.push_back((Instant::now(), Item { message, ack }));
        }
    }

    /// Are fast subscribers all there is for assured messages of this topic, now and later?
    fn is_resigned(&self, topic: &str) -> bool {
        let assured =
            |entry: &&Subscribed| entry.delivery == Delivery::Assured && entry.filter.matches(topic);
        let mut entries = self.entries.iter().filter(assured).peekable();
        entries.peek().is_some() && entries.all(|entry| entry.resigned)
    }

    /// Hands a fast message to these, where it may have come by another way already.
    fn hand_over(&self, message: &Arc<Arrived>, inboxes: Vec<Arc<Inbox>>) {
        // What nobody here wants any more may be the late copy of what was counted.
        let mut is_news = false;
        for inbox in inboxes {
            let item = Item { message: Arc::clone(message), ack: Ack::none() };
            is_news |= inbox.offer(item, &self.counters.dropped_receiving);
        }
        if is_news {
            Counters::count(&self.counters.received);
        }
    }

    fn matching(&self, wanted: impl Fn(&Subscribed) -> bool, message: &Arrived) -> Vec<Arc<Inbox>> {
        let entries = self.entries.iter();
        let entries = entries.filter(|entry| wanted(entry) && entry.filter.matches(&message.topic));
        let inboxes = entries.flat_map(|entry| &entry.inboxes);
        inboxes.filter(|inbox| inbox.wish() == Wish::Messages).map(Arc::clone).collect()
    }

    /// From now on nothing is given up for want of a subscriber, however long the goodbye takes.
    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    /// Forgets subscribers that are gone; returns the filters that the broker should forget.
    pub(crate) fn sweep(&mut self) -> Vec<TopicFilter> {
        self.sweep_at(Instant::now())
    }

    fn sweep_at(&mut self, now: Instant) -> Vec<TopicFilter> {
        let closing = self.closing;
        let mut forget = Vec::new();
        let mut unclaimed = Vec::new();
        let mut ended = false;
        self.entries.retain_mut(|entry| {
            let mut unwanted = false;
            entry.inboxes.retain(|inbox| match inbox.wish() {
                Wish::Messages => true,
                Wish::Gone => {
                    unclaimed.extend(inbox.drain().into_iter().filter(|item| item.ack.is_wanted()));
                    false
                }
                Wish::NoMore => {
                    inbox.drain().into_iter().for_each(|item| item.ack.ack());
                    unwanted = true;
                    ended |= inbox.delivery == Delivery::Assured;
                    false
                }
            });
            let mut waits = false;
            if entry.delivery == Delivery::Assured {
                if entry.inboxes.iter().any(|inbox| inbox.delivery == Delivery::Assured) {
                    return true;
                }
                let since = *entry.orphaned.get_or_insert(now);
                waits = !unwanted && (closing || now - since < GRACE);
                entry.resigned |= !waits;
            }
            let keep = waits || !entry.inboxes.is_empty();
            if !keep {
                forget.push(entry.filter.clone());
            }
            keep
        });
        self.ended |= ended;
        self.unclaimed.extend(unclaimed.into_iter().map(|item| (now, item)));
        forget.extend(self.give_up(now));
        forget
    }

    /// Has what waits since then waited long enough for a subscriber?
    fn is_late(&self, since: Instant, now: Instant) -> bool {
        match self.began {
            Some(began) => now.duration_since(since.max(began)) >= GRACE,
            None => now.duration_since(since) >= LONG_GRACE,
        }
    }

    /// Acknowledges what nobody claimed in time; returns the filters that may have brought it.
    fn give_up(&mut self, now: Instant) -> Vec<TopicFilter> {
        let mut forget = Vec::new();
        while !self.closing
            && let Some((since, _)) = self.unclaimed.front()
            && self.is_late(*since, now)
            && let Some((_, item)) = self.unclaimed.pop_front()
        {
            let topic = &item.message.topic;
            tracing::warn!(%topic, "Nobody here wants a message that the bus kept for this module; it is dropped.");
            Counters::count(&self.counters.dropped_receiving);
            // The broker does not say which filter of an earlier life it came by; these are the forms we use.
            let levels: Vec<_> = topic.split('/').collect();
            let mut filters = vec![topic.clone(), "shunt/#".to_owned(), "#".to_owned()];
            if let [root, kind, source] = levels.as_slice() {
                filters.extend([format!("{root}/{kind}/+"), format!("{root}/+/{source}")]);
            }
            let filters = filters.iter().filter_map(|filter| filter.parse::<TopicFilter>().ok());
            for filter in filters {
                if !forget.contains(&filter) && !self.entries.iter().any(|entry| entry.filter == filter) {
                    forget.push(filter);
                }
            }
            item.ack.ack();
        }
        forget
    }

    /// The bus was closed: no subscriber gets anything any more.
    pub(crate) fn end(&mut self) {
        for inbox in self.entries.iter().flat_map(|entry| &entry.inboxes) {
            inbox.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::clock;

    fn empty() -> (Registry, Arc<AckLine>) {
        let line = AckLine::new(Arc::default());
        (Registry::new(Arc::clone(&line), Arc::default()), line)
    }

    fn emotion() -> Arrived {
        Arrived {
            topic: "shunt/emotion/front-door".to_owned(),
            content_type: None,
            attributes: Vec::new(),
            payload: Bytes::new(),
            received_at: clock::now(),
        }
    }

    fn add(registry: &mut Registry, filter: &str, delivery: Delivery) -> Arc<Inbox> {
        let inbox = Inbox::new(delivery, 8);
        registry.add(&filter.parse().unwrap(), &inbox);
        inbox
    }

    /// A registry whose only subscriber has gone with a message unread.
    fn left_alone() -> (Registry, Arc<AckLine>) {
        let (mut registry, line) = empty();
        let inbox = add(&mut registry, "shunt/emotion/+", Delivery::Assured);
        registry.dispatch(emotion(), &[], Some(1), false);
        inbox.set_wish(Wish::Gone);
        assert!(registry.sweep().is_empty());
        (registry, line)
    }

    #[tokio::test]
    async fn what_nobody_wants_is_given_up_after_the_time_of_grace() {
        let (mut registry, line) = left_alone();
        assert!(registry.sweep_at(Instant::now() + GRACE / 2).is_empty());
        assert!(line.take_ready().is_empty());
        assert!(!registry.sweep_at(Instant::now() + GRACE).is_empty());
        assert_eq!(line.take_ready(), [1]);
    }

    #[tokio::test]
    async fn a_long_goodbye_gives_nothing_up() {
        let (mut registry, line) = left_alone();
        registry.close();
        assert!(registry.sweep_at(Instant::now() + GRACE * 10).is_empty());
        assert!(line.take_ready().is_empty());
        assert!(registry.any(Delivery::Assured));
    }

    #[tokio::test]
    async fn the_time_of_grace_begins_with_the_first_assured_subscription() {
        let (mut registry, line) = empty();
        registry.dispatch(emotion(), &[], Some(1), false);
        // A model is being loaded. A viewer does not change that.
        let viewer = add(&mut registry, "shunt/#", Delivery::Fast);
        registry.sweep_at(Instant::now() + GRACE * 10);
        assert!(line.take_ready().is_empty());
        assert!(viewer.try_next().is_none());
        let inbox = add(&mut registry, "shunt/emotion/+", Delivery::Assured);
        inbox.try_next().unwrap().ack.ack();
        assert_eq!(line.take_ready(), [1]);
        // One that is waited for in vain is not waited for always.
        let (mut registry, line) = empty();
        registry.dispatch(emotion(), &[], Some(1), false);
        registry.sweep_at(Instant::now() + LONG_GRACE);
        assert_eq!(line.take_ready(), [1]);
    }

    #[tokio::test]
    async fn a_fast_subscriber_does_not_acknowledge_for_an_assured_one() {
        let (mut registry, line) = empty();
        let viewer = add(&mut registry, "shunt/#", Delivery::Fast);
        registry.dispatch(emotion(), &[], Some(1), false);
        assert!(!viewer.try_next().unwrap().ack.is_wanted());
        assert!(line.take_ready().is_empty());
        let inbox = add(&mut registry, "shunt/emotion/+", Delivery::Assured);
        inbox.try_next().unwrap().ack.ack();
        assert_eq!(line.take_ready(), [1]);
    }

    #[tokio::test]
    async fn where_only_fast_subscribers_are_left_nothing_piles_up() {
        for (wish, later) in [(Wish::NoMore, Duration::ZERO), (Wish::Gone, GRACE)] {
            let (mut registry, line) = empty();
            let viewer = add(&mut registry, "shunt/emotion/+", Delivery::Fast);
            add(&mut registry, "shunt/emotion/+", Delivery::Assured).set_wish(wish);
            let now = Instant::now();
            registry.sweep_at(now);
            registry.sweep_at(now + later);
            registry.dispatch(emotion(), &[], Some(1), false);
            assert!(viewer.try_next().is_some());
            assert_eq!(line.take_ready(), [1], "{wish:?}");
        }
    }

    #[tokio::test]
    async fn only_who_ended_its_subscriptions_leaves_nothing_behind() {
        let (mut registry, _) = empty();
        assert!(registry.keeps());
        let inbox = add(&mut registry, "shunt/emotion/+", Delivery::Assured);
        assert!(registry.keeps());
        inbox.set_wish(Wish::NoMore);
        registry.sweep();
        assert!(!registry.keeps());
    }
}
