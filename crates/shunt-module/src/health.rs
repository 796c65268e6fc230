//! Is the module alive, and ready to work?

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

/// Is the module alive, and ready to work? Parts report by name; `/readyz` lists those that are not ready.
#[derive(Debug, Clone)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    parts: BTreeMap<&'static str, Part>,
    /// Since when something has not been ready.
    failing_since: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    ready: bool,
    text: Option<String>,
}

// === impl Health ===

impl Health {
    /// Nothing known yet: ready.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State { parts: BTreeMap::new(), failing_since: None })))
    }

    /// Says whether a part of the module is ready, and if not, why.
    pub fn set(&self, part: &'static str, ready: Result<(), String>) {
        let part_state = match ready {
            Ok(()) => Part { ready: true, text: None },
            Err(reason) => Part { ready: false, text: Some(reason) },
        };
        self.put(part, part_state);
    }

    /// Says something about a part that does not keep the module from its work, for example that the hub is away
    /// while events are kept on disk.
    pub fn note(&self, part: &'static str, text: impl Into<String>) {
        self.put(part, Part { ready: true, text: Some(text.into()) });
    }

    /// Are all parts ready?
    pub fn is_ready(&self) -> bool {
        self.0.lock().failing_since.is_none()
    }

    /// For how long something has not been ready; nothing if all is.
    pub fn failing_for(&self) -> Option<std::time::Duration> {
        self.0.lock().failing_since.map(|since| since.elapsed())
    }

    /// The parts that are not ready, with the reasons.
    pub fn failing(&self) -> Vec<(&'static str, String)> {
        let state = self.0.lock();
        let failing = state.parts.iter().filter(|(_, part)| !part.ready);
        failing.map(|(name, part)| (*name, part.text.clone().unwrap_or_default())).collect()
    }

    fn put(&self, name: &'static str, part: Part) {
        let mut state = self.0.lock();
        let old = state.parts.insert(name, part.clone());
        let failing = state.parts.values().any(|part| !part.ready);
        state.failing_since = match (failing, state.failing_since) {
            (false, _) => None,
            (true, None) => Some(Instant::now()),
            (true, since) => since,
        };
        drop(state);
        if old.as_ref().is_none_or(|old| old.ready != part.ready) {
            match (part.ready, part.text) {
                (true, _) => tracing::debug!(part = name, "A part of the module is ready."),
                // At the start of a module nothing is ready yet: no news.
                (false, reason) if old.is_none() => {
                    tracing::debug!(part = name, reason, "A part of the module is not ready yet.");
                }
                (false, reason) => {
                    tracing::warn!(part = name, reason, "A part of the module is not ready.");
                }
            }
        }
    }

    /// What `/readyz` answers: `{"ready":..,"parts":{"bus":{"ready":..,"reason":".."}}}`.
    pub(crate) fn report(&self) -> (bool, Value) {
        let state = self.0.lock();
        let ready = state.failing_since.is_none();
        let parts: Map<String, Value> = state
            .parts
            .iter()
            .map(|(name, part)| {
                let value = match &part.text {
                    None => json!({"ready": part.ready}),
                    Some(text) if part.ready => json!({"ready": true, "note": text}),
                    Some(text) => json!({"ready": false, "reason": text}),
                };
                ((*name).to_owned(), value)
            })
            .collect();
        (ready, json!({"ready": ready, "parts": parts}))
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}
