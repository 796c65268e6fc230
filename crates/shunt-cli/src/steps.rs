//! How long each step of a command took.

use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::output;

/// Milliseconds of each step, in order.
pub(crate) struct Steps {
    done: Vec<(&'static str, f64)>,
    since: Instant,
}

// === impl Steps ===

impl Steps {
    /// The first step begins.
    pub(crate) fn begin() -> Self {
        Self { done: Vec::new(), since: Instant::now() }
    }

    /// A step is done, the next one begins.
    pub(crate) fn done(&mut self, step: &'static str) {
        self.done.push((step, self.since.elapsed().as_secs_f64() * 1_000.0));
        self.since = Instant::now();
    }

    /// Milliseconds by name.
    pub(crate) fn as_json(&self) -> Map<String, Value> {
        self.done.iter().map(|(name, ms)| ((*name).to_owned(), json!(ms))).collect()
    }

    /// For people.
    pub(crate) fn as_table(&self) -> String {
        let row = |(name, ms): &(&str, f64)| vec![(*name).to_owned(), format!("{ms:.1}")];
        output::table(&["step", "ms"], &self.done.iter().map(row).collect::<Vec<_>>())
    }
}
