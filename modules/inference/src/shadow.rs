//! A second model beside the first, on a share of the frames, to be judged before it is promoted.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
};

use parking_lot::Mutex;
use serde::Serialize;
use shunt_infer::{Classification, Classifier};
use shunt_vision::{Picture, Rect};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::field_tally::{FieldTally, Shadowed};

/// Times remembered for the medians: the newest.
const TIMES: usize = 256;
/// How much the second model's thread gives way to all others, as `nice` counts it.
const NICE: i32 = 15;

/// A frame for the second model, and what the first said of it.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) picture: Picture,
    /// The part that the first model saw; `None` for all of it.
    pub(crate) part: Option<Rect>,
    /// The first model's answer.
    pub(crate) answer: Classification,
}

/// A second model with a thread of its own. Never delays the first: what it has no time for is passed over and
/// counted. When its last handle is dropped its thread ends.
#[derive(Debug)]
pub(crate) struct Shadow {
    core: Arc<Core>,
    share: f64,
}

#[derive(Debug)]
struct Core {
    /// The second model.
    model: String,
    /// The first model.
    beside: String,
    /// Before `looks`, whose end ends the thread: what is here is gone then, and the thread tells truly that all is.
    classifier: Arc<Classifier>,
    /// Bounded: one frame waits while another is at work; a further one is passed over and counted.
    looks: SyncSender<Look>,
    counts: Arc<Mutex<Counts>>,
    tally: FieldTally,
    freed: CancellationToken,
}

#[derive(Debug, Default)]
struct Counts {
    /// Frames that the first model judged.
    seen: u64,
    agreed: u64,
    differed: u64,
    skipped: u64,
    failed: u64,
    /// The mean difference of the probabilities, summed over the frames where it could be told.
    difference: f64,
    differences: u64,
    /// Newest last: milliseconds of the first and the second model for the same frame.
    times: VecDeque<(f64, f64)>,
}

/// How a second model does beside the first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ShadowReport {
    /// The second model.
    pub(crate) model: String,
    /// The first model.
    pub(crate) beside: String,
    /// The part of the frames that it is shown.
    pub(crate) share: f64,
    /// Frames that both judged.
    pub(crate) frames: u64,
    /// The part of them in which both have the same best class, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) agreement: Option<f64>,
    /// How far their probabilities are apart in the mean; only where both know equally many classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mean_difference: Option<f64>,
    /// Median milliseconds inside the first model, for the newest of these frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_ms: Option<f64>,
    /// Median milliseconds inside the second one; it gives way to all other work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) second_ms: Option<f64>,
    /// Median of what the second took longer for the same frame; below zero where it is quicker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) difference_ms: Option<f64>,
    /// Frames passed over because the second model was still at work.
    pub(crate) skipped: u64,
    /// Frames at which it failed.
    pub(crate) failed: u64,
}

// === impl Shadow ===

impl Shadow {
    /// Starts the thread of a second model beside the first one of that name.
    ///
    /// # Errors
    ///
    /// The system gives no thread.
    pub(crate) fn start(
        classifier: Classifier,
        first: &Classifier,
        share: f64,
        tally: &FieldTally,
    ) -> io::Result<Self> {
        let (looks, coming) = sync_channel(1);
        let counts = Arc::<Mutex<Counts>>::default();
        let classifier = Arc::new(classifier);
        let freed = CancellationToken::new();
        let worker = Worker {
            coming,
            counts: Arc::clone(&counts),
            tally: tally.clone(),
            labels: first.labels().to_vec(),
            classifier: Arc::clone(&classifier),
            _freed: freed.clone().drop_guard(),
        };
        let core = Core {
            model: classifier.model().name().to_owned(),
            beside: first.model().name().to_owned(),
            looks,
            counts,
            tally: tally.clone(),
            classifier,
            freed,
        };
        thread::Builder::new().name("shadow".to_owned()).spawn(move || worker.run())?;
        Ok(Self { core: Arc::new(core), share })
    }

    /// The same model, thread and counts with another share.
    pub(crate) fn with_share(&self, share: f64) -> Self {
        Self { core: Arc::clone(&self.core), share }
    }

    /// Are both the same model on the same thread, whatever their share?
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.core, &other.core)
    }

    /// The second model.
    pub(crate) fn classifier(&self) -> &Classifier {
        &self.core.classifier
    }

    /// The first model, which it is compared with.
    pub(crate) fn beside(&self) -> &str {
        &self.core.beside
    }

    /// Cancelled when its memory was given back.
    pub(crate) fn freed(&self) -> CancellationToken {
        self.core.freed.clone()
    }

    /// Counts a frame that the first model judged. Is it for the second one too? The share is spread evenly and
    /// follows from the count alone.
    pub(crate) fn wants(&self) -> bool {
        let mut counts = self.core.counts.lock();
        let whole = |frames: u64| (frames as f64 * self.share).floor();
        counts.seen += 1;
        whole(counts.seen) > whole(counts.seen - 1)
    }

    /// Shows it a frame; never waits.
    pub(crate) fn offer(&self, look: Look) {
        match self.core.looks.try_send(look) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                self.core.counts.lock().skipped += 1;
                self.core.tally.shadow(Shadowed::Skipped);
            }
            // Its thread has ended by a mistake inside the back end, which was logged.
            Err(TrySendError::Disconnected(_)) => {
                self.core.counts.lock().failed += 1;
                self.core.tally.shadow(Shadowed::Failed);
            }
        }
    }

    /// How it does.
    pub(crate) fn report(&self) -> ShadowReport {
        let counts = self.core.counts.lock();
        let frames = counts.agreed + counts.differed;
        let part = |sum: f64, of: u64| (of > 0).then(|| rounded(sum / of as f64));
        let median = |time: fn(&(f64, f64)) -> f64| middle(counts.times.iter().map(time).collect());
        ShadowReport {
            model: self.core.model.clone(),
            beside: self.core.beside.clone(),
            share: self.share,
            frames,
            agreement: part(counts.agreed as f64, frames),
            mean_difference: part(counts.difference, counts.differences),
            first_ms: median(|(first, _)| *first),
            second_ms: median(|(_, second)| *second),
            difference_ms: median(|(first, second)| second - first),
            skipped: counts.skipped,
            failed: counts.failed,
        }
    }
}

