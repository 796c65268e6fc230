//! From the queue to the hub: in order, several on their way at once, done only when the hub has acknowledged.

use std::{collections::VecDeque, future::poll_fn, pin::Pin, task::Poll, time::Duration};

use shunt_bus::clock;
use shunt_hub::{Hub, HubState, SendError};
use shunt_module::DeadLetters;
use shunt_wire::{Envelope, Kind, Name};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    keeper::Store,
    queue::Taken,
    record::Record,
    tally::{Reason, Tally},
};

/// Most events with the hub's client. It has 12 of them on the wire at once, because edgeHub reads no further while it
/// has 16 messages to answer (`MqttAdapter.cs` of Azure/azure-iot-protocol-gateway, the MQTT engine in edgeHub); the
/// others wait in the client, to follow at once.
const IN_FLIGHT: usize = 16;

/// Events fetched from the queue beforehand: so many are asked for when less than half of them are left, so that
/// sending does not wait for each write to the disk. They count as on their way: a full queue does not drop them.
const AHEAD: usize = 128;

/// After shutdown: how often to look whether all is done.
const LOOK: Duration = Duration::from_millis(20);

/// Sends events to the hub.
pub(crate) struct Outlet {
    pub(crate) hub: Hub,
    pub(crate) store: Store,
    pub(crate) output: watch::Receiver<String>,
    pub(crate) module: Name,
    pub(crate) tally: Tally,
    pub(crate) dead_letters: DeadLetters,
    /// After shutdown: how long what is on disk is still sent, if the hub is there.
    pub(crate) linger: Duration,
}

/// A request for events that is under way.
type Taking = Pin<Box<dyn Future<Output = Taken> + Send>>;

/// An event on its way.
struct Sending {
    number: u64,
    envelope: Envelope,
    answer: Pin<Box<dyn Future<Output = Result<(), SendError>> + Send>>,
}

/// The events on their way. Polled from the oldest to the newest, so that they are handed to the client in order.
#[derive(Default)]
struct InFlight(Vec<Sending>);

// === impl InFlight ===

impl InFlight {
    /// The next event whose fate is known. Never resolves while there is none. Cancel-safe.
    async fn next(&mut self) -> (u64, Envelope, Result<(), SendError>) {
        poll_fn(|context| {
            let mut known = None;
            for (index, sending) in self.0.iter_mut().enumerate() {
                if let Poll::Ready(result) = sending.answer.as_mut().poll(context) {
                    known = Some((index, result));
                    break;
                }
            }
            match known {
                Some((index, result)) => {
                    let Sending { number, envelope, .. } = self.0.remove(index);
                    Poll::Ready((number, envelope, result))
                }
                None => Poll::Pending,
            }
        })
        .await
    }
}

// === impl Outlet ===

impl Outlet {
    /// Runs until shutdown, and then as long as there is something to send to a hub that is there, within limits.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let (mut flying, mut ready) = (InFlight::default(), VecDeque::new());
        let mut taking: Option<Taking> = None;
        let mut end: Option<Instant> = None;
        let state = self.hub.state();
        loop {
            while flying.0.len() < IN_FLIGHT
                && let Some((number, bytes)) = ready.pop_front()
            {
                self.start(number, bytes, &mut flying).await;
            }
            if taking.is_none() && ready.len() < AHEAD / 2 {
                let store = self.store.clone();
                taking = Some(Box::pin(async move { store.take(AHEAD).await }));
            }
            self.tally.in_flight(flying.0.len());
            if end.is_some() && (*state.borrow() != HubState::Connected || self.is_idle(&flying)) {
                return;
            }
            tokio::select! {
                biased;
                (number, envelope, result) = flying.next() => {
                    if matches!(result, Err(SendError::Closed)) {
                        return;
                    }
                    self.settle(number, envelope, result).await;
                }
                events = next_events(&mut taking) => {
                    taking = None;
                    if events.is_empty() {
                        return;
                    }
                    ready.extend(events);
                }
                () = shutdown.cancelled(), if end.is_none() => end = Some(Instant::now() + self.linger),
                () = until(end) => return,
                // After shutdown: is the hub gone, or everything written off the disk?
                () = tokio::time::sleep(LOOK), if end.is_some() => {}
            }
        }
    }

    fn is_idle(&self, flying: &InFlight) -> bool {
        flying.0.is_empty() && self.tally.queued() == 0
    }

    async fn start(&self, number: u64, bytes: Vec<u8>, flying: &mut InFlight) {
        let record = match Record::decode(bytes) {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(number, %error, "An event on disk is not readable; it is dropped.");
                self.tally.dropped(Reason::Malformed, 1);
                self.store.done(number).await;
                return;
            }
        };
        let message = record.message(&self.output.borrow(), &self.module, clock::now());
        let hub = self.hub.clone();
        let answer = Box::pin(async move { hub.send(message).await });
        flying.0.push(Sending { number, envelope: record.envelope, answer });
    }

    async fn settle(&self, number: u64, envelope: Envelope, result: Result<(), SendError>) {
        match result {
            Ok(()) => self.tally.sent(&envelope.kind),
            Err(error) => {
                let (kind, source, id): (&Kind, &Name, &str) =
                    (&envelope.kind, &envelope.source, &envelope.id);
                tracing::error!(%kind, %source, id, %error, "The hub cannot take an event; it is dropped.");
                let reason = match error {
                    SendError::TooLarge { .. } => Reason::TooLarge,
                    _ => Reason::Malformed,
                };
                self.tally.dropped(reason, 1);
                self.dead_letters.send_event(&envelope, &error.to_string()).await;
            }
        }
        self.store.done(number).await;
    }
}

async fn next_events(taking: &mut Option<Taking>) -> Taken {
    match taking {
        Some(taking) => taking.await,
        None => std::future::pending().await,
    }
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}
