//! State stores that are components.

use std::sync::{Arc, OnceLock};

use crate::{
    buckets::{Done, Entry, Operation, StateError, Sum},
    grants::Limits,
    host::{Guest, Host},
    name::FunctionName,
    reach::Reach,
};

/// An installed state store.
#[derive(Clone)]
pub(crate) struct StoreGuest {
    /// What runs it.
    pub(crate) host: Host,
    /// Its code.
    pub(crate) guest: Guest,
    /// The digest of its file: another one begins a new instance.
    pub(crate) digest: String,
    /// What it may reach itself.
    pub(crate) reach: Reach,
    /// The time of each operation, and its memory.
    pub(crate) limits: Limits,
}

/// Finds a store by its name.
type Find = Arc<dyn Fn(&FunctionName) -> Result<StoreGuest, String> + Send + Sync>;

/// The stores that are components.
pub(super) struct Stores {
    find: OnceLock<Find>,
}

/// A bucket in such a store.
#[derive(Debug, Clone)]
pub(super) struct StoreBucket;

// === impl Stores ===

impl Stores {
    pub(super) fn new() -> Self {
        Self { find: OnceLock::new() }
    }

    pub(super) fn find_with(&self, find: Find) {
        self.find.set(find).ok();
    }

    pub(super) fn bucket(&self, _store: &str, _bucket: &str) -> Result<StoreBucket, StateError> {
        Err(StateError::NoSuchStore)
    }
}

// === impl StoreBucket ===

impl StoreBucket {
    pub(super) async fn get(&self, _keys: Vec<String>) -> Result<Vec<Option<Entry>>, StateError> {
        Err(StateError::NoSuchStore)
    }

    pub(super) async fn keys(
        &self,
        _prefix: String,
        _after: Option<String>,
    ) -> Result<Vec<String>, StateError> {
        Err(StateError::NoSuchStore)
    }

    pub(super) async fn apply(&self, _operations: Vec<Operation>) -> Result<Vec<Done>, StateError> {
        Err(StateError::NoSuchStore)
    }

    pub(super) async fn add(&self, _key: String, _sum: Sum) -> Result<i128, StateError> {
        Err(StateError::NoSuchStore)
    }
}
