//! What the triggers count.

use prometheus::{IntCounter, IntCounterVec, Opts, core::Collector};

/// What called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// An event of the bus.
    Event,
    /// The clock.
    Interval,
}

/// Why nothing became of a call or its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// No such function is installed.
    NotInstalled,
    /// It ran too long.
    Time,
    /// It wanted too much memory.
    Memory,
    /// It answered too much.
    Output,
    /// Its own word that the event is bad.
    Refused,
    /// It failed.
    Failed,
    /// Too many calls went on; only of intervals, for events wait.
    Busy,
    /// What came was no event.
    Unusable,
    /// The event has come round too often.
    Loop,
    /// The function may not publish on the topic.
    Denied,
    /// The bus did not take the answer.
    Unpublished,
}

/// What the triggers count.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    calls: IntCounterVec,
    failures: IntCounterVec,
    pub(crate) published: IntCounter,
    pub(crate) postponed: IntCounter,
    pub(crate) skipped: IntCounter,
}

// === impl Source ===

impl Source {
    const ALL: [Self; 2] = [Self::Event, Self::Interval];

    fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Interval => "interval",
        }
    }
}

// === impl Reason ===

impl Reason {
    const ALL: [Self; 11] = [
        Self::NotInstalled,
        Self::Time,
        Self::Memory,
        Self::Output,
        Self::Refused,
        Self::Failed,
        Self::Busy,
        Self::Unusable,
        Self::Loop,
        Self::Denied,
        Self::Unpublished,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NotInstalled => "not_installed",
            Self::Time => "time",
            Self::Memory => "memory",
            Self::Output => "output",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Busy => "busy",
            Self::Unusable => "unusable",
            Self::Loop => "loop",
            Self::Denied => "denied",
            Self::Unpublished => "unpublished",
        }
    }
}

// === impl Tally ===

impl Tally {
    pub(crate) fn new() -> prometheus::Result<Self> {
        let by = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let tally = Self {
            calls: by(
                "shunt_functions_triggered_calls_total",
                "Calls without a caller, by what called: event, interval. A call that is tried again counts again.",
                &["trigger"],
            )?,
            failures: by(
                "shunt_functions_triggered_failures_total",
                "Events and intervals that came to nothing, by what called and the reason: not_installed, time, memory, output, refused, failed, busy (intervals; events wait), unusable (no event), loop, denied (the grants lack the answer's topic), unpublished (the bus did not take the answer).",
                &["trigger", "reason"],
            )?,
            published: IntCounter::new(
                "shunt_functions_published_answers_total",
                "Answers that became events.",
            )?,
            postponed: IntCounter::new(
                "shunt_functions_postponed_events_total",
                "Times that an event had to wait because too many calls went on.",
            )?,
            skipped: IntCounter::new(
                "shunt_functions_skipped_intervals_total",
                "Intervals that came while the run before went on.",
            )?,
        };
        for source in Source::ALL {
            tally.calls.with_label_values(&[source.as_str()]).inc_by(0);
            for reason in Reason::ALL {
                tally.failures.with_label_values(&[source.as_str(), reason.as_str()]).inc_by(0);
            }
        }
        Ok(tally)
    }

    pub(crate) fn call(&self, source: Source) {
        self.calls.with_label_values(&[source.as_str()]).inc();
    }

    pub(crate) fn failure(&self, source: Source, reason: Reason) {
        self.failures.with_label_values(&[source.as_str(), reason.as_str()]).inc();
    }

    #[cfg(test)]
    pub(super) fn failures_of(&self, source: Source, reason: Reason) -> u64 {
        self.failures.with_label_values(&[source.as_str(), reason.as_str()]).get()
    }

    pub(crate) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.postponed.clone()),
            Box::new(self.published.clone()),
            Box::new(self.skipped.clone()),
            Box::new(self.calls.clone()),
            Box::new(self.failures.clone()),
        ]
    }
}
