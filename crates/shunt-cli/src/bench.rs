//! `shunt bench`: where the time goes, measured on real processes over a real broker.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use shunt_infer::{ExpressionReader, FaceFinder, Model, ModelStore};
use shunt_vision::Picture;
use shunt_wire::events::Rect;

use crate::{
    chain, output,
    up::{
        self,
        board::State,
        deployment::Selection,
        ledger::Times,
        ports::Ports,
        running::{Options, Running, Setting},
    },
};

/// Measure where the time goes.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Chain(ChainBench),
}

/// The whole chain: transport from capture to relay with the models' time taken out, and the models in the chain
/// beside the same models run alone. Raw 640x480 frames in shared memory.
#[derive(Debug, Args)]
struct ChainBench {
    /// How long.
    #[arg(long, value_name = "TIME", value_parser = up::parse_time, default_value = "20s")]
    r#for: Duration,
    /// Frames a second.
    #[arg(long, default_value_t = 10.0)]
    fps: f64,
    /// Pictures with faces [default: the demo's].
    #[arg(long, value_name = "FOLDER")]
    pictures: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs of each model alone, before the chain and after it.
const RUNS: u32 = 100;

/// The bar: transport at p50, in milliseconds.
const BAR_MS: f64 = 1.0;

// === impl Bench ===

impl Bench {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let Action::Chain(chain) = self.action;
        chain.run().await
    }
}

// === impl ChainBench ===

impl ChainBench {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let stop = up::stop_on_signals()?;
        let folder = tempfile::Builder::new().prefix("shunt-bench-").tempdir()?;
        let manifest = chain::repository()
            .map(|repository| repository.join("deployment.template.json"))
            .context("there is no deployment.template.json here or above")?;
        output::complain("running the models alone");
        let (mut faces, mut expressions) = (Times::default(), Times::default());
        (faces, expressions) = alone(faces, expressions).await?;

