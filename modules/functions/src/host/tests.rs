//! The host against guests that do what no function should.

use std::{cell::RefCell, fmt::Write as _, time::Instant};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::*;

mod fuzz;
mod imports;
mod input;
mod kinds;
mod lasting;
mod limits;
mod speed;

const UNRULY: &[u8] = include_bytes!("../../tests/guests/builds/unruly.wasm");
const UNRULY_HTTP: &[u8] = include_bytes!("../../tests/guests/builds/unruly-http.wasm");
const UNRULY_PROGRAM: &[u8] = include_bytes!("../../tests/guests/builds/unruly-program.wasm");
const UNRULY_COMMAND: &[u8] = include_bytes!("../../tests/guests/builds/unruly-command.wasm");

const MIB: usize = 1 << 20;

/// What most tests give a call.
const LIMITS: Limits = Limits { time_ms: 5000, memory_bytes: 32 * MIB, output_bytes: MIB };

/// What tests of the time limit give a call.
const SHORT: Limits = Limits { time_ms: 100, ..LIMITS };

/// How long after its limit a test waits for a call before it says that it does not end. Not the 50 ms that are
/// promised: the machine of a test may be busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// A host with a folder of its own.
struct Yard {
    host: Host,
    folder: TempDir,
}

// === impl Yard ===

impl Yard {
    fn new() -> Self {
        Self::with(2, 8, 8)
    }

    fn with(workers: usize, calls: usize, queue: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = Self::host_in(&folder, workers, calls, queue);
        Self { host, folder }
    }

    fn host_in(folder: &TempDir, workers: usize, calls: usize, queue: usize) -> Host {
        Host::new(HostOptions {
            workers,
            calls,
            queue,
            memory_bytes: 64 * MIB,
            compiled: folder.path().join("compiled"),
            interpreters: folder.path().join("interpreters"),
        })
        .unwrap()
    }

    /// What it is, ready to be called.
    fn install(&self, bytes: &[u8]) -> Result<Guest, Refusal> {
        let kind = self.host.inspect(bytes, None)?;
        self.host.prepare(&Bytes::copy_from_slice(bytes), &digest(bytes), kind, &|_| {})
    }

    fn install_text(&self, text: &str) -> Result<Guest, Refusal> {
        self.install(&wat::parse_str(text).unwrap())
    }

    /// Calls it with this body and waits for the answer, which must come.
    async fn call(&self, guest: &Guest, body: impl Into<Bytes>, limits: Limits) -> Result<Answer, CallError> {
        self.send(guest, Request { body: body.into(), ..request() }, limits).await
    }

    async fn send(&self, guest: &Guest, request: Request, limits: Limits) -> Result<Answer, CallError> {
        let longest = Duration::from_millis(limits.time_ms.into()) * 2 + PATIENCE;
        let call = self.host.call(guest, request, limits, Reach::nothing());
        tokio::time::timeout(longest, call).await.expect("the call ends")
    }

    /// The host still does what it is for.
    async fn lives(&self, unruly: &Guest) {
        let answer = self.call(unruly, "still there?", LIMITS).await.unwrap();
        assert_eq!(answer.body, "still there?");
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn request() -> Request {
    Request {
        name: "tested".to_owned(),
        source: "http".to_owned(),
        method: http::Method::POST,
        path: String::new(),
        query: String::new(),
        headers: http::HeaderMap::new(),
        content_type: "text/plain".to_owned(),
        body: Bytes::new(),
        cause: None,
    }
}

fn failure(answer: Result<Answer, CallError>) -> String {
    match answer {
        Err(CallError::Failed(text)) => text,
        other => panic!("it should have failed: {other:?}"),
    }
}
