//! From the bus to the mailbox.

use std::sync::Arc;

use shunt_bus::{Bus, Delivery, Received};
use shunt_wire::{Kind, TopicFilter, events::Frame};
use tokio_util::sync::CancellationToken;

use crate::{
    mailbox::{Job, Mailbox},
    outlet::DeadLetters,
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
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
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

    async fn take(&mut self, received: Received) {
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
        self.letters.send(&received.topic, &received.payload, &problem.to_string()).await;
    }
}
