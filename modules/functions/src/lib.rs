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
mod buckets;
mod dapr_wasm;
mod fetch;
mod grants;
mod host;
mod library;
mod name;
mod reach;
mod settings;
mod tally;
mod triggers;

use std::{pin::Pin, sync::Arc};

use anyhow::Context as _;
use serde_json::json;
use shunt_module::{Context, Problems};

use crate::{
    api::Api,
    dapr_wasm::Ledger,
    fetch::Fetcher,
    library::{Library, Parts, Shelf},
    reach::{ReachOptions, Reaches},
    tally::Tally,
    triggers::Triggers,
};
pub use crate::{
    grants::Grants,
    host::text::Prepared,
    name::{FunctionName, FunctionNameError},
    settings::{FunctionSettings, FunctionsSettings, Installs},
};

/// Runs the module until shutdown.
pub async fn run(mut context: Context<FunctionsSettings>) -> anyhow::Result<()> {
    let (tally, trigger_tally) = (Tally::new()?, triggers::Tally::new()?);
    tally.register(&context.metrics)?;
    for collector in trigger_tally.collectors() {
        context.metrics.register(collector)?;
    }
    let settings = context.settings.current();
    let shelf = Shelf::open(&context.common.data_dir).context("the folder of functions cannot be used")?;
    let reaches = Reaches::new(
        context.bus.clone(),
        context.events.clone(),
        context.health.clone(),
        context.common.data_dir.join("functions").join("state.redb"),
        context.common.models_dir.clone(),
        ReachOptions::of(&settings),
    );
    let ledger = Ledger::new(reaches.buckets());
    let parts = Parts {
        reaches,
        shelf,
        interpreters: context.common.interpreters_dir.clone(),
        tally: tally.clone(),
        health: context.health.clone(),
        facts: context.facts.clone(),
        tasks: context.tasks.clone(),
        shutdown: context.shutdown.clone(),
    };
    let library = Library::open(parts, settings).await?;
    let listens = context.listener.local_addr().context("the listener has no address")?;
    let (fetcher, shutdown) = (Fetcher::default(), context.shutdown.clone());
    let listing = library.clone();
    context.methods.on("list", move |_| {
        let list: Vec<_> = listing.list().iter().map(|function| function.describe()).collect();
        async move { (200, list.into()) }
    })?;
    let mut reloads = context.methods.queue("reload")?;
    let api = Api::new(library.clone(), tally, fetcher.clone(), listens);
    let routes = api::routes(&api).merge(dapr_wasm::routes(&api, ledger.clone()));
    context.serve(dapr_wasm::before(routes, &api, ledger));
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
    let until_stopped = |work: Pin<Box<dyn Future<Output = ()> + Send>>| {
        let shutdown = shutdown.clone();
        context.tasks.spawn(async move { shutdown.run_until_cancelled(work).await })
    };
    library.begin_preparing();
    until_stopped(Box::pin({
        let (library, changes) = (library.clone(), library.twin_changes());
        async move { library.follow_twin(fetcher, changes).await }
    }));
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            call = reloads.next() => {
                library.try_twin_again();
                call.answer(200, json!({"message": "functions of the module twin that are missing are fetched again"}));
            }
            change = context.settings.change() => {
                let field = change.settings.field_of_host(&library.settings());
                match library.apply(Arc::clone(&change.settings)).await {
                    Ok(()) => {
                        triggers.set(&change.settings.triggers());
                        change.accept();
                    }
                    Err(error) => {
                        let mut problems = Problems::default();
                        problems.note(field, format!("the host cannot be set up so: {error:#}"));
                        change.refuse(problems);
                    }
                }
            }
        }
    }
    // Held until the end, so that the broker keeps what comes meanwhile.
    let subscriptions = triggers.end().await;
    library.stop(context.common.drain_limit / 4).await;
    drop(subscriptions);
    Ok(())
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
