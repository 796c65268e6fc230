//! Programs: standard input to standard output, as WASI preview 1 modules and as `wasi:cli/run` components.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use parking_lot::Mutex;
use std::{
    collections::HashSet,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};
use tokio::io::AsyncWrite;
use wasmtime::{Engine, InstancePre, Linker, Store};
use wasmtime_wasi::{
    I32Exit, WasiCtxBuilder, WasiView, async_trait,
    cli::{IsTerminal, StdoutStream},
    p1::{self, WasiP1Ctx},
    p2::{OutputStream, Pollable, StreamError, StreamResult, bindings::CommandPre, pipe::MemoryInputPipe},
};

use super::{
    Answer, CallError, Request,
    call::within,
    context::{self, Scene, Stage},
    limits::Limiter,
    log::LogLines,
};
use crate::{grants::Limits, reach::Reach};

/// `notsock` of preview 1.
const NOT_A_SOCKET: i32 = 57;

/// What the store of a preview 1 module holds.
pub(super) struct Script {
    wasi: WasiP1Ctx,
    limiter: Limiter,
    deadline: Instant,
}

/// What a program wrote to its standard output, to a limit.
#[derive(Debug, Clone)]
struct Output(Arc<Mutex<Written>>);

#[derive(Debug)]
struct Written {
    bytes: BytesMut,
    longest: usize,
}

/// The guest answered more than it may.
#[derive(Debug, thiserror::Error)]
#[error("its answer is too long")]
pub(super) struct TooLong;

/// Both ends of a program.
struct Streams {
    output: Output,
    log: LogLines,
}

/// What a preview 1 module may import.
pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<Script>> {
    let mut linker = Linker::new(engine);
    p1::add_to_linker_async(&mut linker, |script: &mut Script| &mut script.wasi)?;
    no_sockets(&mut linker)?;
    Ok(linker)
}

