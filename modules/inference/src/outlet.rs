//! From the judge to the bus.

use shunt_bus::{Bus, Delivery, PublishError};
use shunt_module::DeadLetters;
use shunt_wire::Envelope;
use tokio::sync::mpsc;

use crate::field_tally::FieldTally;

/// What the judge hands out.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The event of a frame.
    Label(Box<Envelope>),
    /// A frame that could not be used: the event, and why.
    Unusable(Box<Envelope>, String),
}

/// Publishes what the judge hands out, assured: labels must reach the relay.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) bus: Bus,
    pub(crate) letters: DeadLetters,
    pub(crate) tally: FieldTally,
}

// === impl Outlet ===

impl Outlet {
    /// Publishes until the judge has ended and nothing is left.
    pub(crate) async fn run(self, mut verdicts: mpsc::Receiver<Verdict>) {
        while let Some(verdict) = verdicts.recv().await {
            match verdict {
                Verdict::Label(event) => self.publish(*event).await,
                Verdict::Unusable(envelope, reason) => {
                    // The log keeps the pace of the letters: every frame of a camera may be broken.
                    if self.letters.send_event(&envelope, &reason).await {
                        tracing::warn!(id = envelope.id, source = %envelope.source, reason, "A frame could not be used.");
                    }
                }
            }
        }
    }

    async fn publish(&self, event: Envelope) {
        match self.bus.publish(event, Delivery::Assured).await {
            Ok(()) => {}
            Err(PublishError::Closed) => self.tally.unpublished.inc(),
            Err(error) => {
                self.tally.unpublished.inc();
                tracing::error!(%error, "A label event was not published.");
            }
        }
    }
}
