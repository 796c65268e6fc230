//! From the judge to the bus.

use std::time::Duration;

use shunt_bus::{Bus, Delivery, PublishError};
use shunt_module::Events;
use shunt_wire::{Envelope, Kind, Name, events::DeadLetter};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use crate::{judge::Verdict, tally::Tally};

/// Most bytes of an excerpt.
const EXCERPT: usize = 1024;
/// How long a dead letter may take: it is a courtesy, what happened is counted and logged anyway.
const LETTER_LIMIT: Duration = Duration::from_secs(5);
/// Dead letters come no faster than this; a camera whose frames are all broken would fill the bus with them.
const LETTER_PAUSE: Duration = Duration::from_secs(1);

/// Publishes what the judge hands out: faces fast, emotions assured, because they must reach the relay.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) bus: Bus,
    pub(crate) letters: DeadLetters,
    pub(crate) tally: Tally,
}

/// Tells on `shunt/dead-letter/<module>` of events that could not be used, once a second at most.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    bus: Bus,
    events: Events,
    module: Name,
    last: Option<Instant>,
}

// === impl Outlet ===

impl Outlet {
    /// Publishes until the judge has ended and nothing is left.
    pub(crate) async fn run(mut self, mut verdicts: mpsc::Receiver<Verdict>) {
        while let Some(verdict) = verdicts.recv().await {
            match verdict {
                Verdict::Faces(events) => {
                    for event in events {
                        self.publish(event).await;
                    }
                }
                Verdict::Unusable(envelope, reason) => {
                    let body = envelope.body.as_ref().map(|body| body.bytes.as_ref()).unwrap_or_default();
                    let reason = format!("event {}: {reason}", envelope.id);
                    self.letters.send(&envelope.topic().to_string(), body, &reason).await;
                }
            }
        }
    }

    async fn publish(&self, event: Envelope) {
        if event.kind == Kind::FACE {
            // A live value: where the bus cannot take it, it is dropped and counted by the bus.
            if let Err(error) = self.bus.publish(event, Delivery::Fast).await {
                tracing::debug!(%error, "A face event was not published.");
            }
            return;
        }
        match self.bus.publish(event, Delivery::Assured).await {
            Ok(()) => {}
            Err(PublishError::Closed) => self.tally.unpublished.inc(),
            Err(error) => {
                self.tally.unpublished.inc();
                tracing::error!(%error, "An emotion event was not published.");
            }
        }
    }
}

// === impl DeadLetters ===

impl DeadLetters {
    pub(crate) fn new(bus: Bus, events: Events, module: Name) -> Self {
        Self { bus, events, module, last: None }
    }

    /// About what came on this topic.
    pub(crate) async fn send(&mut self, topic: &str, payload: &[u8], reason: &str) {
        if self.last.is_some_and(|last| last.elapsed() < LETTER_PAUSE) {
            tracing::debug!(topic, reason, "A frame could not be used.");
            return;
        }
        self.last = Some(Instant::now());
        tracing::warn!(topic, reason, "A frame could not be used.");
        let excerpt = payload.get(..EXCERPT).unwrap_or(payload);
        let letter = DeadLetter {
            topic: topic.to_owned(),
            reason: reason.to_owned(),
            excerpt: String::from_utf8_lossy(excerpt).into_owned(),
        };
        let Ok(event) = self.events.event(Kind::DEAD_LETTER, self.module.clone()).with_json(&letter) else {
            return;
        };
        match timeout(LETTER_LIMIT, self.bus.publish(event, Delivery::Assured)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "A dead letter was not published."),
            Err(_) => tracing::debug!("A dead letter was not published in time."),
        }
    }
}
