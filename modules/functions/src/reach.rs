//! What a call may reach: what the grants of its function give, and nothing else.
//!
//! [`Reaches`] is what the module has: bus, durable state, models, an HTTP client, logs. [`Reaches::of`] makes of it and
//! of a function's grants a [`Reach`], which is cheap to clone; [`Reach::for_call`] begins to count what one call takes.
//! Each call of a guest to the host looks at the grants itself.

mod events;
mod hosts;
pub(crate) mod keyvalue;
mod logs;
mod models;
pub(crate) mod nn;
pub(crate) mod outgoing;
mod state;
mod store;

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
};

use shunt_bus::Bus;
use shunt_module::{Events, Health};
use wasmtime::component::{HasData, Linker, ResourceTable};

use self::{hosts::Host, models::Models, store::Stores};
pub(crate) use self::{
    logs::{Level, Log, Logs},
    store::StoreGuest,
};
use crate::{
    buckets::Buckets,
    grants::Grants,
    host::{
        Cause,
        context::Scene,
        world::{function, keyvalue_draft},
    },
    name::FunctionName,
    settings::FunctionsSettings,
};

/// What is set for all functions; may change while they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReachOptions {
    /// Most bytes of a bucket.
    pub(crate) bucket_bytes: u64,
    /// Lines of its log that are kept of a function.
    pub(crate) log_lines: usize,
}

/// What the module has, for functions to reach; clones share it.
#[derive(Clone)]
pub(crate) struct Reaches(Arc<Means>);

struct Means {
    bus: Bus,
    events: Events,
    buckets: Buckets,
    models: Models,
    client: outgoing::Client,
    logs: Logs,
    stores: Stores,
}

/// What a call may reach.
#[derive(Clone)]
pub(crate) struct Reach {
    of: Arc<Granted>,
    left: Arc<Left>,
}

/// A function's grants, read once.
struct Granted {
    name: FunctionName,
    grants: Grants,
    hosts: Vec<Host>,
    log: Log,
    /// None: it reaches nothing, whatever its grants.
    means: Option<Arc<Means>>,
}

/// What one call may still take.
struct Left {
    /// Lines for the log.
    lines: AtomicU32,
    /// Events to publish.
    events: AtomicU32,
    /// Requests to the outside.
    requests: AtomicU32,
    /// Bytes of tensors.
    tensors: AtomicUsize,
}

/// What host functions work on: what the call may reach, and its resources.
pub(crate) struct View<'a> {
    reach: &'a Reach,
    cause: Option<&'a Cause>,
    table: &'a mut ResourceTable,
}

/// Tells the linker what host functions work on.
struct HasReach;

impl HasData for HasReach {
    type Data<'a> = View<'a>;
}

/// Adds all of `wit/` that guests may import: log, events, state, `wasi:keyvalue` in both drafts, `wasi:nn`.
pub(crate) fn add_to_linker(linker: &mut Linker<Scene>) -> wasmtime::Result<()> {
    use function::{shunt::functions as shunt, wasi};
    use keyvalue_draft::wasi::keyvalue as draft;
    use wasi::keyvalue0_2_0_draft2 as keyvalue;
    shunt::log::add_to_linker::<_, HasReach>(linker, view)?;
    shunt::events::add_to_linker::<_, HasReach>(linker, view)?;
    shunt::state::add_to_linker::<_, HasReach>(linker, view)?;
    keyvalue::store::add_to_linker::<_, HasReach>(linker, view)?;
    keyvalue::atomics::add_to_linker::<_, HasReach>(linker, view)?;
    keyvalue::batch::add_to_linker::<_, HasReach>(linker, view)?;
    draft::store::add_to_linker::<_, HasReach>(linker, view)?;
    draft::atomics::add_to_linker::<_, HasReach>(linker, view)?;
    draft::batch::add_to_linker::<_, HasReach>(linker, view)?;
    wasi::nn::tensor::add_to_linker::<_, HasReach>(linker, view)?;
    wasi::nn::graph::add_to_linker::<_, HasReach>(linker, view)?;
    wasi::nn::inference::add_to_linker::<_, HasReach>(linker, view)?;
    wasi::nn::errors::add_to_linker::<_, HasReach>(linker, view)
}

fn view(scene: &mut Scene) -> View<'_> {
    View { reach: &scene.reach, cause: scene.cause.as_deref(), table: &mut scene.table }
}

// === impl ReachOptions ===

impl ReachOptions {
    /// Those of the settings.
    pub(crate) fn of(settings: &FunctionsSettings) -> Self {
        Self {
            bucket_bytes: u64::from(settings.state_mb) * 1024 * 1024,
            log_lines: settings.log_lines as usize,
        }
    }
}

/// Is it a host, or a host and a port, as a grant names one?
pub(crate) fn is_host(text: &str) -> bool {
    text.parse::<Host>().is_ok()
}

// === impl Reaches ===

