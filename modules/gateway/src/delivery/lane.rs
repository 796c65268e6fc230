//! One subscription: takes its events from the bus, and brings them to its app.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shunt_bus::{Delivery, PublishError, Received, SubscribeError, Subscription as BusSubscription};
use shunt_module::services::begin_trace;
use shunt_wire::{Envelope, record};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Desk, Wanted, post::Verdict, tally::Outcome};
use crate::pubsub::Event;

/// After a refused subscription: the time until it is asked for again.
const AGAIN: Duration = Duration::from_secs(5);
/// How often an event may be given up and come back by a dead letter topic, before it ends: dead letter topics may
/// make a ring.
const MOST_HOPS: u32 = 5;
/// After shutdown, what is being delivered gets this long.
const LINGER: Duration = Duration::from_secs(4);

/// The gateway notes nothing on disk beside the event.
#[derive(Serialize, Deserialize)]
struct NoNotes {}

/// A subscription at work. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Lane {
    desk: Desk,
    /// Its name in the queue.
    line: String,
    wanted: watch::Receiver<Arc<Wanted>>,
    stop: CancellationToken,
    wake: Arc<Notify>,
    /// Cancelled when the one before it on the same line has ended.
    before: Option<CancellationToken>,
}

// === impl Lane ===

impl Lane {
    pub(super) fn new(
        desk: Desk,
        line: String,
        wanted: watch::Receiver<Arc<Wanted>>,
        stop: CancellationToken,
        wake: Arc<Notify>,
        before: Option<CancellationToken>,
    ) -> Self {
        Self { desk, line, wanted, stop, wake, before }
    }

    /// Works until shutdown, and gives the subscription back; or until nobody wants it.
    pub(super) async fn run(self) -> Option<BusSubscription> {
        if let Some(before) = &self.before {
            // It still throws away what nobody wants, which must not be ours.
            before.cancelled().await;
        }
        let delivery = self.wanted().subscription.delivery;
        let subscribed = self.stop.run_until_cancelled(self.subscribe()).await.flatten();
        let Some(mut subscription) = subscribed else {
            if self.stop.is_cancelled() {
                self.desk.keeper.purge(&self.line).await;
            }
            return None;
        };
        match delivery {
            Delivery::Fast => {
                let live = self.deliver_newest(&mut subscription);
                Box::pin(self.until_the_end(live)).await;
            }
            Delivery::Assured => {
                // Both end by themselves: an event that was taken from the bus and is neither kept nor acknowledged
                // would hold up all events behind it, those of other subscriptions too.
                tokio::join!(self.take_in(&mut subscription), self.deliver_all());
            }
        }
        if self.stop.is_cancelled() {
            subscription.unsubscribe();
            // Nothing comes to this line after it: both ends of it are closed.
            self.desk.keeper.purge(&self.line).await;
            return None;
        }
        Some(subscription)
    }

    fn wanted(&self) -> Arc<Wanted> {
        Arc::clone(&self.wanted.borrow())
    }

    fn app(&self) -> String {
        self.wanted().subscription.app.to_string()
    }

    async fn until_the_end<F: Future>(&self, work: F) -> Option<F::Output> {
        tokio::select! {
            // The end counts before work that is ready.
            biased;
            () = self.desk.shutdown.cancelled() => None,
            () = self.stop.cancelled() => None,
            done = work => Some(done),
        }
    }

    async fn subscribe(&self) -> Option<BusSubscription> {
        let (filter, delivery) = {
            let subscription = &self.wanted().subscription;
            (subscription.topic.filter(), subscription.delivery)
        };
        let part = "subscriptions";
        loop {
            let asking = self.desk.bus.subscribe(&filter, delivery);
            match self.desk.shutdown.run_until_cancelled(asking).await? {
                Ok(subscription) => {
                    self.desk.health.set(part, Ok(()));
                    return Some(subscription);
                }
                Err(SubscribeError::Closed) => return None,
                Err(error) => {
                    tracing::error!(%filter, %error, "A subscription is refused; it is asked for again.");
                    self.desk.health.set(part, Err(format!("{filter}: {error}")));
                }
            }
            self.desk.shutdown.run_until_cancelled(sleep(AGAIN)).await?;
        }
    }

