//! Frames from the bus to the thread that judges them: the newest of each source.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::Arc,
};

use parking_lot::{Condvar, Mutex};
use shunt_bus::{Bus, Delivery, Received, SubscribeError};
use shunt_wire::{Envelope, Kind, Mono, Name, TopicFilter, events::Frame};
use tokio_util::sync::CancellationToken;

use crate::DeadLetters;

/// Most sources with a frame waiting. Frames of further ones are passed over and counted.
const MAX_SOURCES: usize = 16;

/// A frame event that waits for its turn.
#[derive(Debug)]
pub struct FrameJob {
    /// The event.
    pub envelope: Envelope,
    /// The frame.
    pub frame: Frame,
    /// When the event came.
    pub received_at: Mono,
}

/// Counts the frames that do not reach the judge (law 4).
pub trait FrameTally: fmt::Debug + Send + Sync {
    /// A newer one of the same source came before its turn.
    fn newer(&self);

    /// More sources than can be served.
    fn too_many_sources(&self);

    /// The event is none, or no frame.
    fn malformed(&self);
}

/// A bounded channel from the bus to the judge's thread: one place a source, in the order of arrival. A newer frame
/// takes the place of the older one of its source, which is counted: for pictures the newest wins (law 4).
#[derive(Debug)]
pub struct FrameMailbox {
    state: Mutex<State>,
    changed: Condvar,
    tally: Arc<dyn FrameTally>,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<Name, FrameJob>,
    turns: VecDeque<Name>,
    closed: bool,
}

/// Takes frame events from the bus as they come, into a mailbox; reads what they say, not their pixels. An event that
/// is no frame is counted, logged and told on `shunt/dead-letter/<module>`.
#[derive(Debug)]
pub struct FrameIntake {
    /// The bus.
    pub bus: Bus,
    /// Where the frames go.
    pub mailbox: Arc<FrameMailbox>,
    /// Letters about events that are no frames. Give them a pace: every frame of a camera may be broken. The log
    /// keeps it too.
    pub letters: DeadLetters,
}

// === impl FrameMailbox ===

impl FrameMailbox {
    /// An empty one.
    pub fn new(tally: Arc<dyn FrameTally>) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), tally }
    }

    /// Puts a frame in; never waits.
    pub fn put(&self, job: FrameJob) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        let source = job.envelope.source.clone();
        if !state.waiting.contains_key(&source) && state.waiting.len() >= MAX_SOURCES {
            self.tally.too_many_sources();
            return;
        }
        if state.waiting.insert(source.clone(), job).is_some() {
            self.tally.newer();
        } else {
            state.turns.push_back(source);
        }
        self.changed.notify_one();
    }

    /// The next frame; waits on this thread, so never call it on an async one. Nothing after it was closed.
    pub fn take(&self) -> Option<FrameJob> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return None;
            }
            while let Some(source) = state.turns.pop_front() {
                if let Some(job) = state.waiting.remove(&source) {
                    return Some(job);
                }
            }
            self.changed.wait(&mut state);
        }
    }

    /// Ends it: frames that wait are dropped, the judge's thread ends.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }
}

// === impl FrameIntake ===

impl FrameIntake {
    /// Takes frames until shutdown.
    ///
    /// # Errors
    ///
    /// The broker refuses the subscription.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), SubscribeError> {
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
                    self.mailbox.put(FrameJob { envelope, frame, received_at: received.received_at });
                    return;
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        self.mailbox.tally.malformed();
        let (topic, reason) = (&received.topic, problem.to_string());
        if self.letters.send(topic, &received.payload, &reason).await {
            tracing::warn!(topic, reason, "An event is no frame.");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use bytes::Bytes;
    use shunt_wire::events::FramePixels;

    use super::*;

    #[derive(Debug, Default)]
    struct Counts {
        newer: AtomicU64,
        sources: AtomicU64,
    }

    impl FrameTally for Counts {
        fn newer(&self) {
            self.newer.fetch_add(1, Ordering::Relaxed);
        }

        fn too_many_sources(&self) {
            self.sources.fetch_add(1, Ordering::Relaxed);
        }

        fn malformed(&self) {}
    }

    fn job(source: &str, sequence: u64) -> FrameJob {
        FrameJob {
            envelope: Envelope::new("1", Kind::FRAME, source.parse().unwrap(), "2026-11-21T09:00:00Z"),
            frame: Frame { sequence, width: 1, height: 1, pixels: FramePixels::Jpeg(Bytes::new()) },
            received_at: Mono::from_nanos(1),
        }
    }

    fn take(mailbox: &FrameMailbox) -> (String, u64) {
        let job = mailbox.take().unwrap();
        (job.envelope.source.to_string(), job.frame.sequence)
    }

    #[test]
    fn the_newest_frame_of_each_source_wins_and_no_source_waits_for_another() {
        let counts = Arc::new(Counts::default());
        let mailbox = FrameMailbox::new(Arc::<Counts>::clone(&counts));
        for sequence in 0..5 {
            mailbox.put(job("door", sequence));
        }
        mailbox.put(job("gate", 0));
        mailbox.put(job("door", 5));
        assert_eq!(take(&mailbox), ("door".to_owned(), 5));
        mailbox.put(job("door", 6));
        assert_eq!(take(&mailbox), ("gate".to_owned(), 0));
        assert_eq!(take(&mailbox), ("door".to_owned(), 6));
        assert_eq!(counts.newer.load(Ordering::Relaxed), 5);
        mailbox.close();
        assert!(mailbox.take().is_none());
    }

    #[test]
    fn more_sources_than_places_are_passed_over_and_counted() {
        let counts = Arc::new(Counts::default());
        let mailbox = FrameMailbox::new(Arc::<Counts>::clone(&counts));
        for source in 0..20 {
            mailbox.put(job(&format!("camera-{source}"), 0));
        }
        assert_eq!(counts.sources.load(Ordering::Relaxed), 4);
    }
}
