//! The WebAssembly host: looks at a file, compiles it, and calls it, each call in an instance of its own.
//!
//! It knows no names, no routes and no settings: what a call may reach is the [`Reach`] it is given.

mod account;
mod cache;
mod call;
mod clock;
pub(crate) mod context;
mod engine;
mod inspect;
pub(crate) mod lasting;
mod limits;
mod log;
mod parts;
mod prepare;
mod program;
#[cfg(test)]
mod tests;
pub(crate) mod text;
mod web;
mod workers;
pub(crate) mod world;

use std::{
    collections::HashSet,
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use shunt_wire::{Envelope, Mono, Stamps};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError};
use wasmtime::{Engine, InstancePre, component};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use self::{
    cache::Cache,
    clock::Clock,
    context::Scene,
    prepare::Counter,
    program::Script,
    workers::{Lost, Workers},
    world::{function::FunctionPre, state_store::StateStoreExportsPre},
};
use crate::{grants::Limits, reach::Reach};

/// How the host is set up.
#[derive(Debug, Clone)]
pub(crate) struct HostOptions {
    /// Threads that run guests.
    pub(crate) workers: usize,
    /// Calls that run at a time on all of them together; so many instances are held ready.
    pub(crate) calls: usize,
    /// Calls that may wait. One more is refused: [`CallError::Busy`].
    pub(crate) queue: usize,
    /// The most memory that any function may be given, in bytes.
    pub(crate) memory_bytes: usize,
    /// Where compiled code is kept, by digest and engine.
    pub(crate) compiled: PathBuf,
    /// Where the interpreters are, compiled when the image or the demo was built.
    pub(crate) interpreters: PathBuf,
}

/// What a file is, found by looking at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// A component that exports `shunt:functions/handler`.
    Function,
    /// A component that exports `wasi:http/incoming-handler`.
    Http,
    /// A component that exports `wasi:cli/run`: standard input to standard output.
    Command,
    /// A core module for WASI preview 1: standard input to standard output.
    WasiP1,
    /// A component that exports `wasi:keyvalue/store`: other functions' state goes through it.
    StateStore,
    /// Text with `def handle(req)`.
    Python,
    /// Text with `handle`.
    #[serde(rename = "javascript")]
    JavaScript,
    /// What is always there; no WebAssembly.
    Echo,
}

/// How far compiling is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Functions of the code that are compiled.
    pub(crate) done: u64,
    /// Functions of the code.
    pub(crate) all: u64,
}

/// Why a file cannot be a function.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Refusal {
    /// Neither WebAssembly nor text of a language that is known.
    #[error("it is neither WebAssembly nor a text function (.py, .js): {0}")]
    Unknown(String),
    /// WebAssembly that does not parse or validate.
    #[error("it is not valid WebAssembly: {0}")]
    Invalid(String),
    /// It imports what no function gets.
    #[error("it imports what functions do not get: {}", .0.join(", "))]
    Imports(Vec<String>),
    /// It exports nothing that can be called.
    #[error(
        "it exports none of shunt:functions/handler, wasi:http/incoming-handler, wasi:cli/run, wasi:keyvalue/store and _start"
    )]
    Exports,
    /// A text with a mistake.
    #[error("{0}")]
    Text(String),
    /// The interpreter for this language is not there.
    #[error("there is no interpreter for {0} here: `scripts/setup functions` builds it")]
    NoInterpreter(&'static str),
    /// It needs more than any function may have.
    #[error("{0}")]
    TooLarge(String),
    /// The host itself failed.
    #[error("it cannot be prepared: {0}")]
    Host(String),
}

/// What a function is called with.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// The function's name, as it was called.
    pub(crate) name: String,
    /// `http`, `interval`, or the topic of an event.
    pub(crate) source: String,
    /// `GET`, `POST` ...; `POST` for events and intervals.
    pub(crate) method: http::Method,
    /// The path behind the name, beginning with `/` or empty.
    pub(crate) path: String,
    /// What follows the `?`.
    pub(crate) query: String,
    /// Headers, for `wasi:http`.
    pub(crate) headers: http::HeaderMap,
    /// `Content-Type`, or empty.
    pub(crate) content_type: String,
    /// The body.
    pub(crate) body: Bytes,
    /// The event that called it: what events of the function continue. None: it was no event.
    pub(crate) cause: Option<Arc<Cause>>,
}

