//! From the bus to the mailbox.

use std::sync::Arc;

use shunt_bus::{Bus, Delivery, Received};
use shunt_module::DeadLetters;
use shunt_wire::{Kind, TopicFilter, events::Frame};
use tokio_util::sync::CancellationToken;

use crate::{
    mailbox::{Job, Mailbox},
    tally::{Failure, Tally},
};

/// Takes frame events as they come; reads what they say, not their pixels.
#[derive(Debug)]
pub(crate) struct Intake {
    pub(crate) bus: Bus,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) letters: DeadLetters,
    pub(crate) tally: Tally,
}

// === impl Intake ===

impl Intake {
    /// Takes frames until shutdown.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let filter = TopicFilter::kind(&Kind::FRAME);
        let mut frames = tokio::select! {
            frames = self.bus.subscribe(&filter, Delivery::Fast) => frames?,
            () = shutdown.cancelled() => return Ok(()),
        };
        loop {
            let received = tokio::select! {
                received = frames.next() => received,
                () = shutdown.cancelled() => return Ok(()),
            };
            let Some(received) = received else { return Ok(()) };
            self.take(received).await;
        }
    }

    async fn take(&self, received: Received) {
        let problem = match received.envelope {
            Ok(envelope) => match Frame::read(&envelope) {
                Ok(frame) => {
                    self.mailbox.put(Job { envelope, frame, received_at: received.received_at });
                    return;
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        self.tally.fail(Failure::Malformed);
        let (topic, reason) = (&received.topic, problem.to_string());
        // The log keeps the pace of the letters: every frame of a camera may be broken.
        if self.letters.send(topic, &received.payload, &reason).await {
            tracing::warn!(topic, reason, "An event is no frame.");
        }
    }
}
