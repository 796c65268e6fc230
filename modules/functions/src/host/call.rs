//! Calls: one of each kind, each in an instance and a store of its own.

use std::time::Instant;

use wasmtime::{Engine, PoolConcurrencyLimitError, Store, Trap, WasmBacktrace};
use wasmtime_wasi::WasiCtx;

use super::{
    Answer, CallError, Code, Guest, Request,
    account::plain,
    clock::TimeUp,
    context::{self, Scene, Stage},
    limits::OutOfBudget,
    log::LogLines,
    program::{self, TooLong},
    text, web,
    world::function::{FunctionPre, exports::shunt::functions::handler},
};
use crate::{grants::Limits, reach::Reach};

/// Calls it: what runs on a worker.
pub(super) async fn call(
    engine: &Engine,
    guest: &Guest,
    request: Request,
    limits: Limits,
    reach: Reach,
) -> Result<Answer, CallError> {
    let begun = Instant::now();
    let answered = match &guest.0.code {
        Code::Echo => Ok(echo(request)),
        Code::Function(function) => call_function(engine, function, request, limits, reach).await,
        Code::Http(proxy) => web::call(engine, proxy, request, limits, reach).await,
        Code::Command(command) => program::call_command(engine, command, request, limits, reach).await,
        Code::WasiP1(module) => program::call_module(engine, module, request, limits, &reach).await,
        Code::StateStore(_) => {
            Err(CallError::Refused("it is a state store: other functions' state goes through it".to_owned()))
        }
        Code::Text(text) => text::call(engine, text, request, limits, reach).await,
    };
    let mut answer = answered.map_err(CallError::shortened)?;
    if answer.body.len().max(answer.head_bytes()) > limits.output_bytes {
        return Err(CallError::Output(limits.output_bytes));
    }
    answer.took = begun.elapsed();
    Ok(answer)
}

/// Gives back what came.
pub(super) fn echo(request: Request) -> Answer {
    Answer { content_type: request.content_type, body: request.body, ..Answer::default() }
}

async fn call_function(
    engine: &Engine,
    function: &FunctionPre<Scene>,
    request: Request,
    limits: Limits,
    reach: Reach,
) -> Result<Answer, CallError> {
    let cause = request.cause;
    let request = handler::Request {
        name: request.name,
        source: request.source,
        query: request.query,
        content_type: request.content_type,
        body: request.body.into(),
    };
    let wasi = standard_streams_to_log(&reach);
    let mut scene = Scene::new(wasi, reach, limits);
    scene.cause = cause;
    let mut store = context::store(engine, scene, limits);
    let response = within(&mut store, limits, async |store| {
        let instance = function.instantiate_async(&mut *store).await?;
        instance.shunt_functions_handler().call_handle(store, &request).await
    })
    .await?
    .map_err(CallError::Refused)?;
    Ok(Answer { content_type: response.content_type, body: response.body.into(), ..Answer::default() })
}

/// WASI for components of our own contract: what they print becomes lines of the function's log.
pub(super) fn standard_streams_to_log(reach: &Reach) -> WasiCtx {
    context::wasi().stdout(LogLines::new(reach)).stderr(LogLines::new(reach)).build()
}

/// Does the work until it ends or the time of the store's scene is up, and says why it gave nothing.
pub(super) async fn within<S: Stage, T>(
    store: &mut Store<S>,
    limits: Limits,
    work: impl AsyncFnOnce(&mut Store<S>) -> wasmtime::Result<T>,
) -> Result<T, CallError> {
    let deadline = store.data().deadline();
    match tokio::time::timeout_at(deadline.into(), work(store)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(why(&error, store.data_mut(), limits).shortened()),
        Err(_) => Err(CallError::Time(limits.time_ms)),
    }
}

/// Why a guest ended without an answer.
fn why<S: Stage>(error: &wasmtime::Error, scene: &mut S, limits: Limits) -> CallError {
    if scene.limiter().refused_memory() {
        CallError::Memory(limits.memory_bytes)
    } else if error.is::<TimeUp>() {
        CallError::Time(limits.time_ms)
    } else if error.is::<TooLong>() {
        CallError::Output(limits.output_bytes)
    } else if error.is::<OutOfBudget>() {
        CallError::Full
    } else if error.is::<PoolConcurrencyLimitError>() {
        CallError::Busy
    } else {
        CallError::Failed(describe(error))
    }
}

/// The reason in words, with the innermost functions of the guest that were running.
fn describe(error: &wasmtime::Error) -> String {
    let reason = match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => "it recursed too deeply (its stack is full)".to_owned(),
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    let frames = error.downcast_ref::<WasmBacktrace>().map(WasmBacktrace::frames).unwrap_or_default();
    let names: Vec<_> = frames.iter().filter_map(|frame| frame.func_name()).take(3).map(plain).collect();
    if names.is_empty() { reason } else { format!("{reason}, in {}", names.join(", called by ")) }
}
