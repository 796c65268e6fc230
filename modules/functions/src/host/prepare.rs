//! From bytes to code that can be called: compiling, and what was compiled before.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{RecvTimeoutError, sync_channel},
    },
    time::Duration,
};

use wasmtime::{CacheStore, Engine, Module, component::Component};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use super::{
    Code, Guest, HostInner, Kind, Progress, Refusal,
    account::shortened,
    cache::Cache,
    inspect::Outside,
    world::{function::FunctionPre, state_store::StateStoreExportsPre},
};

/// Between two reports of progress.
const REPORT: Duration = Duration::from_millis(100);

/// How far the compiler stands back behind everything else: see nice(2).
const NICE: i32 = 10;

/// Counts the functions that the compiler has done. It compiles one file at a time, so the count is that file's.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

/// Code that is compiled, not yet joined with what it imports.
enum Compiled {
    Component(Component),
    Module(Module),
}

/// Compiles the bytes, or takes what was compiled before, and joins it with what it imports.
pub(super) fn prepare(
    host: &HostInner,
    bytes: &[u8],
    digest: &str,
    kind: Kind,
    progress: &dyn Fn(Progress),
) -> Result<Guest, Refusal> {
    let kept = || kept(&host.cache, &host.engine, digest, kind);
    if let Some(compiled) = kept() {
        return joined(host, kind, compiled);
    }
    let _one_at_a_time = host.compiling.lock();
    // Another one may have compiled the same bytes meanwhile.
    if let Some(compiled) = kept() {
        return joined(host, kind, compiled);
    }
    let compiled = compile_with_progress(host, bytes, kind, progress)?;
    let code = compiled.serialized();
    let guest = joined(host, kind, compiled)?;
    // What is refused is not kept: nothing would ever remove it.
    match code {
        Ok(code) => host.cache.put(digest, &code),
        Err(error) => {
            tracing::warn!(%error, digest, "Compiled code cannot be kept; it is compiled at each start.")
        }
    }
    Ok(guest)
}

/// What was compiled before.
fn kept(cache: &Cache, engine: &Engine, digest: &str, kind: Kind) -> Option<Compiled> {
    let code = cache.get(digest)?;
    let compiled = deserialize(engine, &code, kind);
    compiled
        .inspect_err(
            |error| tracing::warn!(%error, digest, "Compiled code does not fit; it is compiled anew."),
        )
        .ok()
}

#[expect(unsafe_code, reason = "code that this engine compiled itself and that is whole by its digest")]
fn deserialize(engine: &Engine, code: &[u8], kind: Kind) -> wasmtime::Result<Compiled> {
    // SAFETY: the bytes must be what this version of the engine made with these settings, unchanged. They come from the
    // cache's folder of just this engine, which only this module writes, in its own data folder; the digest before them
    // says that nothing is missing or damaged, and the engine checks version and settings once more. Whoever can write
    // there could as well change the module's state and settings: it is in the module's own trust.
    unsafe {
        match kind {
            Kind::WasiP1 => Module::deserialize(engine, code).map(Compiled::Module),
            _ => Component::deserialize(engine, code).map(Compiled::Component),
        }
    }
}

fn compile_with_progress(
    host: &HostInner,
    bytes: &[u8],
    kind: Kind,
    progress: &dyn Fn(Progress),
) -> Result<Compiled, Refusal> {
    let all = Outside::of(bytes)?.functions;
    host.counter.0.store(0, Ordering::Relaxed);
    let report = || progress(Progress { done: host.counter.0.load(Ordering::Relaxed).min(all), all });
    report();
    let compiled = std::thread::scope(|scope| {
        // One message, when it is done.
        let (done, when_done) = sync_channel(1);
        let compiling = scope.spawn(move || {
            let compiled = gently(|| compile(&host.engine, bytes, kind));
            done.send(()).ok();
            compiled
        });
        while when_done.recv_timeout(REPORT) == Err(RecvTimeoutError::Timeout) {
            report();
        }
        compiling.join().map_err(|_| Refusal::Host("the compiler failed".to_owned()))
    })??;
    progress(Progress { done: all, all });
    Ok(compiled)
}

/// Does it on threads that wait for others: calls go on as quickly as before.
fn gently<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let threads = rayon::ThreadPoolBuilder::new()
        .thread_name(|number| format!("compiler-{number}"))
        // Of the thread, on Linux. Where it is refused they compete with the calls, and that is all.
        .start_handler(|_| {
            rustix::process::nice(NICE).ok();
        })
        .build();
    match threads {
        Ok(threads) => threads.install(work),
        Err(error) => {
            tracing::warn!(%error, "There are no threads for the compiler, so it takes those of others.");
            work()
        }
    }
}

fn compile(engine: &Engine, bytes: &[u8], kind: Kind) -> Result<Compiled, Refusal> {
    let compiled = match kind {
        Kind::WasiP1 => Module::from_binary(engine, bytes).map(Compiled::Module),
        _ => Component::from_binary(engine, bytes).map(Compiled::Component),
    };
    compiled.map_err(|error| invalid(&error))
}

/// Joins the code with what it imports.
fn joined(host: &HostInner, kind: Kind, compiled: Compiled) -> Result<Guest, Refusal> {
    let code = match (kind, compiled) {
        (Kind::WasiP1, Compiled::Module(module)) => {
            let start = module.get_export("_start").and_then(|start| start.func().cloned());
            if start.is_none_or(|start| start.params().len() + start.results().len() > 0) {
                return Err(Refusal::Invalid(
                    "its _start is no function without parameters and results".to_owned(),
                ));
            }
            host.modules.instantiate_pre(&module).map(Code::WasiP1)
        }
        (_, Compiled::Component(component)) => {
            let ready = host.components.instantiate_pre(&component);
            match kind {
                Kind::Function => ready.and_then(FunctionPre::new).map(Code::Function),
                Kind::Http => ready.and_then(ProxyPre::new).map(Code::Http),
                Kind::Command => ready.and_then(CommandPre::new).map(Code::Command),
                Kind::StateStore => ready.and_then(StateStoreExportsPre::new).map(Code::StateStore),
                _ => return Err(Refusal::Exports),
            }
        }
        (_, Compiled::Module(_)) => return Err(Refusal::Exports),
    };
    code.map(|code| Guest::new(kind, code)).map_err(|error| invalid(&error))
}

/// What the engine says of bytes that it does not take. Names out of the file may be in it.
fn invalid(error: &wasmtime::Error) -> Refusal {
    Refusal::Invalid(shortened(format!("{error:#}")))
}

// === impl Compiled ===

impl Compiled {
    fn serialized(&self) -> wasmtime::Result<Vec<u8>> {
        match self {
            Self::Component(component) => component.serialize(),
            Self::Module(module) => module.serialize(),
        }
    }
}

// === impl Counter ===

impl Counter {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }
}

impl CacheStore for Counter {
    /// Nothing is kept here: the cache of whole files is another one.
    fn get(&self, _key: &[u8]) -> Option<Cow<'_, [u8]>> {
        None
    }

    fn insert(&self, _key: &[u8], _value: Vec<u8>) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed);
        true
    }
}
