//! The engine: which WebAssembly is taken, how it is compiled, and where its instances live.

use std::sync::Arc;

use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, WasmBacktraceDetails,
};

use super::{HostOptions, prepare::Counter};

/// Address space for one linear memory. With 4 GiB and the guard behind it no access needs a check of its bounds.
const MEMORY_RESERVATION: u64 = 4 << 30;

/// Address space behind each memory that is never mapped.
const MEMORY_GUARD: u64 = 32 << 20;

/// Calls at a time at most: with 4 GiB each the pool stays below 200 GiB of address space, which a board with 39 bits of
/// it (512 GiB) has to spare.
pub(super) const MOST_CALLS: usize = 40;

/// Places besides those of calls: for state stores that live long, and texts being checked.
pub(super) const SPARE: usize = 8;

/// The stack of a guest: WebAssembly's own part, and the host's functions on top of it.
const WASM_STACK: usize = 1 << 20;
const ASYNC_STACK: usize = 2 << 20;

/// Elements of one table: CPython has some 10,000.
pub(super) const TABLE_ELEMENTS: usize = 40_000;

/// Core instances, memories and tables of one component: a component made of others has some of each. The pool has one
/// memory and some tables for each place; a component that has more takes so many places when it is called.
const CORE_INSTANCES: u32 = 64;
pub(super) const MEMORIES: u32 = 8;
const TABLES: u32 = 32;

pub(super) const TABLES_PER_PLACE: u32 = 8;

/// Instances of which the memory stays mapped between calls: about 1 MiB for each is the price of quick calls.
const WARM: u32 = 16;

/// What an interpreter of a text function needs for itself, besides what the function may have.
pub(super) const INTERPRETER_BYTES: usize = 64 << 20;

/// What all engines share. Code that was compiled ahead fits each engine of these settings.
fn config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(ASYNC_STACK)
        .memory_reservation(MEMORY_RESERVATION)
        .memory_guard_size(MEMORY_GUARD)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .cranelift_opt_level(OptLevel::Speed)
        .relaxed_simd_deterministic(false)
        .wasm_memory64(false);
    config
}

/// The pool that instances come from.
fn pool(calls: usize, memory_bytes: usize) -> PoolingAllocationConfig {
    let memories = u32::try_from(calls.saturating_add(SPARE)).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(memories)
        .total_core_instances(memories.saturating_mul(CORE_INSTANCES))
        .total_memories(memories)
        .total_tables(memories.saturating_mul(TABLES_PER_PLACE))
        .total_stacks(memories)
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES)
        .max_tables_per_module(TABLES)
        .max_component_instance_size(4 << 20)
        .max_core_instance_size(4 << 20)
        .table_elements(TABLE_ELEMENTS)
        .max_memory_size(memory_bytes)
        .max_unused_warm_slots(WARM)
        .linear_memory_keep_resident(1 << 20)
        .table_keep_resident(64 << 10)
        .async_stack_keep_resident(64 << 10);
    pool
}

/// The engine of the host. Where the system does not give the pool its address space, instances are made one by one.
pub(super) fn engine(options: &HostOptions, counter: Arc<Counter>) -> wasmtime::Result<Engine> {
    let mut config = config();
    config.enable_incremental_compilation(counter)?;
    let mut pooled = config.clone();
    pooled.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(
        options.calls,
        options.memory_bytes.saturating_add(INTERPRETER_BYTES),
    )));
    match Engine::new(&pooled) {
        Ok(engine) => Ok(engine),
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                calls = options.calls,
                "There is no room for a pool of instances, so each call makes its own, which takes longer."
            );
            Engine::new(&config)
        }
    }
}

/// An engine that compiles ahead, with the settings of the host's.
pub(super) fn compiling() -> wasmtime::Result<Engine> {
    Engine::new(&config())
}
