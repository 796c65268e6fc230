//! `shunt classify`: what a picture shows, without the chain.

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::Context;
use clap::Args;
use serde_json::json;
use shunt_infer::{Backends, Classification, Classifier, ModelStore, Preference};
use shunt_vision::{DecodeLimits, decode_for};

use crate::{chain, output, steps::Steps};

/// Tell what a picture shows: the most probable classes, and the time of each step.
#[derive(Debug, Args)]
pub(crate) struct Classify {
    /// The picture: JPEG, PNG, BMP, GIF or WebP.
    picture: PathBuf,
    /// The model [default: the catalog's].
    #[arg(long)]
    model: Option<String>,
    /// Who runs it: auto, tract, onnxruntime, litert.
    #[arg(long, default_value_t = Preference::Auto)]
    backend: Preference,
    /// How many classes.
    #[arg(long, default_value_t = 5)]
    top: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

// === impl Classify ===

impl Classify {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        // Heavy work from here on: not for the threads of the runtime.
        tokio::task::spawn_blocking(move || self.classify()).await?
    }

    fn classify(&self) -> anyhow::Result<ExitCode> {
        let mut steps = Steps::begin();
        let store = ModelStore::open(&chain::models_folder())?;
        let name = self.model.as_ref().unwrap_or(&store.catalog().defaults.classify);
        let classifier = Classifier::load(&store, name, &Backends::installed().prefer(self.backend))?;
        steps.done("load the model");
        let cannot = || format!("cannot use {}", self.picture.display());
        let bytes = std::fs::read(&self.picture).with_context(cannot)?;
        let input = classifier.model().input()?;
        let decoded = decode_for(&bytes, &DecodeLimits::default(), input.width(), input.height());
        let decoded = decoded.with_context(cannot)?;
        steps.done("read and decode");
        let (tensor, _) = classifier.model().whole(&decoded.picture)?;
        steps.done("fit");
        let started = Instant::now();
        let outputs = classifier.model().run(vec![tensor])?;
        let model = started.elapsed();
        steps.done("infer");
        let probabilities = classifier.read(outputs)?;
        let classes = classifier.name(&Classification { probabilities, model }, self.top);
        let model = classifier.model();
        if self.json {
            output::line(json!({
                "picture": self.picture,
                "width": decoded.width,
                "height": decoded.height,
                "model": model.name(),
                "digest": model.digest(),
                "backend": model.chosen().version,
                "because": model.chosen().why,
                "classes": classes,
                "ms": steps.as_json(),
            }))?;
        } else {
            let row =
                |class: &shunt_infer::Class| vec![format!("{:.4}", class.probability), class.label.clone()];
            let rows: Vec<Vec<String>> = classes.iter().map(row).collect();
            output::line(output::table(&["probability", "class"], &rows))?;
            output::line(format_args!("\n{} on {}", model.name(), model.chosen().version))?;
            output::line(steps.as_table())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
