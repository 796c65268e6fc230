//! From the judge to the bus.

use shunt_bus::{Bus, Delivery, PublishError};
use shunt_module::DeadLetters;
use shunt_wire::{Envelope, Kind};
use tokio::sync::mpsc;

use crate::{judge::Verdict, tally::Tally};

/// Publishes what the judge hands out: faces fast, emotions assured, because they must reach the relay.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) bus: Bus,
    pub(crate) letters: DeadLetters,
    pub(crate) tally: Tally,
}

// === impl Outlet ===

impl Outlet {
    /// Publishes until the judge has ended and nothing is left.
    pub(crate) async fn run(self, mut verdicts: mpsc::Receiver<Verdict>) {
        while let Some(verdict) = verdicts.recv().await {
            match verdict {
                Verdict::Faces(events) => {
                    let (faces, emotions): (Vec<_>, Vec<_>) =
                        events.into_iter().partition(|event| event.kind == Kind::FACE);
                    // What must reach the relay goes first; the faces do not wait for its acknowledgement.
                    tokio::join!(biased; self.publish_assured(emotions), self.publish_fast(faces));
                }
                Verdict::Unusable(envelope, reason) => {
                    // The log keeps the pace of the letters: every frame of a camera may be broken.
                    if self.letters.send_event(&envelope, &reason).await {
                        tracing::warn!(id = envelope.id, source = %envelope.source, reason, "A frame could not be used.");
                    }
                }
            }
        }
    }

    async fn publish_assured(&self, emotions: Vec<Envelope>) {
        for event in emotions {
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

    async fn publish_fast(&self, faces: Vec<Envelope>) {
        for event in faces {
            // A live value: where the bus cannot take it, it is dropped and counted by the bus.
            if let Err(error) = self.bus.publish(event, Delivery::Fast).await {
                tracing::debug!(%error, "A face event was not published.");
            }
        }
    }
}
