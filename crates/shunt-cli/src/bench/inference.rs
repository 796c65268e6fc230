//! `shunt bench inference`: models beside LiteRT and ONNX Runtime called from Python, on the same core in the same run;
//! and what `emotion` and `inference` add to their models.

mod chain;
mod report;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use shunt_infer::{Format, ModelStore, Preference, tflite_to_onnx};
use tokio::process::Command;

use self::report::{Cell, Report, Row};
use super::contestant::{Contestant, Order, What, median};
use crate::{
    chain as places,
    models::{environment, run},
    output, up,
};

/// Models one thread at a time, interleaved with the same models in Python on the same core; reading of requests; and
/// the running modules: pictures over HTTP, the chain from capture to relay, memory. Says which bars are met.
#[derive(Debug, Args)]
pub(crate) struct InferenceBench {
    /// Runs of each, in rounds in which all take turns.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    runs: u32,
    /// Leave out what needs running modules.
    #[arg(long)]
    models_only: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Write a page with plots to this file too.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Rounds in which the contestants take turns, so that what else the machine does is in all of them.
const ROUNDS: u32 = 10;
/// Networks of the shape of two that may not be shared, and their files without the ending.
const SHAPED: [(&str, &str); 2] =
    [(report::VGG, "ferplus_zoo_shaped_int8"), (report::RESNET, "resnet50v2_shaped_int8")];
/// The program of the peers.
const PEER: &str = include_str!("inference/peer.py");

/// A contestant that is to be started.
struct Entrant {
    name: &'static str,
    is_ours: bool,
    start: Start,
}

enum Start {
    Ours(Order),
    Peer(&'static str, PathBuf),
}

/// Where the files are that no catalog has.
struct Files {
    mobilenet: Option<Mobilenet>,
    shaped: PathBuf,
    peer: PathBuf,
    python: PathBuf,
}

/// The real uint8 MobileNet, as it is and converted.
struct Mobilenet {
    tflite: PathBuf,
    onnx: PathBuf,
}

// === impl InferenceBench ===

impl InferenceBench {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let stop = up::stop_on_signals()?;
        let report = tokio::select! {
            report = self.report() => report?,
            () = stop.cancelled() => anyhow::bail!("stopped"),
        };
        if let Some(file) = &self.html {
            std::fs::write(file, report.to_page()?)
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        if self.json {
            output::line(report.to_json())?;
        } else {
            output::line(report.to_table())?;
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn report(&self) -> anyhow::Result<Report> {
        let folder = tempfile::Builder::new().prefix("shunt-bench-").tempdir()?;
        let mut report = Report::new(self.runs)?;
        let files = Files::prepare(folder.path()).await?;
        let core = std::thread::available_parallelism().map_or(0, |cores| cores.get() - 1);
        for (name, entrants) in files.rows() {
            output::complain(format_args!("measuring {name}"));
            report.rows.push(self.row(name, &entrants, &files, core).await);
        }
        if !self.models_only {
            chain::measure(&mut report, folder.path(), self.runs).await;
        }
        Ok(report)
    }

    /// All entrants of a row take turns on one core.
    async fn row(&self, name: &'static str, entrants: &[Entrant], files: &Files, core: usize) -> Row {
        let mut contestants = Vec::new();
        let mut cells = Vec::new();
        for entrant in entrants {
            match entrant.start(files, core).await {
                Ok(contestant) => contestants.push((entrant, contestant, Vec::new())),
                Err(error) => cells.push(Cell::failed(entrant.name, entrant.is_ours, &error)),
            }
        }
        for _ in 0..ROUNDS {
            let mut still = Vec::new();
            for (entrant, mut contestant, mut times) in contestants {
                match contestant.run(self.runs.div_ceil(ROUNDS)).await {
                    Ok(more) => {
                        times.extend(more);
                        still.push((entrant, contestant, times));
                    }
                    // A late answer would be taken for that of the next round.
                    Err(error) => cells.push(Cell::failed(entrant.name, entrant.is_ours, &error)),
                }
            }
            contestants = still;
        }
        for (entrant, contestant, times) in contestants {
            cells.push(Cell::measured(entrant.name, entrant.is_ours, &contestant.ready, median(&times)));
            contestant.end().await;
        }
        Row { name, cells }
    }
}

// === impl Entrant ===

impl Entrant {
    async fn start(&self, files: &Files, core: usize) -> anyhow::Result<Contestant> {
        match &self.start {
            Start::Ours(order) => Contestant::ours(order, Some(core)).await,
            Start::Peer(kind, file) => {
                let arguments = [&files.peer, Path::new(kind), file].map(|part| part.display().to_string());
                Contestant::start(files.python.clone(), &arguments, Some(core)).await
            }
        }
    }
}

fn ours(name: &'static str, backend: Preference, what: What) -> Entrant {
    Entrant { name, is_ours: true, start: Start::Ours(Order { what, backend }) }
}

// === impl Files ===

impl Files {
    /// Converts, generates, installs what is needed. Slow the first time.
    async fn prepare(folder: &Path) -> anyhow::Result<Self> {
        let repository =
            places::repository().context("the repository with the peers' packages is not here")?;
        let tools = repository.join("models/tools");
        output::complain("looking for the peers' packages");
        let python = environment(&repository, &tools).await?;
        let shaped = repository.join(".shunt/bench/shaped");
        let files = || {
            SHAPED.iter().flat_map(|(_, stem)| ["onnx", "tflite"].map(|ending| format!("{stem}.{ending}")))
        };
        if !files().all(|file| shaped.join(file).is_file()) {
            output::complain("making networks of the shapes that are measured");
            std::fs::create_dir_all(&shaped)?;
            run(Command::new(&python).arg(tools.join("shaped.py")).arg(&shaped)).await?;
            for file in files() {
                anyhow::ensure!(shaped.join(&file).is_file(), "models/tools/shaped.py made no {file}");
            }
        }
        let peer = folder.join("peer.py");
        std::fs::write(&peer, PEER)?;
        let store = ModelStore::open(&places::models_folder())?;
        let mobilenet = match store.read("mobilenet-v1-quant") {
            Ok((tflite, bytes)) => {
                let onnx = folder.join("mobilenet.onnx");
                std::fs::write(&onnx, tflite_to_onnx(&bytes)?.onnx)?;
                Some(Mobilenet { tflite, onnx })
            }
            Err(error) => {
                output::complain(format_args!("the real uint8 MobileNet is left out: {error}"));
                None
            }
        };
        Ok(Self { mobilenet, shaped, peer, python })
    }

    /// What is measured.
    fn rows(&self) -> Vec<(&'static str, Vec<Entrant>)> {
        let mut rows = Vec::new();
        if let Some(Mobilenet { tflite, onnx }) = &self.mobilenet {
            rows.push((report::MOBILENET, contest(onnx, tflite)));
        }
        for (row, stem) in SHAPED {
            let file = |ending: &str| self.shaped.join(format!("{stem}.{ending}"));
            rows.push((row, contest(&file("onnx"), &file("tflite"))));
        }
        for (row, model) in [(report::FERPLUS, "ferplus-small"), (report::FERPLUS_INT8, "ferplus-small-int8")]
        {
            let model = |backend| What::Model(model.to_owned()).on(backend);
            rows.push((row, vec![model(Preference::Onnxruntime), model(Preference::Tract)]));
        }
        rows.push((report::SCORE, vec![ours("reader", Preference::Auto, What::Score([3, 224, 224]))]));
        rows
    }
}

/// The same network in both forms, on our back ends and in Python.
fn contest(onnx: &Path, tflite: &Path) -> Vec<Entrant> {
    let file = |path: &Path, format| What::File(path.to_owned(), format);
    let peer =
        |name, kind, path: &Path| Entrant { name, is_ours: false, start: Start::Peer(kind, path.to_owned()) };
    vec![
        ours("shunt, onnxruntime", Preference::Onnxruntime, file(onnx, Format::Onnx)),
        ours("shunt, litert", Preference::Litert, file(tflite, Format::Tflite)),
        peer("Python, onnxruntime", "onnxruntime", onnx),
        peer("Python, litert", "litert", tflite),
    ]
}

// === impl What ===

impl What {
    fn on(self, backend: Preference) -> Entrant {
        let name = if backend == Preference::Tract { "shunt, tract" } else { "shunt, onnxruntime" };
        ours(name, backend, self)
    }
}
