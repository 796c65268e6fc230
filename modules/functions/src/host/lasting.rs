//! Instances that outlive one call: state stores that are components.

use wasmtime::Store;

use super::{
    CallError, Code, Guest, Host, HostInner, Kind,
    call::{standard_streams_to_log, within},
    context::{self, Scene},
    workers::Work,
    world::state_store::StateStoreExports,
};
use crate::{grants::Limits, reach::Reach};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// An instance of a state store. After an error of [`Lasting::operation`] it is not to be used any more: a trap may have
/// left its memory half changed.
pub(crate) struct Lasting {
    store: Store<Scene>,
    instance: StateStoreExports,
    host: Arc<HostInner>,
    _place: OwnedSemaphorePermit,
}

// === impl Lasting ===

impl Lasting {
    /// Does one operation with it, with a time limit of its own; its memory stays bounded by the limits that it was
    /// begun with. Run it on a worker: [`Host::run`].
    pub(crate) async fn operation<T>(
        &mut self,
        limits: Limits,
        work: impl AsyncFnOnce(&mut Store<Scene>, &StateStoreExports) -> wasmtime::Result<T>,
    ) -> Result<T, CallError> {
        let _ticking = self.host.clock.ticking();
        self.store.data_mut().deadline = context::deadline(limits);
        let instance = &self.instance;
        within(&mut self.store, limits, async |store| work(store, instance).await).await
    }
}

// === impl Host ===

impl Host {
    /// Begins an instance of a state store that lives until it is dropped. Run it on a worker: [`Host::run`].
    pub(crate) async fn begin_store(
        &self,
        guest: &Guest,
        reach: Reach,
        limits: Limits,
    ) -> Result<Lasting, CallError> {
        let Code::StateStore(code) = &guest.0.code else {
            return Err(CallError::Failed(format!("it is no state store but a {}", guest.kind().as_str())));
        };
        let host = Arc::clone(&self.0);
        let wanted = guest.0.places;
        let place = Arc::clone(&host.spare).try_acquire_many_owned(wanted).map_err(|_| CallError::Busy)?;
        let ticking = host.clock.ticking();
        let scene = Scene::new(standard_streams_to_log(&reach), reach, limits);
        let mut store = context::store(&host.engine, scene, limits);
        let instance = within(&mut store, limits, async |store| code.instantiate_async(store).await).await?;
        drop(ticking);
        Ok(Lasting { store, instance, host, _place: place })
    }

    /// Runs it on a worker, where guests run; dropping the answer ends it. None: the host has ended.
    pub(crate) fn run<F>(&self, work: F) -> Option<Work<F::Output>>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.0.workers.run(work)
    }
}

// === impl Kind ===

impl Kind {
    /// In words of lists and messages.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Function => "function",
            Self::Http => "http",
            Self::Command => "command",
            Self::WasiP1 => "wasi-p1",
            Self::StateStore => "state-store",
            Self::Python => "python",
            Self::JavaScript => "javascript",
            Self::Echo => "echo",
        }
    }
}
