//! How the calls of one function went.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::now;
use crate::{host::CallError, tally};

/// The longest time that is told apart: an hour, in microseconds.
const LONGEST_US: u64 = 3_600_000_000;
/// The longest message of an error that is kept, in characters.
const MESSAGE: usize = 1_000;

/// How the calls of one function went, since it was installed or the module started.
#[derive(Debug)]
pub(crate) struct Statistics(Mutex<Counted>);

#[derive(Debug)]
struct Counted {
    calls: u64,
    errors: BTreeMap<&'static str, u64>,
    /// Microseconds inside the host of the calls that were answered. Bounded: it counts in buckets of 1 % width.
    took: Option<Histogram<u64>>,
    last_error: Option<(String, String)>,
}

// === impl Statistics ===

impl Statistics {
    pub(crate) fn new() -> Self {
        let took = Histogram::new_with_max(LONGEST_US, 2).ok();
        Self(Mutex::new(Counted { calls: 0, errors: BTreeMap::new(), took, last_error: None }))
    }

    pub(crate) fn answered(&self, took: Duration) {
        let mut counted = self.0.lock();
        counted.calls += 1;
        if let Some(histogram) = &mut counted.took {
            histogram.saturating_record(took.as_micros() as u64);
        }
    }

    pub(crate) fn failed(&self, error: &CallError) {
        let message = error.to_string().chars().take(MESSAGE).collect();
        let mut counted = self.0.lock();
        counted.calls += 1;
        *counted.errors.entry(tally::reason(error)).or_default() += 1;
        counted.last_error = Some((now(), message));
    }

    /// Calls, answered or not.
    pub(crate) fn calls(&self) -> u64 {
        self.0.lock().calls
    }

    /// The fields of the listing.
    pub(crate) fn describe(&self) -> Value {
        let counted = self.0.lock();
        let quantile = |part: f64| {
            let took = counted.took.as_ref().filter(|took| !took.is_empty());
            took.map(|took| took.value_at_quantile(part))
        };
        json!({
            "calls": counted.calls,
            "errors": counted.errors.values().sum::<u64>(),
            "errors_by_reason": counted.errors,
            "p50_us": quantile(0.5),
            "p99_us": quantile(0.99),
            "last_error": counted.last_error.as_ref().map(|(at, message)| json!({"at": at, "message": message})),
        })
    }
}
