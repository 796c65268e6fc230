//! The WebAssembly host: looks at a file, compiles it, and calls it, each call in an instance of its own.
//!
//! It knows no names, no routes and no settings: what a call may reach is the [`Reach`] it is given.

mod world;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use shunt_wire::{Envelope, Mono, Stamps};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
}

/// The host; clones share it.
#[derive(Clone)]
pub(crate) struct Host(Arc<HostInner>);

struct HostInner {
    options: HostOptions,
}

// === impl Cause ===

impl Cause {
    /// Lets an event go on where this one came from: its stamps and its trace.
    pub(crate) fn lead_to(&self, event: &mut Envelope) {
        event.stamps = Some(self.stamps.follow(self.received_at));
        event.traceparent.clone_from(&self.traceparent);
    }
}

// === impl Guest ===

impl Guest {
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

// === impl Host ===

impl Host {
    /// Sets up engine, pool, clock and threads.
    pub(crate) fn new(options: HostOptions) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(HostInner { options })))
    }

    /// What the bytes are, without compiling them; `extension` (`py`, `js`, `wasm` or nothing) tells the language of a
    /// text. Quick.
    pub(crate) fn inspect(&self, _bytes: &[u8], _extension: Option<&str>) -> Result<Kind, Refusal> {
        Err(Refusal::Exports)
    }

    /// Makes the bytes ready to be called: compiles them, or takes what was compiled before from the cache by `digest`
    /// (hex sha256 of the bytes). Heavy: call it on a thread for heavy work. One compilation goes on at a time.
    pub(crate) fn prepare(
        &self,
        _bytes: &Bytes,
        _digest: &str,
        _kind: Kind,
        _progress: &dyn Fn(Progress),
    ) -> Result<Guest, Refusal> {
        Err(Refusal::Exports)
    }

    /// Calls it in a fresh instance on a thread of the host. The answer comes at the latest 50 ms after `limits.time`.
    pub(crate) async fn call(
        &self,
        _guest: &Guest,
        _request: Request,
        _limits: Limits,
        _reach: Reach,
    ) -> Result<Answer, CallError> {
        Err(CallError::Stopped)
    }
}
