//! Functions: installed, listed, replaced and removed while the module runs, sandboxed, in microseconds.
//!
//! It promises:
//!
//! - Each call gets a fresh instance, its time, its memory and the size of its answer; past one of them it ends, and the
//!   other functions do not notice (law 9).
//! - A function reaches what it was granted, and nothing by default.
//! - What an install answered is on disk and is called: a kill at any moment leaves the old function or the new one.
//!   Replacing a function loses no call in flight.
//! - Guests run on threads of their own (law 6); bodies, queues, files and logs are bounded (law 4).
//! - `echo` is always there.
//!
//! It deliberately gives a function no files, no sockets and no memory of the call before: what must stay goes into its
//! bucket of state.
//!
//! ```
//! use functions::FunctionsSettings;
//! use shunt_module::Settings;
//!
//! assert_eq!(FunctionsSettings::MODULE, "functions");
//! assert_eq!(FunctionsSettings::default().memory_mb, 64);
//! ```

mod api;
mod grants;
mod host;
mod library;
mod name;
mod reach;
mod settings;
mod tally;
mod triggers;

use std::{num::NonZeroUsize, pin::Pin, sync::Arc, thread};

use anyhow::Context as _;
use shunt_module::Context;

use crate::{
    api::Api,
    host::{Host, HostOptions},
    library::{Library, Parts, Shelf},
    tally::Tally,
    triggers::Triggers,
};
pub use crate::{
    grants::Grants,
    host::text::Prepared,
    name::{FunctionName, FunctionNameError},
    settings::{FunctionSettings, FunctionsSettings, Installs},
};

/// Calls that run at a time, besides those that wait: each has an instance from the pool.
const CALLS: usize = 64;

/// Runs the module until shutdown.
pub async fn run(mut context: Context<FunctionsSettings>) -> anyhow::Result<()> {
    let (tally, trigger_tally) = (Tally::new()?, triggers::Tally::new()?);
    tally.register(&context.metrics)?;
    for collector in trigger_tally.collectors() {
        context.metrics.register(collector)?;
    }
    let settings = context.settings.current();
    let shelf = Shelf::open(&context.common.data_dir).context("the folder of functions cannot be used")?;
    let interpreters = context.common.interpreters_dir.clone();
    let host =
        Host::new(host_options(&settings, &shelf, interpreters)).context("the host cannot be set up")?;
    let parts = Parts {
        host,
        shelf,
        tally: tally.clone(),
        health: context.health.clone(),
        facts: context.facts.clone(),
        tasks: context.tasks.clone(),
    };
    let library = Library::open(parts, settings).await?;
    let listens = context.listener.local_addr().context("the listener has no address")?;
    context.serve(api::routes(&Api::new(library.clone(), tally, listens)));
    let mut triggers = {
        let (calling, granting) = (library.clone(), library.clone());
        let call = Arc::new(move |name, request| -> Pin<Box<dyn Future<Output = _> + Send>> {
            let library = calling.clone();
            Box::pin(async move { library.call_by_name(&name, request).await })
        });
        let granted = Arc::new(move |name: &FunctionName| {
            granting.get(name.as_str()).map(|function| function.grants.clone())
        });
        Triggers::new(&context, trigger_tally, call, granted)
    };
    triggers.set(&library.settings().triggers());
    let preparing = {
        let library = library.clone();
        let shutdown = context.shutdown.clone();
        context.tasks.spawn(async move { shutdown.run_until_cancelled(library.prepare_all()).await })
    };
    loop {
        tokio::select! {
            () = context.shutdown.cancelled() => break,
            change = context.settings.change() => {
                library.apply(Arc::clone(&change.settings)).await;
                triggers.set(&change.settings.triggers());
                change.accept();
            }
        }
    }
    // Held until the end, so that the broker keeps what comes meanwhile.
    let subscriptions = triggers.end().await;
    preparing.await.context("the functions were not prepared to the end")?;
    library.stop(context.common.drain_limit / 2).await;
    drop(subscriptions);
    Ok(())
}

fn host_options(
    settings: &FunctionsSettings,
    shelf: &Shelf,
    interpreters: std::path::PathBuf,
) -> HostOptions {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    HostOptions {
        workers: if settings.workers == 0 { cores } else { settings.workers as usize },
        calls: CALLS,
        queue: settings.queue as usize,
        memory_bytes: settings.most_memory(),
        compiled: shelf.compiled(),
        interpreters,
    }
}

/// The table of the module's metrics, in Markdown, for the reference.
pub fn metrics_table() -> anyhow::Result<String> {
    let own = Tally::new()?.collectors();
    let collectors: Vec<_> = own.into_iter().chain(triggers::Tally::new()?.collectors()).collect();
    let collectors: Vec<_> = collectors.iter().map(AsRef::as_ref).collect();
    Ok(shunt_module::docs::metrics_table(&collectors))
}

/// Compiles the interpreters of text functions in a folder, for engines of this program's settings and version. What
/// is there already is left alone; what was made for other engines is removed.
///
/// # Errors
/// Where an interpreter is missing or cannot be compiled, or the folder cannot be written.
pub fn compile_interpreters(folder: &std::path::Path) -> anyhow::Result<Vec<Prepared>> {
    host::text::compile_ahead(folder)
}