    /// From the bus to the disk.
    async fn take_in(&self, subscription: &mut BusSubscription) {
        // What was taken from the bus is brought to its end; only the wait for the next one is cut short.
        while let Some(Some(received)) = self.until_the_end(subscription.next()).await {
            let event = self.readable(&received).await;
            let bytes = match event.as_ref().map(|event| record::encode(&NoNotes {}, event)) {
                Some(Ok(bytes)) => bytes.into(),
                other => {
                    if let Some(Err(error)) = other {
                        tracing::error!(line = self.line, %error, "An event cannot be written; it is dropped.");
                    }
                    received.ack.ack();
                    continue;
                }
            };
            let bounds = self.wanted().knobs.bounds();
            self.desk.keeper.push(&self.line, bytes, bounds, received.ack).await;
        }
    }

    /// The event, with a trace begun where it has none; nothing where the message is no event.
    async fn readable(&self, received: &Received) -> Option<Envelope> {
        match &received.envelope {
            Ok(envelope) => {
                let mut envelope = envelope.clone();
                envelope.traceparent.get_or_insert_with(begin_trace);
                Some(envelope)
            }
            Err(error) => {
                let (topic, reason) = (&received.topic, error.to_string());
                tracing::warn!(topic, reason, "A message is no event; it is dropped.");
                self.desk.dead_letters.send(topic, &received.payload, &reason).await;
                self.desk.tally.ended(&self.app(), Outcome::Malformed, 1);
                None
            }
        }
    }

    /// Live values: one attempt each, and only the newest.
    async fn deliver_newest(&self, subscription: &mut BusSubscription) {
        while let Some(received) = subscription.newest().await {
            let Some(envelope) = self.readable(&received).await else { continue };
            let (wanted, event) = (self.wanted(), Event::of(&envelope));
            let outcome = match wanted.subscription.path(&event) {
                None => Outcome::NoRoute,
                Some(path) => match wanted.post.deliver(&wanted.subscription, path, &event).await {
                    Verdict::Taken => Outcome::Delivered,
                    Verdict::Dropped(_) => Outcome::DroppedByApp,
                    Verdict::Failed(reason) | Verdict::Away(reason) => {
                        tracing::debug!(line = self.line, reason, "A live event was not taken.");
                        Outcome::NotTaken
                    }
                },
            };
            self.desk.tally.ended(&self.app(), outcome, 1);
        }
    }

    /// From the disk to the app: some at a time, so that one event that fails does not stop those behind it.
    async fn deliver_all(&self) {
        let mut most = 0;
        let slots = Arc::new(Semaphore::new(most));
        let mut deliveries = JoinSet::new();
        loop {
            while deliveries.try_join_next().is_some() {}
            most = resize(&slots, most, self.wanted().knobs.in_flight.max(1) as usize);
            let taking = async {
                // The semaphore is never closed.
                let slot = Arc::clone(&slots).acquire_owned().await.ok()?;
                let events = self.desk.keeper.take(&self.line, slots.available_permits() + 1).await?;
                Some((slot, events))
            };
            let Some(Some((slot, events))) = self.until_the_end(taking).await else { break };
            let mut slot = Some(slot);
            for (number, bytes) in events {
                let own = match slot.take() {
                    Some(slot) => Some(slot),
                    // Free already: no more were taken than there are slots.
                    None => Arc::clone(&slots).acquire_owned().await.ok(),
                };
                deliveries.spawn(self.clone().deliver(number, bytes, own));
            }
        }
        if self.stop.is_cancelled() {
            // Nobody wants them any more. None may say afterwards that it is done with its event.
            deliveries.shutdown().await;
            return;
        }
        if timeout(LINGER, async { while deliveries.join_next().await.is_some() {} }).await.is_err() {
            tracing::debug!(
                line = self.line,
                "Deliveries were open at the end; they are made again at the next start."
            );
        }
    }

