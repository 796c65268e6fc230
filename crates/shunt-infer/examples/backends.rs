//! How long each model takes on each back end that is here, and what it was chosen for.
//!
//! Usage: `cargo run -p shunt-infer --example backends [THREADS [MODEL...]]` (default: one thread, all models that are
//! there). To compare, keep it on one core: `taskset -c 0 target/debug/examples/backends`.

#![expect(clippy::print_stdout, reason = "it is a program that prints")]

use std::{num::NonZeroUsize, path::Path, sync::Arc};

use shunt_infer::{Backends, Model, ModelStore, Preference, RunOptions, measure};

/// Runs measured of each.
const RUNS: usize = 60;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().map_or(Ok(NonZeroUsize::MIN), |threads| threads.parse())?;
    let wanted: Vec<String> = arguments.collect();
    let options = RunOptions { threads, ..RunOptions::default() };
    let store = ModelStore::open(Path::new(&std::env::var("SHUNT_MODELS_DIR").unwrap_or("models".into())))?;
    let installed = Backends::installed();
    for missing in installed.missing() {
        println!("{} is not there: {}", missing.name, missing.why);
    }
    println!("{:<24} {:<24} {:>10} {:>8} {:>8} {:>8}", "model", "on", "median ms", "best", "p99", "MiB");
    for name in store.catalog().models.keys().filter(|name| wanted.is_empty() || wanted.contains(name)) {
        if store.find(name).is_err() {
            continue;
        }
        for backend in installed.found() {
            // By name, so that one with doubts about a file runs it too.
            let wish: Preference = backend.name().parse().map_err(anyhow::Error::msg)?;
            let backends = Backends::of(vec![Arc::clone(backend)]).prefer(wish);
            let Ok(model) = Model::load(&store, name, &backends.options(options)) else { continue };
            let timing = measure(&model, RUNS)?;
            let memory = model.memory().unwrap_or_default() as f64 / f64::from(1 << 20);
            let on = format!("{} ({})", backend.version(), model.describe().device);
            println!(
                "{name:<24} {on:<24} {:>10.2} {:>8.2} {:>8.2} {memory:>8.1}",
                timing.median_ms, timing.best_ms, timing.p99_ms
            );
        }
    }
    Ok(())
}
