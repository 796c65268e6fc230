//! Events from the bus to the engine: one subscription for each topic filter of the rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::RwLock;
use shunt_bus::{Bus, Delivery, Received, SubscribeError, Subscription};
use shunt_module::{DeadLetters, Health};
use shunt_rules::Event;
use shunt_wire::TopicFilter;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{clock, desk::Desk, tally::Tally};

/// After a refused subscription: the time until it is asked for again.
const AGAIN: Duration = Duration::from_secs(5);

/// The subscriptions.
pub(crate) struct Intake {
    lane: Lane,
    running: BTreeMap<TopicFilter, watch::Sender<()>>,
    tasks: JoinSet<Option<Subscription>>,
    made: Made,
    /// Subscriptions that are not made yet.
    waiting: Arc<AtomicUsize>,
}

/// The subscriptions that are made. An event comes once with each that its topic matches, and counts with the first.
#[derive(Debug, Clone, Default)]
struct Made(Arc<RwLock<BTreeSet<TopicFilter>>>);

/// What each subscription works with.
#[derive(Clone)]
pub(crate) struct Lane {
    pub(crate) bus: Bus,
    pub(crate) desk: Desk,
    pub(crate) letters: DeadLetters,
    pub(crate) tally: Tally,
    pub(crate) health: Health,
    pub(crate) shutdown: CancellationToken,
}

/// One subscription at work.
struct Work {
    lane: Lane,
    filter: TopicFilter,
    made: Made,
}

// === impl Intake ===

impl Intake {
    pub(crate) fn new(lane: Lane) -> Self {
        Self {
            lane,
            running: BTreeMap::new(),
            tasks: JoinSet::new(),
            made: Made::default(),
            waiting: Arc::default(),
        }
    }

    /// These filters from now on. One that another one takes in needs no subscription; of what comes with several that
    /// overlap, [`Made`] lets one through.
    pub(crate) fn set(&mut self, filters: &[TopicFilter]) {
        let covered =
            |filter: &TopicFilter| filters.iter().any(|other| other != filter && takes_in(other, filter));
        let wanted: Vec<_> = filters.iter().filter(|filter| !covered(filter)).cloned().collect();
        self.running.retain(|filter, _| wanted.contains(filter));
        while self.tasks.try_join_next().is_some() {}
        let new: Vec<_> = wanted.into_iter().filter(|filter| !self.running.contains_key(filter)).collect();
        self.waiting.fetch_add(new.len(), Ordering::AcqRel);
        self.lane.tell(&self.waiting);
        for filter in new {
            let (keep, kept) = watch::channel(());
            let work = Work { lane: self.lane.clone(), filter: filter.clone(), made: self.made.clone() };
            self.tasks.spawn(work.run(kept, Arc::clone(&self.waiting)));
            self.running.insert(filter, keep);
        }
    }

    /// Waits until nothing more is taken from the bus, after shutdown. The subscriptions must live until the module
    /// ends, so that the broker keeps what comes meanwhile.
    pub(crate) async fn end(&mut self) -> Vec<Subscription> {
        let mut subscriptions = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            subscriptions.extend(ended.ok().flatten());
        }
        subscriptions
    }
}

