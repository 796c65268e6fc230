//! What a store holds for one call: all that the guest's imports work on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use wasmtime::{Engine, Store, StoreContextMut, UpdateDeadline, component::ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::{Cause, clock::TimeUp, limits::Limiter};
use crate::{
    grants::Limits,
    reach::{Reach, outgoing::Hooks},
};

/// Bytes that one set of headers may have.
const HEADER_BYTES: usize = 16 << 10;

/// What a guest may hold at a time: streams, timers, bodies, headers. With what each of them may keep in the host's
/// memory, headers and a body's buffer, that is some 20 MiB at most.
const HANDLES: usize = 512;

/// Random bytes that one call of the host may make: they are made at once, without a turn for others.
const RANDOM_BYTES: u64 = 1 << 20;

/// Bytes that one call of the host may copy out of the guest besides its largest answer.
const COPIED_BYTES: usize = 2 << 20;

/// What the store of a component holds. It lives as long as the instance: one call, or the life of a state store.
pub(crate) struct Scene {
    /// WASI's own: standard streams, clocks, random numbers. No files, no sockets.
    pub(crate) wasi: WasiCtx,
    /// `wasi:http`'s own.
    pub(crate) http: WasiHttpCtx,
    /// Everything that the guest has handles of.
    pub(crate) table: ResourceTable,
    /// Counts its memory.
    pub(crate) limiter: Limiter,
    /// What it may reach.
    pub(crate) reach: Reach,
    /// What its outgoing HTTP requests go through.
    pub(crate) hooks: Hooks,
    /// The event that called it.
    pub(crate) cause: Option<Arc<Cause>>,
    /// When its time is up.
    pub(crate) deadline: Instant,
}

/// What each kind of store holds.
pub(super) trait Stage: Send + 'static {
    /// When its time is up.
    fn deadline(&self) -> Instant;
    /// Counts its memory.
    fn limiter(&mut self) -> &mut Limiter;
}

/// A store for one call that is to end at the scene's deadline.
pub(super) fn store<S: Stage>(engine: &Engine, scene: S, limits: Limits) -> Store<S> {
    let mut store = Store::new(engine, scene);
    store.limiter(|scene| scene.limiter());
    store.set_hostcall_fuel(limits.output_bytes.max(limits.memory_bytes).saturating_add(COPIED_BYTES));
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(look_up);
    store
}

/// What a guest that computes does at each tick: it ends where its time is up, else it lets others go on.
#[expect(clippy::needless_pass_by_value, reason = "the form of a callback")]
fn look_up<S: Stage>(store: StoreContextMut<'_, S>) -> wasmtime::Result<UpdateDeadline> {
    if Instant::now() >= store.data().deadline() { Err(TimeUp.into()) } else { Ok(UpdateDeadline::Yield(1)) }
}

/// WASI without files, sockets and environment. A socket would be one of the system's before its address is looked at.
pub(super) fn wasi() -> WasiCtxBuilder {
    let mut wasi = WasiCtx::builder();
    wasi.allow_tcp(false).allow_udp(false).max_random_size(RANDOM_BYTES);
    wasi
}

/// Bounds what a guest holds.
pub(super) fn bounded(table: &mut ResourceTable) {
    table.set_max_capacity(HANDLES);
}

/// From now to the end of a call.
pub(super) fn deadline(limits: Limits) -> Instant {
    Instant::now() + Duration::from_millis(u64::from(limits.time_ms))
}

// === impl Scene ===

impl Scene {
    /// A scene whose time begins now.
    pub(crate) fn new(wasi: WasiCtx, reach: Reach, limits: Limits) -> Self {
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(HEADER_BYTES);
        let mut table = ResourceTable::new();
        bounded(&mut table);
        Self {
            wasi,
            http,
            table,
            limiter: Limiter::new(limits),
            hooks: Hooks::new(&reach),
            reach,
            cause: None,
            deadline: deadline(limits),
        }
    }
}

impl Stage for Scene {
    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn limiter(&mut self) -> &mut Limiter {
        &mut self.limiter
    }
}

impl WasiView for Scene {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Scene {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}
