//! What the store asks before a guest grows.

use wasmtime::ResourceLimiter;

use super::engine::TABLE_ELEMENTS;
use crate::grants::Limits;

/// Core instances, memories and tables of one call.
const INSTANCES: usize = 128;

/// Counts what a call takes.
#[derive(Debug)]
pub(crate) struct Limiter {
    memory_bytes: usize,
    used_bytes: usize,
    table_elements: usize,
    refused_memory: bool,
}

/// The guest wanted more memory than it may have.
#[derive(Debug, thiserror::Error)]
#[error("it wanted more memory than it may have")]
pub(crate) struct OutOfMemory;

/// The guest wanted larger tables than it may have.
#[derive(Debug, thiserror::Error)]
#[error(
    "it wanted a table of more than {TABLE_ELEMENTS} elements, or several of more than twice that together"
)]
pub(crate) struct OutOfTables;

// === impl Limiter ===

impl Limiter {
    /// A limiter of one call.
    pub(crate) fn new(limits: Limits) -> Self {
        Self { memory_bytes: limits.memory_bytes, used_bytes: 0, table_elements: 0, refused_memory: false }
    }

    /// From now on it may take so many bytes more.
    pub(super) fn allow_more(&mut self, memory_bytes: usize) {
        self.memory_bytes = self.used_bytes.saturating_add(memory_bytes);
    }

    /// Did the guest want more memory than it may have?
    pub(crate) fn refused_memory(&self) -> bool {
        self.refused_memory
    }

    /// Bytes of all linear memories.
    pub(crate) fn used_bytes(&self) -> usize {
        self.used_bytes
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let used = self.used_bytes.saturating_add(desired.saturating_sub(current));
        if used > self.memory_bytes {
            self.refused_memory = true;
            return Err(OutOfMemory.into());
        }
        self.used_bytes = used;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let elements = self.table_elements.saturating_add(desired.saturating_sub(current));
        if desired > TABLE_ELEMENTS || elements > 2 * TABLE_ELEMENTS {
            return Err(OutOfTables.into());
        }
        self.table_elements = elements;
        Ok(true)
    }

    fn instances(&self) -> usize {
        INSTANCES
    }

    fn tables(&self) -> usize {
        INSTANCES
    }

    fn memories(&self) -> usize {
        INSTANCES
    }
}