/// Calls about sockets answer that the handle is none. WASI's own do too, and each writes a warning to the module's log.
fn no_sockets(linker: &mut Linker<Script>) -> wasmtime::Result<()> {
    const MODULE: &str = "wasi_snapshot_preview1";
    linker.allow_shadowing(true);
    linker.func_wrap(MODULE, "sock_accept", |_: i32, _: i32, _: i32| NOT_A_SOCKET)?;
    linker.func_wrap(MODULE, "sock_recv", |_: i32, _: i32, _: i32, _: i32, _: i32, _: i32| NOT_A_SOCKET)?;
    linker.func_wrap(MODULE, "sock_send", |_: i32, _: i32, _: i32, _: i32, _: i32| NOT_A_SOCKET)?;
    linker.func_wrap(MODULE, "sock_shutdown", |_: i32, _: i32| NOT_A_SOCKET)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// The names of all that preview 1 has, as `module/name`.
pub(super) fn names(engine: &Engine, linker: &Linker<Script>) -> HashSet<String> {
    linker.iter(&mut empty_store(engine)).map(|(module, name, _)| format!("{module}/{name}")).collect()
}

/// A store in which nothing can run.
pub(super) fn empty_store(engine: &Engine) -> Store<Script> {
    let limits = Limits { time_ms: 0, memory_bytes: 0, output_bytes: 0 };
    context::store(engine, Script::new(context::wasi(), limits), limits)
}

/// Calls a preview 1 module.
pub(super) async fn call_module(
    engine: &Engine,
    module: &InstancePre<Script>,
    request: Request,
    limits: Limits,
    reach: &Reach,
) -> Result<Answer, CallError> {
    let (wasi, streams) = streams(request, limits, reach);
    let mut store = context::store(engine, Script::new(wasi, limits), limits);
    let ended = within(&mut store, limits, async |store| {
        let instance = module.instantiate_async(&mut *store).await?;
        let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
        exit_code(start.call_async(store, ()).await)
    })
    .await?;
    streams.answer(ended)
}

/// Calls a `wasi:cli/run` component.
pub(super) async fn call_command(
    engine: &Engine,
    command: &CommandPre<Scene>,
    mut request: Request,
    limits: Limits,
    reach: Reach,
) -> Result<Answer, CallError> {
    let cause = request.cause.take();
    let (mut wasi, streams) = streams(request, limits, &reach);
    let mut scene = Scene::new(wasi.build(), reach, limits);
    scene.cause = cause;
    let mut store = context::store(engine, scene, limits);
    let ended = within(&mut store, limits, async |store| {
        let instance = command.instantiate_async(&mut *store).await?;
        let ran = instance.wasi_cli_run().call_run(store).await;
        exit_code(ran.map(|ran| if ran.is_ok() { 0 } else { 1 }))
    })
    .await?;
    streams.answer(ended)
}

/// How a program ended that may have ended itself.
fn exit_code(ended: wasmtime::Result<impl ExitCode>) -> wasmtime::Result<i32> {
    match ended {
        Ok(code) => Ok(code.exit_code()),
        Err(error) => match error.downcast_ref::<I32Exit>() {
            Some(&I32Exit(code)) => Ok(code),
            None => Err(error),
        },
    }
}

trait ExitCode {
    fn exit_code(self) -> i32;
}

impl ExitCode for () {
    fn exit_code(self) -> i32 {
        0
    }
}

impl ExitCode for i32 {
    fn exit_code(self) -> i32 {
        self
    }
}

/// What a program sees: its name, the request's head in its environment, the body at its standard input.
fn streams(request: Request, limits: Limits, reach: &Reach) -> (WasiCtxBuilder, Streams) {
    let output = Output::new(limits.output_bytes);
    let log = LogLines::new(reach);
    let mut wasi = context::wasi();
    for (name, value) in environment(&request) {
        wasi.env(name, value);
    }
    wasi.arg(request.name)
        .stdin(MemoryInputPipe::new(request.body))
        .stdout(output.clone())
        .stderr(log.clone());
    (wasi, Streams { output, log })
}

/// The request's head, as the classic watchdog of OpenFaaS gives it to a process.
fn environment(request: &Request) -> Vec<(String, String)> {
    let mut environment = vec![
        ("Http_Method".to_owned(), request.method.to_string()),
        ("Http_Path".to_owned(), request.path.clone()),
        ("Http_Query".to_owned(), request.query.clone()),
        ("Http_ContentLength".to_owned(), request.body.len().to_string()),
    ];
    if !request.content_type.is_empty() {
        environment.push(("Http_ContentType".to_owned(), request.content_type.clone()));
    }
    environment.extend(headers(&request.headers));
    environment
}

/// `x-request-id: 7` as `Http_X_Request_Id=7`; of a header that comes more than once the first, as there.
fn headers(headers: &HeaderMap) -> impl Iterator<Item = (String, String)> {
    headers.keys().filter_map(|name| {
        let value = headers.get(name)?.to_str().ok()?;
        let words: Vec<_> = name.as_str().split('-').map(capitalised).collect();
        Some((format!("Http_{}", words.join("_")), value.to_owned()))
    })
}

fn capitalised(word: &str) -> String {
    let mut signs = word.chars();
    signs.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(signs).collect()
}

// === impl Script ===

impl Script {
    fn new(mut wasi: WasiCtxBuilder, limits: Limits) -> Self {
        let mut wasi = wasi.build_p1();
        context::bounded(wasi.ctx().table);
        Self { wasi, limiter: Limiter::new(limits), deadline: context::deadline(limits) }
    }
}

impl Stage for Script {
    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn limiter(&mut self) -> &mut Limiter {
        &mut self.limiter
    }
}

// === impl Streams ===

impl Streams {
    /// What it wrote, where it ended well.
    fn answer(self, exit_code: i32) -> Result<Answer, CallError> {
        if exit_code == 0 {
            return Ok(Answer { body: self.output.taken(), ..Answer::default() });
        }
        let last = self.log.last();
        let said = if last.is_empty() { String::new() } else { format!(": {last}") };
        Err(CallError::Failed(format!("it ended with exit code {exit_code}{said}")))
    }
}

// === impl Output ===

impl Output {
    fn new(longest: usize) -> Self {
        Self(Arc::new(Mutex::new(Written { bytes: BytesMut::new(), longest })))
    }

    fn taken(&self) -> Bytes {
        std::mem::take(&mut self.0.lock().bytes).freeze()
    }

    fn take(&self, bytes: &[u8]) -> Result<(), TooLong> {
        let mut written = self.0.lock();
        if bytes.len() > written.longest.saturating_sub(written.bytes.len()) {
            return Err(TooLong);
        }
        written.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes).map_err(|error| StreamError::Trap(error.into()))
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        // One byte past the limit is taken and refused, so that a guest that writes too much ends at once.
        let written = self.0.lock();
        Ok((written.longest - written.bytes.len()).saturating_add(1).min(64 << 10))
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(self.take(bytes).map(|()| bytes.len()).map_err(std::io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