        output::complain(format_args!("running the chain for {:.0} s", self.r#for.as_secs_f64()));
        let camera = [("fps", json!(self.fps)), ("width", json!(640)), ("height", json!(480))];
        let options = Options {
            selection: Selection { only: BTreeSet::new(), with: BTreeSet::new() },
            manifest: crate::manifest::expand_file(&manifest)?,
            source: Some(up::source(None, self.pictures.as_deref())?),
            settings: camera
                .map(|(field, value)| Setting { module: "camera".to_owned(), field: field.to_owned(), value })
                .to_vec(),
            ports: Ports::Fresh,
            folder: folder.path().to_path_buf(),
        };
        let running = Running::start(options, shunt_bus::clock::now()).await?;
        tokio::select! {
            () = tokio::time::sleep(self.r#for) => {}
            () = stop.cancelled() => {}
            () = running.broken.cancelled() => {}
        }
        let board = running.board.clone();
        running.stop().await;
        output::complain("running the models alone");
        (faces, expressions) = alone(faces, expressions).await?;

        let report = board.read(|state| Report::of(state, &faces, &expressions))?;
        if self.json {
            output::line(report.to_json())?;
        } else {
            output::line(report.to_table())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What was measured; milliseconds, p50 and p99.
#[derive(Debug)]
struct Report {
    events: u64,
    lost: u64,
    rows: Vec<(String, [f64; 2])>,
    transport: [f64; 2],
    /// The models' time a frame in the chain, and the same runs alone.
    inference: f64,
    alone: f64,
    face_ms: f64,
    expression_ms: f64,
}

// === impl Report ===

impl Report {
    fn of(state: &State, face: &Times, expression: &Times) -> anyhow::Result<Self> {
        let ledger = &state.ledger;
        let both = |times: &Times| Some([times.quantile(0.5)?, times.quantile(0.99)?]);
        let (Some(transport), Some(around)) = (both(&ledger.transport), both(&ledger.around_models)) else {
            anyhow::bail!("no face reached the hub: are there faces in the pictures?");
        };
        let mut rows = Vec::new();
        for (name, times) in &ledger.hops {
            if name == "emotion" {
                rows.push(("emotion, models taken out".to_owned(), around));
            } else if let Some(times) = both(times) {
                rows.push((name.clone(), times));
            }
        }
        let (face_ms, expression_ms) =
            (face.quantile(0.5).unwrap_or_default(), expression.quantile(0.5).unwrap_or_default());
        let mut inference: Vec<f64> = ledger.judged.iter().map(|frame| frame.inference_ms).collect();
        let mut faces: Vec<u32> = ledger.judged.iter().map(|frame| frame.faces).collect();
        inference.sort_by(f64::total_cmp);
        faces.sort_unstable();
        let faces = faces.get(faces.len() / 2).copied().unwrap_or(1);
        Ok(Self {
            events: ledger.events,
            lost: state.lost(),
            rows,
            transport,
            inference: inference.get(inference.len() / 2).copied().unwrap_or_default(),
            alone: face_ms + expression_ms * f64::from(faces),
            face_ms,
            expression_ms,
        })
    }

    fn to_json(&self) -> Value {
        let pair = |[p50, p99]: [f64; 2]| json!({"p50": p50, "p99": p99});
        let hops: serde_json::Map<String, Value> =
            self.rows.iter().map(|(name, times)| (name.clone(), pair(*times))).collect();
        json!({
            "events": self.events,
            "lost": self.lost,
            "transport_ms": pair(self.transport),
            "hops_ms": hops,
            "inference_ms": self.inference,
            "alone_ms": self.alone,
            "ratio": self.inference / self.alone,
            "alone_face_ms": self.face_ms,
            "alone_expression_ms": self.expression_ms,
        })
    }

    fn to_table(&self) -> String {
        let cell = |value: f64| format!("{value:.2}");
        let mut rows: Vec<Vec<String>> =
            self.rows.iter().map(|(name, [p50, p99])| vec![name.clone(), cell(*p50), cell(*p99)]).collect();
        let [p50, p99] = self.transport;
        rows.push(vec!["transport, capture to relay".to_owned(), cell(p50), cell(p99)]);
        let verdict = if p50 < BAR_MS { "under" } else { "NOT under" };
        format!(
            "{}\n{verdict} {BAR_MS} ms at p50; {} events, {} lost\n\nmodels in the chain {:.2} ms a frame, the same runs alone in tract {:.2} ms (face finder {:.2}, expression {:.2}): ratio {:.2}",
            output::table(&["where the time goes", "p50 ms", "p99 ms"], &rows),
            self.events,
            self.lost,
            self.inference,
            self.alone,
            self.face_ms,
            self.expression_ms,
            self.inference / self.alone,
        )
    }
}

/// The models run alone in tract on one thread, nothing around them: a tensor in, tensors out.
async fn alone(mut faces: Times, mut expressions: Times) -> anyhow::Result<(Times, Times)> {
    let work = move || -> anyhow::Result<(Times, Times)> {
        let store = ModelStore::open(&chain::models_folder())?;
        let defaults = store.catalog().defaults.clone();
        let picture = Picture::filled(640, 480, [90, 120, 150]);
        let middle = Rect { x: 200.0, y: 150.0, width: 160.0, height: 160.0 };
        let finder = FaceFinder::load(&store, &defaults.face)?;
        measure(finder.model(), &mut faces, |model| model.whole(&picture).0)?;
        let reader = ExpressionReader::load(&store, &defaults.expression)?;
        measure(reader.model(), &mut expressions, |model| model.part(&picture, middle))?;
        Ok((faces, expressions))
    };
    tokio::task::spawn_blocking(work).await?
}

fn measure(
    model: &Model,
    times: &mut Times,
    input: impl Fn(&Model) -> shunt_infer::Tensor,
) -> anyhow::Result<()> {
    model.warm_up()?;
    for _ in 0..RUNS {
        let tensor = input(model);
        let begin = Instant::now();
        model.run(tensor)?;
        times.add(begin.elapsed().as_nanos() as u64);
    }
    Ok(())
}