/// The thread's side.
#[derive(Debug)]
struct Worker {
    coming: Receiver<Look>,
    counts: Arc<Mutex<Counts>>,
    tally: FieldTally,
    /// The names of the first model's classes.
    labels: Vec<String>,
    classifier: Arc<Classifier>,
    /// Last, so that the model is gone when it is told.
    _freed: DropGuard,
}

// === impl Worker ===

impl Worker {
    fn run(self) {
        // Of this thread alone, as Linux counts it.
        if let Err(error) = rustix::process::nice(NICE) {
            tracing::debug!(%error, "The second model's thread cannot give way to the others.");
        }
        while let Ok(look) = self.coming.recv() {
            self.judge(&look);
        }
    }

    fn judge(&self, look: &Look) {
        let result = match self.classifier.classify(&look.picture, look.part) {
            Ok(answer) => {
                // By name: models of one data set may count its classes differently.
                let best = best(&answer, self.classifier.labels());
                let agreed = best.is_some() && best == self::best(&look.answer, &self.labels);
                self.counts.lock().note(agreed, &look.answer, &answer);
                if agreed { Shadowed::Agreed } else { Shadowed::Differed }
            }
            Err(error) => {
                self.counts.lock().failed += 1;
                tracing::debug!(%error, "The second model failed.");
                Shadowed::Failed
            }
        };
        self.tally.shadow(result);
    }
}

// === impl Counts ===

impl Counts {
    fn note(&mut self, agreed: bool, first: &Classification, second: &Classification) {
        if agreed {
            self.agreed += 1;
        } else {
            self.differed += 1;
        }
        if let Some(difference) = difference(&first.probabilities, &second.probabilities) {
            self.difference += difference;
            self.differences += 1;
        }
        if self.times.len() >= TIMES {
            self.times.pop_front();
        }
        let ms = |answer: &Classification| answer.model.as_secs_f64() * 1e3;
        self.times.push_back((ms(first), ms(second)));
    }
}

/// The name of the most probable class.
fn best<'a>(answer: &Classification, labels: &'a [String]) -> Option<&'a str> {
    answer.best(1).first().and_then(|(index, _)| labels.get(*index)).map(String::as_str)
}

/// The mean distance of probabilities; nothing where the classes are not equally many.
fn difference(first: &[f32], second: &[f32]) -> Option<f64> {
    if first.len() != second.len() || first.is_empty() {
        return None;
    }
    let sum: f64 = first.iter().zip(second).map(|(first, second)| f64::from((first - second).abs())).sum();
    Some(sum / first.len() as f64)
}

/// The median of these.
fn middle(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).map(|&value| rounded(value))
}

/// To four places: what is reported should not differ where nothing does.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn answer(probabilities: &[f32], ms: u64) -> Classification {
        Classification { probabilities: probabilities.to_vec(), model: Duration::from_millis(ms) }
    }

    #[test]
    fn agreement_distance_and_medians_are_those_of_the_frames() {
        let mut counts = Counts::default();
        counts.note(true, &answer(&[0.5, 0.5], 2), &answer(&[0.7, 0.3], 5));
        counts.note(false, &answer(&[0.5, 0.5], 2), &answer(&[0.5, 0.5], 4));
        counts.note(true, &answer(&[0.5, 0.5], 3), &answer(&[0.1, 0.2, 0.7], 1));
        assert_eq!((counts.agreed, counts.differed, counts.differences), (2, 1, 2));
        assert!((counts.difference - 0.2).abs() < 1e-6);
        let medians = (
            middle(counts.times.iter().map(|(first, _)| *first).collect()),
            middle(counts.times.iter().map(|(_, second)| *second).collect()),
            middle(counts.times.iter().map(|(first, second)| second - first).collect()),
        );
        assert_eq!(medians, (Some(2.0), Some(4.0), Some(2.0)));
        assert_eq!(middle(Vec::new()), None);
    }

    #[test]
    fn the_times_remembered_are_bounded() {
        let mut counts = Counts::default();
        for _ in 0..1000 {
            counts.note(true, &answer(&[1.0], 1), &answer(&[1.0], 1));
        }
        assert_eq!((counts.agreed, counts.times.len()), (1000, TIMES));
    }
}
