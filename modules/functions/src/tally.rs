//! What the module counts.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    core::Collector,
};

use crate::{host::CallError, name::FunctionName};

/// What the module counts. Of a function that is removed, nothing is told any more: their number is bounded by the
/// setting `max_functions`.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    calls: IntCounterVec,
    failed: IntCounterVec,
    seconds: HistogramVec,
    pub(crate) installed: IntGauge,
    installs: IntCounterVec,
    pub(crate) bad_requests: IntCounterVec,
}

/// What is counted of one function.
#[derive(Debug, Clone)]
pub(crate) struct FunctionTally {
    pub(crate) calls: IntCounter,
    /// By [`REASONS`]. Held, so that a call that ends after its function was removed is told nowhere.
    failed: Vec<(&'static str, IntCounter)>,
    pub(crate) seconds: Histogram,
}

/// What [`reason`] tells.
const REASONS: &[&str] = &["busy", "time", "memory", "output", "refused", "failed", "stopped"];

/// The reasons for which calls fail, as metrics tell them.
pub(crate) fn reason(error: &CallError) -> &'static str {
    match error {
        CallError::Busy | CallError::Full => "busy",
        CallError::Time(_) => "time",
        CallError::Memory(_) => "memory",
        CallError::Output(_) => "output",
        CallError::Refused(_) => "refused",
        CallError::Failed(_) => "failed",
        CallError::Stopped => "stopped",
    }
}

// === impl Tally ===

impl Tally {
    pub(crate) fn new() -> prometheus::Result<Self> {
        let by = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let seconds = HistogramOpts::new(
            "shunt_functions_call_seconds",
            "Seconds that an answered call took inside the host, instantiation included.",
        )
        .buckets(vec![0.000_03, 0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]);
        Ok(Self {
            calls: by(
                "shunt_functions_calls_total",
                "Calls of a function that were answered, by function.",
                &["function"],
            )?,
            failed: by(
                "shunt_functions_failed_calls_total",
                "Calls of a function that were not answered: busy (too many waited), time, memory, output (past its limit), refused (the function's own word), failed (a trap, an exit code, an exception), stopped (the module ended).",
                &["function", "reason"],
            )?,
            seconds: HistogramVec::new(seconds, &["function"])?,
            installed: IntGauge::new(
                "shunt_functions_installed_functions",
                "Functions that are installed, besides echo.",
            )?,
            installs: by(
                "shunt_functions_installs_total",
                "Installs, by what came of them: installed, refused (it is no function, or not as said), failed (it could not be fetched or kept).",
                &["result"],
            )?,
            bad_requests: by(
                "shunt_functions_bad_requests_total",
                "Requests that were refused for what is wrong with them (an answer 4xx), by route.",
                &["route"],
            )?,
        })
    }

    /// The counters of a function.
    pub(crate) fn of(&self, name: &FunctionName) -> FunctionTally {
        FunctionTally {
            calls: self.calls.with_label_values(&[name.as_str()]),
            failed: REASONS
                .iter()
                .map(|reason| (*reason, self.failed.with_label_values(&[name.as_str(), reason])))
                .collect(),
            seconds: self.seconds.with_label_values(&[name.as_str()]),
        }
    }

    /// A function is removed.
    pub(crate) fn forget(&self, name: &FunctionName) {
        // There may be none yet: nothing is lost.
        self.calls.remove_label_values(&[name.as_str()]).ok();
        self.seconds.remove_label_values(&[name.as_str()]).ok();
        for reason in REASONS {
            self.failed.remove_label_values(&[name.as_str(), reason]).ok();
        }
    }

    /// What came of an install.
    pub(crate) fn install(&self, result: &str) {
        self.installs.with_label_values(&[result]).inc();
    }

    /// All of them, for the registry and the reference.
    pub(crate) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.calls.clone()),
            Box::new(self.failed.clone()),
            Box::new(self.seconds.clone()),
            Box::new(self.installed.clone()),
            Box::new(self.installs.clone()),
            Box::new(self.bad_requests.clone()),
        ]
    }

    pub(crate) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        self.collectors().into_iter().try_for_each(|collector| registry.register(collector))
    }
}

// === impl FunctionTally ===

impl FunctionTally {
    /// A call was not answered.
    pub(crate) fn failed(&self, error: &CallError) {
        let reason = reason(error);
        self.failed.iter().filter(|(name, _)| *name == reason).for_each(|(_, counter)| counter.inc());
    }
}