/// The event that called a function.
#[derive(Debug, Clone)]
pub(crate) struct Cause {
    /// Its stamps, or those of an event that begins here, where it had none.
    pub(crate) stamps: Stamps,
    /// When it came from the socket: [`Stamps::follow`] wants it.
    pub(crate) received_at: Mono,
    /// Its trace.
    pub(crate) traceparent: Option<String>,
}

/// What a function answers.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// 200, but where a `wasi:http` function says otherwise.
    pub(crate) status: http::StatusCode,
    /// Headers of a `wasi:http` function; else empty.
    pub(crate) headers: http::HeaderMap,
    /// `Content-Type`, or empty.
    pub(crate) content_type: String,
    /// The body.
    pub(crate) body: Bytes,
    /// From the begin of the call on its thread to its end, instantiation included.
    pub(crate) took: Duration,
}

/// Why a call gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CallError {
    /// All threads are taken, and all places to wait.
    #[error("too many calls wait already")]
    Busy,
    /// It went past its time.
    #[error("it ran longer than its {0} ms")]
    Time(u32),
    /// It wanted more memory.
    #[error("it wanted more memory than its {} MiB", .0 / (1024 * 1024))]
    Memory(usize),
    /// All calls together took what memory there is.
    #[error("the module has no memory left for it now")]
    Full,
    /// It answered too much.
    #[error("its answer is longer than its {} KiB", .0 / 1024)]
    Output(usize),
    /// The function's own word that the request is bad.
    #[error("{0}")]
    Refused(String),
    /// It ended by a trap, an exit code other than 0, or an exception; the text says where.
    #[error("it failed: {0}")]
    Failed(String),
    /// The module is being stopped.
    #[error("the module is being stopped")]
    Stopped,
}

/// Code that is ready to be called; clones share it.
#[derive(Clone)]
pub(crate) struct Guest(Arc<GuestInner>);

struct GuestInner {
    kind: Kind,
    code: Code,
    /// What one call of it takes of the pool, in places.
    places: u32,
}

/// What a guest runs.
enum Code {
    Echo,
    Function(FunctionPre<Scene>),
    Http(ProxyPre<Scene>),
    Command(CommandPre<Scene>),
    WasiP1(InstancePre<Script>),
    StateStore(StateStoreExportsPre<Scene>),
    Text(text::Text),
}

/// The host; clones share it.
#[derive(Clone)]
pub(crate) struct Host(Arc<HostInner>);

struct HostInner {
    options: HostOptions,
    engine: Engine,
    /// What components may import.
    components: component::Linker<Scene>,
    /// What preview 1 modules may import.
    modules: wasmtime::Linker<Script>,
    /// Their names, as `module/name`.
    preview1: HashSet<String>,
    cache: Cache,
    /// Held while something is compiled: one at a time.
    compiling: Mutex<()>,
    /// What of it is done.
    counter: Arc<Counter>,
    clock: Clock,
    workers: Workers,
    interpreters: text::Interpreters,
    /// Permits for calls that run, one for most of them; closed when the host stops.
    places: Arc<Semaphore>,
    /// The same for instances that outlive a call and for texts being checked.
    spare: Arc<Semaphore>,
    /// Calls that wait for a permit: at most `options.queue`, one more is refused.
    waiting: AtomicUsize,
}

/// A call that waits.
struct Waiting<'a>(&'a AtomicUsize);

// === impl Answer ===

impl Default for Answer {
    fn default() -> Self {
        Self {
            status: http::StatusCode::OK,
            headers: http::HeaderMap::new(),
            content_type: String::new(),
            body: Bytes::new(),
            took: Duration::ZERO,
        }
    }
}

impl Answer {
    /// All that it has besides its body; it may not be longer than the body may.
    fn head_bytes(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len());
        headers.sum::<usize>() + self.content_type.len()
    }
}

// === impl Cause ===

