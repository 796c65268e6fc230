//! From the bus to the queue: one subscription for each kind that is enabled.

use std::{collections::BTreeMap, time::Duration};

use shunt_bus::{Bus, Delivery, Received, SubscribeError, Subscription};
use shunt_module::{DeadLetters, Health};
use shunt_wire::{Kind, Topic, TopicFilter};
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    filter::{Decision, Gate},
    keeper::{Arrival, Arrivals},
    queue::Item,
    record::Record,
    settings::KindSettings,
    tally::{Reason, Tally, now_ms},
};

/// The largest data that can fit into a message to the hub: 256 KiB is the limit of the whole packet. What is over
/// it only with its properties is found when it is sent.
const LARGEST: usize = 256 * 1024;
/// After a refused subscription: the time until it is asked for again.
const AGAIN: Duration = Duration::from_secs(5);
/// A kind that was switched off: so long is waited for what was delivered already, so that it is acknowledged.
const LEFTOVERS: Duration = Duration::from_millis(50);
/// Most of these: a busy source may go on for ever.
const MOST_LEFTOVERS: usize = 1024;

/// The subscriptions.
pub(crate) struct Intake {
    desk: Desk,
    running: BTreeMap<Kind, Lane>,
    /// Each ends with its subscription where the broker shall go on keeping events for it.
    tasks: JoinSet<Option<Subscription>>,
}

/// What each subscription works with.
#[derive(Clone)]
struct Desk {
    bus: Bus,
    arrivals: Arrivals,
    tally: Tally,
    health: Health,
    dead_letters: DeadLetters,
    shutdown: CancellationToken,
}

/// One subscription at work.
struct Lane {
    /// Dropped: the kind is switched off.
    settings: watch::Sender<KindSettings>,
}

// === impl Intake ===

impl Intake {
    pub(crate) fn new(
        bus: Bus,
        arrivals: Arrivals,
        tally: Tally,
        health: Health,
        dead_letters: DeadLetters,
        shutdown: CancellationToken,
    ) -> Self {
        let desk = Desk { bus, arrivals, tally, health, dead_letters, shutdown };
        Self { desk, running: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// These kinds from now on, with these settings.
    pub(crate) fn set(&mut self, kinds: BTreeMap<Kind, KindSettings>) {
        self.running.retain(|kind, _| kinds.contains_key(kind));
        // Those of kinds that were switched off before.
        while self.tasks.try_join_next().is_some() {}
        for (kind, settings) in kinds {
            if let Some(lane) = self.running.get(&kind) {
                lane.settings.send_if_modified(|current| {
                    let changed = *current != settings;
                    *current = settings;
                    changed
                });
            } else {
                let (sender, receiver) = watch::channel(settings);
                self.tasks.spawn(self.desk.clone().work(kind.clone(), receiver));
                self.running.insert(kind, Lane { settings: sender });
            }
        }
    }

    /// Waits until nothing more is taken from the bus, after shutdown. The subscriptions that come back must live
    /// until the module ends: what nobody here subscribes to, the bus acknowledges after a while.
    pub(crate) async fn end(self) -> Vec<Subscription> {
        let Self { desk, running, tasks } = self;
        drop((desk, running));
        tasks.join_all().await.into_iter().flatten().collect()
    }
}

// === impl Desk ===

impl Desk {
    /// Works until shutdown, and gives the subscription back; or until the kind is switched off.
    async fn work(self, kind: Kind, mut settings: watch::Receiver<KindSettings>) -> Option<Subscription> {
        let mut subscription = self.subscribe(&kind, &settings).await?;
        let mut gate = Gate::new(&settings.borrow_and_update());
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Some(subscription),
                changed = settings.changed() => {
                    if changed.is_err() {
                        self.finish(&kind, subscription).await;
                        return None;
                    }
                    gate = Gate::new(&settings.borrow_and_update());
                }
                received = subscription.next() => match received {
                    // Cancelled in between: the broker keeps the event, for it was not acknowledged.
                    Some(received) => {
                        let taking = self.take(&kind, &mut gate, received);
                        if self.shutdown.run_until_cancelled(taking).await.is_none() {
                            return Some(subscription);
                        }
                    }
                    None => return None,
                },
            }
        }
    }

    async fn subscribe(&self, kind: &Kind, settings: &watch::Receiver<KindSettings>) -> Option<Subscription> {
        let filter = TopicFilter::kind(kind);
        loop {
            let asking = self.bus.subscribe(&filter, Delivery::Assured);
            match self.shutdown.run_until_cancelled(asking).await? {
                Ok(subscription) => {
                    self.health.set("subscriptions", Ok(()));
                    return Some(subscription);
                }
                Err(SubscribeError::Closed) => return None,
                Err(error) => {
                    tracing::error!(%kind, %error, "A subscription is refused; it is asked for again.");
                    self.health.set("subscriptions", Err(format!("{kind}: {error}")));
                }
            }
            self.shutdown.run_until_cancelled(tokio::time::sleep(AGAIN)).await?;
            // Switched off meanwhile?
            if settings.has_changed().is_err() {
                return None;
            }
        }
    }

    async fn take(&self, kind: &Kind, gate: &mut Gate, received: Received) {
        let envelope = match &received.envelope {
            Ok(envelope) => envelope,
            Err(error) => {
                let reason = error.to_string();
                tracing::warn!(topic = received.topic, reason, "A message is no event; it is dropped.");
                let topic: Option<Topic> = received.topic.parse().ok();
                self.dead_letters.send(&received.topic, &received.payload, &reason).await;
                return self.drop_it(topic.as_ref().map(Topic::kind), Reason::Malformed, received);
            }
        };
        match gate.decide(envelope, received.received_at) {
            Decision::Keep => {}
            Decision::Filtered => return self.drop_it(Some(kind), Reason::Filtered, received),
            Decision::RateLimited => return self.drop_it(Some(kind), Reason::RateLimited, received),
        }
        let size = envelope.body.as_ref().map_or(0, |body| body.bytes.len());
        if size > LARGEST {
            let reason = format!("event {}: its data has {size} bytes, the hub takes {LARGEST}", envelope.id);
            tracing::error!(%kind, source = %envelope.source, reason, "An event is too large; it is dropped.");
            self.dead_letters.send(&received.topic, &received.payload, &reason).await;
            return self.drop_it(Some(kind), Reason::TooLarge, received);
        }
        let bytes = match Record::new(envelope.clone(), received.received_at).encode() {
            Ok(bytes) => bytes.into(),
            Err(error) => {
                tracing::error!(%kind, id = envelope.id, %error, "An event cannot be written; it is dropped.");
                return self.drop_it(Some(kind), Reason::Malformed, received);
            }
        };
        let arrival =
            Arrival { kind: kind.clone(), item: Item { at_ms: now_ms(), bytes }, ack: received.ack };
        // The keeper ends after the intake.
        self.arrivals.send(arrival).await.ok();
    }

    fn drop_it(&self, kind: Option<&Kind>, reason: Reason, received: Received) {
        self.tally.accepted(kind);
        self.tally.dropped(reason, 1);
        received.ack.ack();
    }

    /// The kind is switched off: what was delivered already is acknowledged and counted as filtered.
    async fn finish(&self, kind: &Kind, mut subscription: Subscription) {
        for _ in 0..MOST_LEFTOVERS {
            match timeout(LEFTOVERS, subscription.next()).await {
                Ok(Some(received)) => self.drop_it(Some(kind), Reason::Filtered, received),
                Ok(None) | Err(_) => break,
            }
        }
        // A subscription that is only dropped lives on at the broker, for the next process.
        subscription.unsubscribe();
    }
}