    async fn deliver(self, number: u64, bytes: Bytes, _slot: Option<OwnedSemaphorePermit>) {
        let outcome = match record::decode::<NoNotes>(&bytes) {
            Ok((_, envelope)) => self.bring(&envelope).await,
            Err(error) => {
                tracing::error!(line = self.line, number, %error, "An event on disk is not readable; it is dropped.");
                Some(Outcome::Malformed)
            }
        };
        // None: the module is ending, and the event stays on disk.
        if let Some(outcome) = outcome {
            self.desk.tally.ended(&self.app(), outcome, 1);
            self.desk.keeper.done(&self.line, number).await;
        }
    }

    /// Brings an event to the app, however often that must be tried; gives what became of it.
    async fn bring(&self, envelope: &Envelope) -> Option<Outcome> {
        let event = Event::of(envelope);
        let (mut attempts, mut wait) = (0, self.wanted().knobs.retry_first());
        loop {
            let wanted = self.wanted();
            if event.has_expired() {
                return Some(Outcome::Expired);
            }
            let Some(path) = wanted.subscription.path(&event) else { return Some(Outcome::NoRoute) };
            let verdict = wanted.post.deliver(&wanted.subscription, path, &event).await;
            let (line, id) = (&self.line, &event.id);
            let away = match verdict {
                Verdict::Taken => return Some(Outcome::Delivered),
                Verdict::Dropped(reason) => {
                    tracing::warn!(line, id, reason, "An app does not want an event; it is dropped.");
                    if wanted.subscription.dead_letter.is_none() {
                        return Some(Outcome::DroppedByApp);
                    }
                    return self.give_up(envelope, event, &reason).await;
                }
                Verdict::Failed(reason) => {
                    attempts += 1;
                    tracing::debug!(line, id, attempts, reason, "An app did not take an event.");
                    if attempts >= wanted.knobs.attempts {
                        return self.give_up(envelope, event, &reason).await;
                    }
                    false
                }
                // An app that is not there has not failed: its events wait, as many as the line may hold.
                Verdict::Away(reason) => {
                    tracing::debug!(line, id, reason, "An app is not there; its events wait.");
                    true
                }
            };
            self.desk.tally.retried(wanted.subscription.app.as_str());
            tokio::select! {
                () = self.desk.shutdown.cancelled() => return None,
                () = sleep(wait) => {}
                () = self.wake.notified(), if away => {}
            }
            wait = (wait * 2).min(wanted.knobs.retry_longest());
        }
    }

    /// The event goes to the dead letters.
    async fn give_up(&self, envelope: &Envelope, event: Event, reason: &str) -> Option<Outcome> {
        let wanted = self.wanted();
        let subscription = &wanted.subscription;
        let event = event.given_up(reason);
        let hops = event.hops();
        let (line, id) = (&self.line, &envelope.id);
        let outcome = if hops > MOST_HOPS { Outcome::Loop } else { Outcome::DeadLetter };
        if outcome == Outcome::DeadLetter
            && let Some(letters) = &subscription.dead_letter
        {
            let topic = letters.published_by(&self.desk.name);
            match self.desk.bus.publish(event.envelope(&topic), Delivery::Assured).await {
                Ok(()) => return Some(outcome),
                Err(PublishError::Closed) => return None,
                Err(error) => {
                    tracing::error!(line, id, %topic, %error, "A dead letter topic does not take an event.");
                }
            }
        }
        tracing::warn!(line, id, hops, reason, "An event is given up.");
        self.desk.dead_letters.send_event(envelope, reason).await;
        Some(outcome)
    }
}

/// Gives the semaphore as many slots as wanted; gives how many it has. Slots that are in use are taken away at a later
/// turn.
fn resize(slots: &Semaphore, has: usize, wanted: usize) -> usize {
    slots.add_permits(wanted.saturating_sub(has));
    has.max(wanted) - slots.forget_permits(has.saturating_sub(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_of_the_events_in_flight_counts_at_the_next_turn() {
        let slots = Semaphore::new(0);
        let most = resize(&slots, 0, 2);
        let busy = slots.acquire_many(2).await.unwrap();
        // Those in use stay until they are free.
        let most = resize(&slots, most, 1);
        assert_eq!((most, slots.available_permits()), (2, 0));
        drop(busy);
        let most = resize(&slots, most, 1);
        assert_eq!((most, slots.available_permits()), (1, 1));
        assert_eq!((resize(&slots, most, 5), slots.available_permits()), (5, 5));
    }
}
