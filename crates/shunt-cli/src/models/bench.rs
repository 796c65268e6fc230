//! Every model on every back end, side by side.

use std::process::ExitCode;

use serde_json::json;
use shunt_infer::{Backends, ModelStore, Preference};

use crate::{
    bench::{Contestant, Order, What, median},
    output,
};

/// The back ends that there can be.
const BACKENDS: [Preference; 3] = [Preference::Onnxruntime, Preference::Litert, Preference::Tract];

/// Runs a round.
const ROUND: u32 = 500;

/// One model on one back end.
struct Line {
    model: String,
    backend: Preference,
    /// What was found, or why it does not run there.
    outcome: Result<Found, String>,
}

struct Found {
    version: String,
    median_ms: f64,
    load_ms: f64,
    memory_mb: Option<f64>,
    golden: Option<Result<f32, String>>,
}

/// Measures each model in a process of its own.
pub(super) async fn bench(
    store: &ModelStore,
    only: &[String],
    runs: u32,
    json: bool,
) -> anyhow::Result<ExitCode> {
    for model in only {
        store.entry(model)?;
    }
    let backends = Backends::installed();
    for missing in backends.missing() {
        output::complain(format_args!("{} is not measured: {}", missing.name, missing.why));
    }
    let here = |name: &String| only.contains(name) || (only.is_empty() && store.find(name).is_ok());
    let models: Vec<&String> = store.catalog().models.keys().filter(|name| here(name)).collect();
    let mut lines = Vec::new();
    for model in models {
        for backend in BACKENDS {
            let installed = |found: &std::sync::Arc<dyn shunt_infer::Backend>| {
                Some(found.name()) == backend.name()
                    && store.entry(model).is_ok_and(|entry| found.takes(entry.format))
            };
            if backends.found().iter().any(installed) {
                output::complain(format_args!("measuring {model} on {backend}"));
                let order = Order { what: What::Model(model.clone()), backend };
                let outcome = measure(&order, runs).await.map_err(|error| format!("{error:#}"));
                lines.push(Line { model: model.clone(), backend, outcome });
            }
        }
    }
    if json {
        output::line(json!(lines.iter().map(Line::to_json).collect::<Vec<_>>()))?;
    } else {
        let rows: Vec<Vec<String>> = lines.iter().map(Line::to_row).collect();
        let head = ["model", "back end", "median ms", "load ms", "memory MiB", "golden answer"];
        output::line(output::table(&head, &rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn measure(order: &Order, runs: u32) -> anyhow::Result<Found> {
    let mut contestant = Contestant::ours(order, None).await?;
    let mut times = Vec::new();
    let mut failure = None;
    // In rounds, each with a limit of its own.
    while times.len() < runs as usize && failure.is_none() {
        match contestant.run((runs - times.len() as u32).min(ROUND)).await {
            Ok(more) => times.extend(more),
            Err(error) => failure = Some(error),
        }
    }
    let ready = contestant.ready.clone();
    contestant.end().await;
    if let Some(error) = failure {
        return Err(error);
    }
    Ok(Found {
        version: ready.version,
        median_ms: median(&times),
        load_ms: ready.load_ms,
        memory_mb: ready.memory_mb,
        golden: ready.golden,
    })
}

// === impl Line ===

impl Line {
    fn to_json(&self) -> serde_json::Value {
        match &self.outcome {
            Ok(found) => json!({
                "model": self.model,
                "backend": self.backend,
                "version": found.version,
                "median_ms": found.median_ms,
                "load_ms": found.load_ms,
                "memory_mb": found.memory_mb,
                "golden_difference": found.golden.as_ref().and_then(|golden| golden.as_ref().ok()),
                "golden_problem": found.golden.as_ref().and_then(|golden| golden.as_ref().err()),
            }),
            Err(error) => json!({"model": self.model, "backend": self.backend, "error": error}),
        }
    }

    fn to_row(&self) -> Vec<String> {
        let mut row = vec![self.model.clone()];
        match &self.outcome {
            Ok(found) => row.extend([
                found.version.clone(),
                format!("{:.2}", found.median_ms),
                format!("{:.0}", found.load_ms),
                found.memory_mb.map_or("-".to_owned(), |memory| format!("{memory:.0}")),
                match &found.golden {
                    None => "none".to_owned(),
                    Some(Ok(difference)) => format!("within {difference:.5}"),
                    Some(Err(problem)) => problem.clone(),
                },
            ]),
            Err(error) => {
                row.extend([self.backend.to_string(), "-".to_owned(), "-".to_owned(), "-".to_owned()]);
                row.push(error.clone());
            }
        }
        row
    }
}
