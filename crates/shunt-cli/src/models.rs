//! `shunt models`: what models there are, where their files are, and how to come by them.

mod bench;
mod fetch;
mod import;
mod quantize;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use shunt_infer::{Backends, ExpressionReader, ModelError, ModelStore, SourceKind, expression_accuracy};
use shunt_wire::events::Expression;

use crate::{chain, output};

pub(crate) use fetch::run;
pub(crate) use quantize::environment;

/// List, fetch and check models.
#[derive(Debug, Args)]
pub(crate) struct Models {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// All models of the catalog, and whether their files are there.
    List,
    /// Where a model's file is, or why it cannot be used, and where it comes from.
    Where {
        /// The model.
        model: String,
    },
    /// Fetch models from where the catalog says, check their digests, put them into the models' folder.
    Fetch {
        /// The models.
        #[arg(required = true)]
        models: Vec<String>,
        /// Put them here [default: `SHUNT_MODELS_DIR`, else the repository's models].
        #[arg(long, value_name = "DIR")]
        into: Option<PathBuf>,
    },
    /// Make an int8 form of a float ONNX model, smaller and faster, with pictures that tell it the range of its numbers.
    Quantize {
        /// The float model.
        model: String,
        /// A folder of pictures of what it will see; for an expression model, faces from edge to edge [default: pictures
        /// of a pinned package].
        #[arg(long, value_name = "DIR")]
        calibration: Option<PathBuf>,
        /// Put it here [default: `SHUNT_MODELS_DIR`, else the repository's models].
        #[arg(long, value_name = "DIR")]
        into: Option<PathBuf>,
    },
    /// Take a model file in: a .tflite file is converted to ONNX and proven against LiteRT, an .onnx file is tried.
    Import(import::Import),
    /// Every model that is here on every back end that is installed, side by side, one thread: time of a run, memory,
    /// and how far its golden answer is off.
    Bench {
        /// Only these models.
        models: Vec<String>,
        /// Runs measured of each.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        runs: u32,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// How often an expression model is right on a folder of labelled faces (`happiness_0001.png`).
    Check {
        /// The folder.
        folder: PathBuf,
        /// The model [default: the catalog's].
        #[arg(long)]
        model: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

// === impl Models ===

impl Models {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let store = ModelStore::open(&chain::models_folder())?;
        match self.action {
            Action::List => list(&store)?,
            Action::Where { model } => return tell(&store, &model),
            Action::Fetch { models, into } => {
                let into = into.unwrap_or_else(chain::models_folder);
                for model in &models {
                    fetch::fetch(&store, model, &into).await?;
                }
            }
            Action::Quantize { model, calibration, into } => {
                let into = into.unwrap_or_else(chain::models_folder);
                quantize::quantize(&store, &model, calibration.as_deref(), &into).await?;
            }
            Action::Import(import) => tokio::task::spawn_blocking(move || import.run(&store)).await??,
            Action::Bench { models, runs, json } => return bench::bench(&store, &models, runs, json).await,
            Action::Check { folder, model, json } => {
                return tokio::task::spawn_blocking(move || check(&store, &folder, model, json)).await?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn list(store: &ModelStore) -> anyhow::Result<()> {
    let rows: Vec<Vec<String>> = store
        .catalog()
        .models
        .iter()
        .map(|(name, entry)| {
            let state = match store.find(name) {
                Ok(_) => "here".to_owned(),
                Err(ModelError::Missing { .. }) => "not fetched".to_owned(),
                Err(ModelError::Digest { .. }) => "wrong digest".to_owned(),
                Err(error) => error.to_string(),
            };
            let size = format!("{:.1} MB", entry.bytes as f64 / 1e6);
            let task = format!("{:?}", entry.task).to_lowercase();
            vec![name.clone(), task, size, state, entry.title.clone()]
        })
        .collect();
    output::line(output::table(&["model", "task", "size", "file", "what it is"], &rows))
}

fn tell(store: &ModelStore, model: &str) -> anyhow::Result<ExitCode> {
    let entry = store.entry(model)?;
    let found = store.find(model);
    match &found {
        Ok(file) => output::line(format_args!("file     {}", file.display()))?,
        Err(error) => output::line(format_args!("file     {error}"))?,
    }
    let digest = entry.sha256.as_deref().unwrap_or("not known");
    output::line(format_args!("sha256   {digest}"))?;
    output::line(format_args!("licence  {}", entry.licence))?;
    let source = &entry.source;
    let package = || {
        let (name, version) = (source.package.as_deref(), source.version.as_deref());
        format!("{} {}", name.unwrap_or("an unnamed package"), version.unwrap_or_default())
    };
    let from = match source.kind {
        SourceKind::Repo => match source.registry {
            Some(_) => format!("this repository; made from {}", package()),
            None => "this repository".to_owned(),
        },
        SourceKind::Pypi => format!("PyPI, {}", package()),
        SourceKind::Npm => format!("npm, {}", package()),
        SourceKind::Url => source.url.clone().unwrap_or_default(),
        SourceKind::Manual => "by hand".to_owned(),
    };
    output::line(format_args!("from     {from}"))?;
    for note in [&entry.note, &source.note].into_iter().flatten() {
        output::line(format_args!("note     {note}"))?;
    }
    Ok(if found.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check(
    store: &ModelStore,
    folder: &std::path::Path,
    model: Option<String>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let model = model.unwrap_or_else(|| store.catalog().defaults.expression.clone());
    let reader = ExpressionReader::load(store, &model, &Backends::installed())?;
    let accuracy = expression_accuracy(&reader, folder)?;
    if json {
        let classes: serde_json::Map<String, serde_json::Value> = Expression::ALL
            .into_iter()
            .map(|label| {
                let (total, right) = accuracy.of(label);
                (label.to_string(), serde_json::json!({"faces": total, "right": right}))
            })
            .collect();
        output::line(serde_json::json!({
            "model": model,
            "faces": accuracy.total,
            "right": accuracy.correct,
            "share": accuracy.share(),
            "classes": classes,
            "confusion": accuracy.confusion,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(format_args!(
        "{model}: {} of {} faces right, {:.1} %",
        accuracy.correct,
        accuracy.total,
        accuracy.share() * 100.0
    ))?;
    let mut head = vec!["labelled as", "faces", "right"];
    head.extend(Expression::ALL.iter().map(|name| name.as_str()));
    let rows: Vec<Vec<String>> = Expression::ALL
        .into_iter()
        .zip(accuracy.confusion)
        .map(|(label, answers)| {
            let (total, right) = accuracy.of(label);
            let mut row = vec![
                label.to_string(),
                total.to_string(),
                format!("{:.0} %", f64::from(right) / f64::from(total.max(1)) * 100.0),
            ];
            row.extend(answers.iter().map(u32::to_string));
            row
        })
        .collect();
    output::line(output::table(&head, &rows))?;
    Ok(ExitCode::SUCCESS)
}
