//! Frames on their way to the judge: the newest of each source.

use std::collections::{BTreeMap, VecDeque};

use parking_lot::{Condvar, Mutex};
use shunt_wire::{Envelope, Mono, Name, events::Frame};

use crate::tally::{Skip, Tally};

/// Most sources with a frame waiting. Frames of further ones are passed over and counted.
const MAX_SOURCES: usize = 16;

/// A frame event that waits for its turn.
#[derive(Debug)]
pub(crate) struct Job {
    /// The event, its body taken out.
    pub(crate) envelope: Envelope,
    /// The frame.
    pub(crate) frame: Frame,
    /// When the event came.
    pub(crate) received_at: Mono,
}

/// A bounded channel from the bus to the judge's thread: one place a source, in the order of arrival. A newer frame
/// takes the place of the older one of its source, which is counted: for pictures the newest wins (law 4).
#[derive(Debug)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
    changed: Condvar,
    tally: Tally,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<Name, Job>,
    turns: VecDeque<Name>,
    closed: bool,
}

// === impl Mailbox ===

impl Mailbox {
    pub(crate) fn new(tally: Tally) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), tally }
    }

    /// Puts a frame in; never waits.
    pub(crate) fn put(&self, job: Job) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        let source = job.envelope.source.clone();
        if !state.waiting.contains_key(&source) && state.waiting.len() >= MAX_SOURCES {
            self.tally.skip(Skip::Sources);
            return;
        }
        if state.waiting.insert(source.clone(), job).is_some() {
            self.tally.skip(Skip::Newer);
        } else {
            state.turns.push_back(source);
        }
        self.changed.notify_one();
    }

    /// The next frame; waits on this thread. Nothing after it was closed.
    pub(crate) fn take(&self) -> Option<Job> {
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
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use shunt_wire::{Kind, events::FramePixels};

    use super::*;

    fn job(source: &str, sequence: u64) -> Job {
        Job {
            envelope: Envelope::new("1", Kind::FRAME, source.parse().unwrap(), "2026-11-21T09:00:00Z"),
            frame: Frame { sequence, width: 1, height: 1, pixels: FramePixels::Jpeg(Bytes::new()) },
            received_at: Mono::from_nanos(1),
        }
    }

    fn take(mailbox: &Mailbox) -> (String, u64) {
        let job = mailbox.take().unwrap();
        (job.envelope.source.to_string(), job.frame.sequence)
    }

    fn skipped(tally: &Tally, reason: &str) -> u64 {
        let families: Vec<_> = tally.collectors().iter().flat_map(|collector| collector.collect()).collect();
        let family = families.iter().find(|family| family.name().ends_with("frames_skipped_total")).unwrap();
        let metric =
            family.get_metric().iter().find(|metric| metric.get_label()[0].value() == reason).unwrap();
        metric.get_counter().get_value() as u64
    }

    #[test]
    fn the_newest_frame_of_each_source_wins_and_no_source_waits_for_another() {
        let tally = Tally::new().unwrap();
        let mailbox = Mailbox::new(tally.clone());
        for sequence in 0..5 {
            mailbox.put(job("door", sequence));
        }
        mailbox.put(job("gate", 0));
        mailbox.put(job("door", 5));
        assert_eq!(take(&mailbox), ("door".to_owned(), 5));
        mailbox.put(job("door", 6));
        assert_eq!(take(&mailbox), ("gate".to_owned(), 0));
        assert_eq!(take(&mailbox), ("door".to_owned(), 6));
        assert_eq!(skipped(&tally, "newer"), 5);
        mailbox.close();
        assert!(mailbox.take().is_none());
    }

    #[test]
    fn more_sources_than_places_are_passed_over_and_counted() {
        let tally = Tally::new().unwrap();
        let mailbox = Mailbox::new(tally.clone());
        for source in 0..20 {
            mailbox.put(job(&format!("camera-{source}"), 0));
        }
        assert_eq!(skipped(&tally, "sources"), 4);
    }
}
