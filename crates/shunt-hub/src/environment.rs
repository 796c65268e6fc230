//! Where environment variables are read from.

use std::collections::BTreeMap;

/// A place to read environment variables from; tests pass a map.
pub trait Environment {
    /// The value of the variable, if it is set.
    fn get(&self, name: &str) -> Option<String>;
}

/// The environment of this process. A variable that is not UTF-8 counts as not set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessEnvironment;

// === impl ProcessEnvironment ===

impl Environment for ProcessEnvironment {
    fn get(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

impl Environment for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<String> {
        BTreeMap::get(self, name).cloned()
    }
}