impl Cause {
    /// Lets an event go on where this one came from: its stamps and its trace.
    pub(crate) fn lead_to(&self, event: &mut Envelope) {
        event.stamps = Some(self.stamps.follow(self.received_at));
        event.traceparent.clone_from(&self.traceparent);
    }
}

// === impl Kind ===

impl Kind {
    /// The extension of its file.
    pub(crate) fn extension(self) -> &'static str {
        match self {
            Self::Python => "py",
            Self::JavaScript => "js",
            _ => "wasm",
        }
    }
}

// === impl Guest ===

impl Guest {
    /// What is always there.
    pub(crate) fn echo() -> Self {
        Self::new(Kind::Echo, Code::Echo)
    }

    fn new(kind: Kind, code: Code) -> Self {
        let places = code.places();
        Self(Arc::new(GuestInner { kind, code, places }))
    }

    /// What it is.
    pub(crate) fn kind(&self) -> Kind {
        self.0.kind
    }
}

impl fmt::Debug for Guest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Guest").field("kind", &self.kind()).finish_non_exhaustive()
    }
}

// === impl Code ===

impl Code {
    /// Memories and tables of the pool that an instance takes, in places: see [`engine`].
    fn places(&self) -> u32 {
        let required = match self {
            Self::Echo => return 1,
            Self::WasiP1(module) => Some(module.module().resources_required()),
            Self::Function(code) => code.instance_pre().component().resources_required(),
            Self::Http(code) => code.instance_pre().component().resources_required(),
            Self::Command(code) => code.instance_pre().component().resources_required(),
            Self::StateStore(code) => code.instance_pre().component().resources_required(),
            Self::Text(text) => text.component().resources_required(),
        };
        // What is unknown takes as much as a component may.
        required.map_or(engine::MEMORIES, |required| {
            required.num_memories.max(required.num_tables.div_ceil(engine::TABLES_PER_PLACE)).max(1)
        })
    }
}

// === impl Host ===

impl Host {
    /// Sets up engine, pool, clock and threads.
    pub(crate) fn new(mut options: HostOptions) -> anyhow::Result<Self> {
        options.calls = options.calls.clamp(1, engine::MOST_CALLS);
        let counter = Counter::new();
        let engine = engine::engine(&options, Arc::clone(&counter)).map_err(anyhow::Error::from);
        let engine = engine.context("no WebAssembly engine")?;
        let unfit = "the imports of functions do not fit";
        let components = linker(&engine).map_err(anyhow::Error::from).context(unfit)?;
        let modules = program::linker(&engine).map_err(anyhow::Error::from).context(unfit)?;
        let preview1 = program::names(&engine, &modules);
        let cache = Cache::open(&options.compiled, &engine);
        let clock = Clock::begin(&engine, options.workers).context("no thread for the clock of functions")?;
        let workers = Workers::begin(options.workers).context("no threads for functions")?;
        let host = Self(Arc::new(HostInner {
            engine,
            components,
            modules,
            preview1,
            cache,
            compiling: Mutex::new(()),
            counter,
            interpreters: text::Interpreters::new(options.interpreters.clone()),
            clock,
            workers,
            places: Arc::new(Semaphore::new(options.calls)),
            spare: Arc::new(Semaphore::new(engine::SPARE)),
            waiting: AtomicUsize::new(0),
            options,
        }));
        host.load_interpreters().context("no thread to load the interpreters")?;
        Ok(host)
    }

    /// What the bytes are, without compiling them; `extension` (`py`, `js`, `wasm` or nothing) tells the language of a
    /// text. Quick.
    pub(crate) fn inspect(&self, bytes: &[u8], extension: Option<&str>) -> Result<Kind, Refusal> {
        inspect::kind(bytes, extension, &self.0.preview1)
    }

    /// Makes the bytes ready to be called: compiles them, or takes what was compiled before from the cache by `digest`
    /// (hex sha256 of the bytes). Heavy: call it on a thread for heavy work. One compilation goes on at a time.
    pub(crate) fn prepare(
        &self,
        bytes: &Bytes,
        digest: &str,
        kind: Kind,
        progress: &dyn Fn(Progress),
    ) -> Result<Guest, Refusal> {
        match kind {
            Kind::Echo => Ok(Guest::echo()),
            Kind::Python | Kind::JavaScript => self.prepare_text(bytes, digest, kind),
            _ => prepare::prepare(&self.0, bytes, digest, kind, progress),
        }
    }