impl Reaches {
    /// Of these parts: state in this file, models of this folder. Needs a tokio runtime, which must outlive it: models,
    /// reads of state and look-ups of names have its threads for heavy work.
    pub(crate) fn new(
        bus: Bus,
        events: Events,
        health: Health,
        state: PathBuf,
        models: PathBuf,
        options: ReachOptions,
    ) -> Self {
        Self(Arc::new(Means {
            bus,
            events,
            buckets: Buckets::new(state, options.bucket_bytes, health.clone()),
            models: Models::new(models, health),
            client: outgoing::Client::start(),
            logs: Logs::new(options.log_lines),
            stores: Stores::new(),
        }))
    }

    /// From now on these hold.
    pub(crate) fn set(&self, options: ReachOptions) {
        self.0.buckets.set_bound(options.bucket_bytes);
        self.0.logs.set_bound(options.log_lines);
    }

    /// Says how a state store that is a component is found by its name; once, at the start. It is asked with each
    /// operation, so it must be quick; its error says that there is none, or that it is no store.
    pub(crate) fn find_stores_with(
        &self,
        find: impl Fn(&FunctionName) -> Result<StoreGuest, String> + Send + Sync + 'static,
    ) {
        self.0.stores.find_with(Arc::new(find));
    }

    /// What a function of this name and these grants may reach. A grant that is not sound gives nothing.
    pub(crate) fn of(&self, name: &FunctionName, grants: &Grants) -> Reach {
        let granted = Granted {
            name: name.clone(),
            hosts: grants.hosts.iter().filter_map(|host| host.parse().ok()).collect(),
            grants: grants.clone(),
            log: self.0.logs.of(name),
            means: Some(Arc::clone(&self.0)),
        };
        Reach { of: Arc::new(granted), left: Arc::new(Left::new()) }
    }

    /// A function has gone: its log is forgotten, and where it is a state store, its instance ends.
    pub(crate) fn forget(&self, name: &FunctionName) {
        self.0.logs.remove(name);
        self.0.stores.end(name);
    }

    /// Ends all instances of state stores, and closes the file of state.
    pub(crate) fn end(&self) {
        self.0.stores.end_all();
        self.0.buckets.end();
    }

    /// All buckets of state, for the module's own use.
    pub(crate) fn buckets(&self) -> &Buckets {
        &self.0.buckets
    }

    /// The logs of all functions.
    pub(crate) fn logs(&self) -> &Logs {
        &self.0.logs
    }
}

// === impl Reach ===

impl Reach {
    /// Whose it is.
    pub(crate) fn name(&self) -> &FunctionName {
        &self.of.name
    }

    /// What was granted.
    pub(crate) fn grants(&self) -> &Grants {
        &self.of.grants
    }

    /// The function's log.
    pub(crate) fn log(&self) -> &Log {
        &self.of.log
    }

    /// The same for a call that begins: what calls before it took does not count.
    pub(crate) fn for_call(&self) -> Self {
        Self { of: Arc::clone(&self.of), left: Arc::new(Left::new()) }
    }

    /// The same for the next request of an instance that lives on: its hooks and streams share what is left, so it is
    /// renewed in place. Tensors stay with the instance, and so does the room that they take.
    pub(super) fn renew(&self) {
        let Left { lines, events, requests, tensors: _ } = &*self.left;
        lines.store(logs::MOST, Ordering::Relaxed);
        events.store(events::MOST, Ordering::Relaxed);
        requests.store(outgoing::MOST, Ordering::Relaxed);
    }

    /// A line that the function printed; for its log.
    pub(crate) fn log_line(&self, line: &str) {
        self.say(Level::Info, line);
    }

    /// What reaches nothing: the text of a function is run so when it is installed.
    pub(crate) fn nothing() -> Self {
        let granted = Granted {
            name: FunctionName::echo(),
            grants: Grants::default(),
            hosts: Vec::new(),
            log: Log::detached(FunctionName::echo()),
            means: None,
        };
        Self { of: Arc::new(granted), left: Arc::new(Left::new()) }
    }

    /// What the module has; an error where this reaches nothing.
    fn means(&self) -> Result<&Arc<Means>, &'static str> {
        self.of.means.as_ref().ok_or("nothing can be reached from here")
    }
}

impl fmt::Debug for Reach {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut reach = formatter.debug_struct("Reach");
        reach.field("name", self.name()).field("grants", self.grants()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Reaches {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Reaches").finish_non_exhaustive()
    }
}

// === impl Left ===

impl Left {
    fn new() -> Self {
        Self {
            lines: AtomicU32::new(logs::MOST),
            events: AtomicU32::new(events::MOST),
            requests: AtomicU32::new(outgoing::MOST),
            tensors: AtomicUsize::new(nn::MOST_BYTES),
        }
    }
}

/// Takes one; what was left before. None: nothing.
fn take(left: &AtomicU32) -> Option<u32> {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok()
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod trespass;