/// Does the first filter match every topic that the second one does?
fn takes_in(wide: &TopicFilter, narrow: &TopicFilter) -> bool {
    let (mut wide, mut narrow) = (wide.as_str().split('/'), narrow.as_str().split('/'));
    loop {
        match (wide.next(), narrow.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

// === impl Made ===

impl Made {
    fn add(&self, filter: &TopicFilter) {
        self.0.write().insert(filter.clone());
    }

    fn remove(&self, filter: &TopicFilter) {
        self.0.write().remove(filter);
    }

    /// Is this subscription the one with which an event of this topic counts? Wide ones come first: `+` and `#` are
    /// before all letters. An event that is under way while subscriptions change may count twice or not at all.
    fn counts(&self, filter: &TopicFilter, topic: &str) -> bool {
        self.0.read().iter().find(|made| made.matches(topic)).is_none_or(|first| first == filter)
    }
}

// === impl Work ===

impl Work {
    /// Works until shutdown, and gives the subscription back; or until nobody wants the topics any more.
    async fn run(self, mut kept: watch::Receiver<()>, waiting: Arc<AtomicUsize>) -> Option<Subscription> {
        let Self { lane, filter, made } = self;
        let subscription = lane.subscribe(&filter, &kept).await;
        if subscription.is_some() {
            made.add(&filter);
        }
        waiting.fetch_sub(1, Ordering::AcqRel);
        lane.tell(&waiting);
        let mut subscription = subscription?;
        loop {
            tokio::select! {
                biased;
                () = lane.shutdown.cancelled() => return Some(subscription),
                _ = kept.changed() => {
                    made.remove(&filter);
                    subscription.unsubscribe();
                    return None;
                }
                received = subscription.next() => {
                    let received = received?;
                    if !made.counts(&filter, &received.topic) {
                        received.ack.ack();
                        continue;
                    }
                    let taking = lane.take(received);
                    // Cancelled in between: it was not acknowledged, and comes again.
                    if lane.shutdown.run_until_cancelled(taking).await.is_none() {
                        return Some(subscription);
                    }
                }
            }
        }
    }
}

// === impl Lane ===

impl Lane {
    /// The module is ready when all subscriptions are made: an event that is published then is seen.
    fn tell(&self, waiting: &AtomicUsize) {
        let ready = match waiting.load(Ordering::Acquire) {
            0 => Ok(()),
            count => Err(format!("{count} subscriptions are being made")),
        };
        self.health.set("subscriptions", ready);
    }

    async fn subscribe(&self, filter: &TopicFilter, kept: &watch::Receiver<()>) -> Option<Subscription> {
        loop {
            let asking = self.bus.subscribe(filter, delivery(filter));
            match self.shutdown.run_until_cancelled(asking).await? {
                Ok(subscription) => return Some(subscription),
                Err(SubscribeError::Closed) => return None,
                Err(error) => {
                    tracing::error!(%filter, %error, "A subscription is refused; it is asked for again.");
                    self.health.set("subscriptions", Err(format!("{filter}: {error}")));
                }
            }
            self.shutdown.run_until_cancelled(tokio::time::sleep(AGAIN)).await?;
            if kept.has_changed().is_err() {
                return None;
            }
        }
    }

    async fn take(&self, received: Received) {
        let Received { topic, envelope, payload, ack, .. } = received;
        let event = envelope.map_err(|error| error.to_string());
        match event.and_then(|envelope| Event::read(&envelope).map_err(|error| error.to_string())) {
            Ok(event) => {
                // It ends after the intake.
                self.desk.take(event, clock::now_ms(), Some(ack)).await.ok();
            }
            Err(reason) => {
                self.tally.unusable.inc();
                tracing::debug!(topic, reason, "Rules cannot look at a message.");
                self.letters.send(&topic, &payload, &reason).await;
                ack.ack();
            }
        }
    }
}

/// How sure the events of a topic come: frames and faces are live values, which are published fast; all else that was
/// published assured must not be missed.
fn delivery(filter: &TopicFilter) -> Delivery {
    match filter.as_str().split('/').nth(1) {
        Some("frame" | "face" | "presence") => Delivery::Fast,
        _ => Delivery::Assured,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_counts_with_the_first_of_the_subscriptions_it_comes_with() {
        let filter = |text: &str| text.parse::<TopicFilter>().unwrap();
        let (kind, source, other) =
            (filter("shunt/emotion/+"), filter("shunt/+/gate"), filter("shunt/face/+"));
        let made = Made::default();
        for filter in [&kind, &source, &other] {
            made.add(filter);
        }
        let counts = |topic: &str| [&kind, &source, &other].map(|filter| made.counts(filter, topic));
        assert_eq!(counts("shunt/emotion/gate"), [false, true, false]);
        made.remove(&source);
        assert_eq!(counts("shunt/emotion/gate"), [true, false, false]);
    }

    #[test]
    fn a_filter_is_taken_in_by_one_that_matches_all_it_does() {
        let check = |wide: &str, narrow: &str, expected: bool| {
            assert_eq!(
                takes_in(&wide.parse().unwrap(), &narrow.parse().unwrap()),
                expected,
                "{wide} {narrow}"
            );
        };
        check("shunt/emotion/+", "shunt/emotion/gate", true);
        check("shunt/#", "shunt/emotion/+", true);
        check("shunt/+/gate", "shunt/emotion/gate", true);
        check("shunt/emotion/gate", "shunt/emotion/+", false);
        check("shunt/+/gate", "shunt/emotion/+", false);
        check("shunt/emotion/+", "shunt/emotion/#", false);
    }
}
