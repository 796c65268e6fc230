//! What the store asks before a guest grows.

use std::sync::{
    OnceLock,
    atomic::{AtomicUsize, Ordering},
};

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
    /// What was allowed last, until it is known to be there.
    growth: usize,
    table_elements: usize,
    refused_memory: bool,
    budget: &'static Budget,
}

/// Bytes that the memories of all calls may take together, so that they stay below what the container may take.
#[derive(Debug)]
pub(super) struct Budget {
    most: usize,
    taken: AtomicUsize,
}

/// The guest wanted more memory than it may have.
#[derive(Debug, thiserror::Error)]
#[error("it wanted more memory than it may have")]
pub(crate) struct OutOfMemory;

/// All calls together want more memory than there is.
#[derive(Debug, thiserror::Error)]
#[error("all calls together want more memory than there is")]
pub(crate) struct OutOfBudget;

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
        Self::within(limits, Budget::of_this_process())
    }

    fn within(limits: Limits, budget: &'static Budget) -> Self {
        Self {
            memory_bytes: limits.memory_bytes,
            used_bytes: 0,
            growth: 0,
            table_elements: 0,
            refused_memory: false,
            budget,
        }
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
    #[cfg(test)]
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
        let growth = desired.saturating_sub(current);
        let used = self.used_bytes.saturating_add(growth);
        if used > self.memory_bytes {
            self.refused_memory = true;
            return Err(OutOfMemory.into());
        }
        if !self.budget.take(growth) {
            return Err(OutOfBudget.into());
        }
        (self.used_bytes, self.growth) = (used, growth);
        Ok(true)
    }

    /// Past the memory's own maximum: the guest goes on without it.
    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        let growth = std::mem::take(&mut self.growth);
        self.used_bytes = self.used_bytes.saturating_sub(growth);
        self.budget.give_back(growth);
        Ok(())
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

impl Drop for Limiter {
    fn drop(&mut self) {
        self.budget.give_back(self.used_bytes);
    }
}

// === impl Budget ===

impl Budget {
    fn of(most: usize) -> Self {
        Self { most, taken: AtomicUsize::new(0) }
    }

    /// Three quarters of what this process may take: of the container's memory, or of the machine's where that is less.
    fn of_this_process() -> &'static Self {
        static BUDGET: OnceLock<Budget> = OnceLock::new();
        BUDGET.get_or_init(|| {
            let container = std::fs::read_to_string("/sys/fs/cgroup/memory.max");
            let container = container.ok().and_then(|most| most.trim().parse().ok());
            let machine = std::fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(total);
            let most = container.unwrap_or(usize::MAX).min(machine.unwrap_or(usize::MAX));
            Self::of(most / 4 * 3)
        })
    }

    /// Takes so many bytes where so many are left.
    fn take(&self, bytes: usize) -> bool {
        let more = |taken: usize| taken.checked_add(bytes).filter(|&taken| taken <= self.most);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The machine's memory in bytes, as `/proc/meminfo` tells it: `MemTotal:  8000000 kB`.
fn total(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { time_ms: 1, memory_bytes: 100, output_bytes: 1 };

    #[test]
    fn memories_of_all_calls_together_stay_within_what_there_is() {
        let budget: &'static Budget = Box::leak(Box::new(Budget::of(150)));
        let (mut one, mut other) = (Limiter::within(LIMITS, budget), Limiter::within(LIMITS, budget));
        assert!(one.memory_growing(0, 100, None).unwrap());
        let refused = other.memory_growing(0, 51, None).unwrap_err();
        assert!(refused.is::<OutOfBudget>() && !other.refused_memory());
        assert!(other.memory_growing(0, 50, None).unwrap());
        drop(one);
        assert!(other.memory_growing(50, 100, None).unwrap());
        drop(other);
        assert_eq!(budget.taken.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn growth_that_fails_after_it_was_allowed_does_not_count() {
        let budget: &'static Budget = Box::leak(Box::new(Budget::of(150)));
        let mut limiter = Limiter::within(LIMITS, budget);
        for _ in 0..10 {
            assert!(limiter.memory_growing(0, 60, Some(50)).unwrap());
            limiter.memory_grow_failed(wasmtime::format_err!("past its maximum")).unwrap();
        }
        assert_eq!((limiter.used_bytes(), budget.taken.load(Ordering::Relaxed)), (0, 0));
        let refused = limiter.memory_growing(0, 101, None).unwrap_err();
        assert!(refused.is::<OutOfMemory>() && limiter.refused_memory());
    }

    #[test]
    fn machine_tells_its_memory() {
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       8000000 kB\n"), Some(8_192_000_000));
        assert_eq!(total("MemTotal: much"), None);
    }
}
