//! Between the source's thread and the studio's: room for one shot, the newest.

use std::{sync::Arc, time::Duration};

use parking_lot::{Condvar, Mutex};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{metrics::Metrics, shot::Shot};

/// Room for one shot. When a newer one comes before the studio has taken the one that waits, the newer one wins
/// and the other is counted as skipped (law 4).
#[derive(Debug)]
pub(crate) struct Intake {
    state: Mutex<State>,
    changed: Condvar,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct State {
    waiting: Option<(u64, Shot)>,
    /// The number of the next shot at this source.
    next: u64,
    /// When the rate wants the next shot of a source that has a rhythm of its own.
    due: Option<Instant>,
    closed: bool,
}

// === impl Intake ===

impl Intake {
    pub(crate) fn new(metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: Condvar::new(), metrics })
    }

    /// Takes a shot of a source that is still wanted. With an interval, one that comes earlier than that after the
    /// last one is skipped.
    pub(crate) fn offer(&self, stop: &CancellationToken, interval: Option<Duration>, shot: Shot) {
        self.offer_at(Instant::now(), stop, interval, shot);
    }

    fn offer_at(&self, now: Instant, stop: &CancellationToken, interval: Option<Duration>, shot: Shot) {
        let mut state = self.state.lock();
        if stop.is_cancelled() || state.closed {
            return;
        }
        let number = state.next;
        state.next += 1;
        if let Some(interval) = interval {
            // A quarter of the interval of grace: sources are not exact.
            if state.due.is_some_and(|due| now + interval / 4 < due) {
                self.metrics.skipped.inc();
                return;
            }
            let due = state.due.map_or(now, |due| due + interval);
            state.due = Some(due.max(now + interval / 2));
        }
        if state.waiting.replace((number, shot)).is_some() {
            self.metrics.skipped.inc();
        }
        self.changed.notify_one();
    }

    /// Waits for the next shot; nothing after the end.
    pub(crate) fn take(&self) -> Option<(u64, Shot)> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(waiting) = state.waiting.take() {
                return Some(waiting);
            }
            self.changed.wait(&mut state);
        }
    }

    /// Ends a source: from now on no shot of it comes through.
    pub(crate) fn end_source(&self, stop: &CancellationToken) {
        let mut state = self.state.lock();
        stop.cancel();
        if state.waiting.take().is_some() {
            self.metrics.skipped.inc();
        }
        state.due = None;
    }

    /// No more shots.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use shunt_vision::Picture;

    use super::*;
    use crate::shot::Content;

    fn shot() -> Shot {
        Shot::now(Content::Picture(Arc::new(Picture::filled(2, 2, [0; 3]))))
    }

    #[test]
    fn the_newest_shot_wins_and_the_others_are_counted() {
        let metrics = Metrics::new().unwrap();
        let intake = Intake::new(metrics.clone());
        let stop = CancellationToken::new();
        for _ in 0..5 {
            intake.offer(&stop, None, shot());
        }
        assert_eq!(intake.take().unwrap().0, 4);
        assert_eq!(metrics.skipped.get(), 4);
    }

    #[test]
    fn a_source_faster_than_the_rate_is_thinned_out() {
        let metrics = Metrics::new().unwrap();
        let intake = Intake::new(metrics.clone());
        let stop = CancellationToken::new();
        let (begin, mut taken) = (Instant::now(), 0);
        for number in 0..300 {
            let now = begin + Duration::from_micros(33_333) * number;
            intake.offer_at(now, &stop, Some(Duration::from_millis(100)), shot());
            if intake.state.lock().waiting.take().is_some() {
                taken += 1;
            }
        }
        assert!((100..=101).contains(&taken), "{taken} of 300 shots in 10 s at 10 a second");
        assert_eq!(metrics.skipped.get(), 300 - taken);
    }

    #[test]
    fn a_source_that_was_ended_gets_nothing_through() {
        let metrics = Metrics::new().unwrap();
        let intake = Intake::new(metrics);
        let (old, new) = (CancellationToken::new(), CancellationToken::new());
        intake.offer(&old, None, shot());
        intake.end_source(&old);
        intake.offer(&old, None, shot());
        assert!(intake.state.lock().waiting.is_none());
        intake.offer(&new, None, shot());
        assert_eq!(intake.take().unwrap().0, 1);
        intake.close();
        assert!(intake.take().is_none());
    }
}
