//! Events from the bus to the engine: one subscription for each topic filter of the rules.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

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
    /// Subscriptions that are not made yet.
    waiting: Arc<AtomicUsize>,
}

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

// === impl Intake ===

impl Intake {
    pub(crate) fn new(lane: Lane) -> Self {
        Self { lane, running: BTreeMap::new(), tasks: JoinSet::new(), waiting: Arc::default() }
    }

    /// These filters from now on. One that another one takes in needs no subscription: each event comes once.
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
            self.tasks.spawn(self.lane.clone().work(filter.clone(), kept, Arc::clone(&self.waiting)));
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

// === impl Lane ===

impl Lane {
    /// Works until shutdown, and gives the subscription back; or until nobody wants the topics any more.
    async fn work(
        self,
        filter: TopicFilter,
        mut kept: watch::Receiver<()>,
        waiting: Arc<AtomicUsize>,
    ) -> Option<Subscription> {
        let subscription = self.subscribe(&filter, &kept).await;
        waiting.fetch_sub(1, Ordering::AcqRel);
        self.tell(&waiting);
        let mut subscription = subscription?;
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Some(subscription),
                _ = kept.changed() => {
                    subscription.unsubscribe();
                    return None;
                }
                received = subscription.next() => {
                    let taking = self.take(received?);
                    // Cancelled in between: it was not acknowledged, and comes again.
                    if self.shutdown.run_until_cancelled(taking).await.is_none() {
                        return Some(subscription);
                    }
                }
            }
        }
    }

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
