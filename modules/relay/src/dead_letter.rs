//! Events that the relay could not use, told on `shunt/dead-letter/<relay>`.

use std::time::Duration;

use shunt_bus::{Bus, Delivery, Received};
use shunt_module::Events;
use shunt_wire::{Envelope, Kind, Name, events::DeadLetter};
use tokio::time::timeout;

/// Most bytes of an excerpt.
const EXCERPT: usize = 1024;
/// How long a dead letter may take: it is a courtesy, the drop is counted and logged anyway.
const LIMIT: Duration = Duration::from_secs(5);

/// Publishes dead letters.
#[derive(Debug, Clone)]
pub(crate) struct DeadLetters {
    pub(crate) bus: Bus,
    pub(crate) events: Events,
    pub(crate) module: Name,
}

// === impl DeadLetters ===

impl DeadLetters {
    /// About a message as it came.
    pub(crate) async fn send(&self, received: &Received, reason: &str) {
        self.publish(&received.topic, &received.payload, reason).await;
    }

    /// About an event.
    pub(crate) async fn send_event(&self, envelope: &Envelope, reason: &str) {
        let reason = format!("event {}: {reason}", envelope.id);
        let body = envelope.body.as_ref().map(|body| body.bytes.clone()).unwrap_or_default();
        self.publish(&envelope.topic().to_string(), &body, &reason).await;
    }

    async fn publish(&self, topic: &str, payload: &[u8], reason: &str) {
        // A dead letter about a dead letter would come back for ever.
        if topic.starts_with("shunt/dead-letter/") {
            return;
        }
        let excerpt = payload.get(..EXCERPT).unwrap_or(payload);
        let letter = DeadLetter {
            topic: topic.to_owned(),
            reason: reason.to_owned(),
            excerpt: String::from_utf8_lossy(excerpt).into_owned(),
        };
        let Ok(event) = self.events.event(Kind::DEAD_LETTER, self.module.clone()).with_json(&letter) else {
            return;
        };
        match timeout(LIMIT, self.bus.publish(event, Delivery::Assured)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "A dead letter was not published."),
            Err(_) => tracing::debug!("A dead letter was not published in time."),
        }
    }
}