    /// Forgets what was compiled of the bytes with this digest (hex sha256): no function is made of them any more.
    pub(crate) fn forget(&self, digest: &str) {
        self.0.cache.remove(digest);
    }

    /// Calls it in a fresh instance on a thread of the host. Where all places are taken it waits for one, at most as
    /// long as it may run; from its begin it takes at the latest 50 ms longer than `limits.time_ms`. Dropping this ends
    /// the call.
    pub(crate) async fn call(
        &self,
        guest: &Guest,
        request: Request,
        limits: Limits,
        reach: Reach,
    ) -> Result<Answer, CallError> {
        if guest.kind() == Kind::Echo {
            return if self.0.places.is_closed() { Err(CallError::Stopped) } else { Ok(call::echo(request)) };
        }
        let place = self.place(guest, limits).await?;
        let (host, guest) = (Arc::clone(&self.0), guest.clone());
        let work = self.0.workers.run(async move {
            // The place is free again when the instance is, which is on this thread, where the call is dropped too.
            let _place = place;
            let _ticking = host.clock.ticking();
            call::call(&host.engine, &guest, request, limits, reach.for_call()).await
        });
        match work {
            Some(work) => work.done().await.unwrap_or_else(|lost| match lost {
                Lost::Ended => Err(CallError::Stopped),
                Lost::Panicked => Err(CallError::Failed("the host failed".to_owned())),
            }),
            None => Err(CallError::Stopped),
        }
    }

    /// A place to run in.
    async fn place(&self, guest: &Guest, limits: Limits) -> Result<OwnedSemaphorePermit, CallError> {
        let places = || Arc::clone(&self.0.places);
        // One that takes more than there are has all of them.
        let wanted = guest.0.places.min(u32::try_from(self.0.options.calls).unwrap_or(u32::MAX));
        match places().try_acquire_many_owned(wanted) {
            Ok(place) => return Ok(place),
            Err(TryAcquireError::Closed) => return Err(CallError::Stopped),
            Err(TryAcquireError::NoPermits) => {}
        }
        let _waiting = Waiting::begin(&self.0.waiting, self.0.options.queue).ok_or(CallError::Busy)?;
        let longest = Duration::from_millis(u64::from(limits.time_ms));
        match tokio::time::timeout(longest, places().acquire_many_owned(wanted)).await {
            Ok(place) => place.map_err(|_: AcquireError| CallError::Stopped),
            Err(_) => Err(CallError::Busy),
        }
    }

    /// Takes no more calls: those that wait and those that come are [`CallError::Stopped`]; those that run go on to
    /// their end or limit.
    pub(crate) fn stop(&self) {
        self.0.places.close();
    }

    /// Ends the calls that still run: they are [`CallError::Stopped`]. Call [`Host::stop`] first and let those that run
    /// go on as long as the module may take for stopping.
    pub(crate) fn end(&self) {
        self.stop();
        self.0.workers.end();
    }

    /// Removes what was compiled of bytes whose digest (hex sha256) is not among these.
    pub(crate) fn keep_only(&self, named: &dyn Fn(&str) -> bool) {
        self.0.cache.keep_only(named);
    }

    /// Places that are taken by calls, and calls that wait.
    pub(crate) fn in_flight(&self) -> usize {
        let running = self.0.options.calls.saturating_sub(self.0.places.available_permits());
        running.saturating_add(self.0.waiting.load(Ordering::SeqCst))
    }
}

/// All that a component may import.
fn linker(engine: &Engine) -> wasmtime::Result<component::Linker<Scene>> {
    let mut linker = component::Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    crate::reach::add_to_linker(&mut linker)?;
    Ok(linker)
}

// === impl Waiting ===

impl<'a> Waiting<'a> {
    fn begin(waiting: &'a AtomicUsize, most: usize) -> Option<Self> {
        let before = waiting.fetch_add(1, Ordering::SeqCst);
        let begun = Self(waiting);
        (before < most).then_some(begun)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
