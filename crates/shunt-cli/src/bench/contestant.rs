//! A process that runs one model, so that its memory is its own and its core is no one else's.
//!
//! It says in a line what it is ([`Ready`]); then, for each line with a number, it makes so many runs and says how many
//! milliseconds each took, as a JSON list. `inference/peer.py` speaks the same.

use std::{
    io::{BufRead, Write},
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use serde::{Deserialize, Serialize};
use shunt_infer::{Backends, Format, Loaded, Model, ModelStore, Preference, zeros};
use shunt_wire::seed::ScoreRequest;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::{chain, child, output};

/// What a contestant has to get ready in: a large model on a slow machine.
const READY_LIMIT: Duration = Duration::from_mins(2);
/// What a round of runs may take.
const ROUND_LIMIT: Duration = Duration::from_mins(5);
/// Runs that come before those that are measured.
const WARM_UP: u32 = 5;

/// What is to be run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum What {
    /// A model of the catalog.
    Model(String),
    /// A model's file that is in no catalog.
    File(PathBuf, Format),
    /// The reading of a request to score of this many channels, rows and columns.
    Score([usize; 3]),
}

/// What a contestant is asked to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) what: What,
    pub(crate) backend: Preference,
}

/// What a contestant says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// Who runs it: `ONNX Runtime 1.31.1`.
    pub(crate) version: String,
    pub(crate) load_ms: f64,
    /// Memory that came with the model, in RAM, in MiB.
    pub(crate) memory_mb: Option<f64>,
    /// How far the golden answer is off, or what is wrong with it; nothing where there is none.
    pub(crate) golden: Option<Result<f32, String>>,
}

/// Runs a model for `shunt bench inference` and `shunt models bench`.
#[derive(Debug, Args)]
pub(crate) struct ContestantArgs {
    order: String,
}

/// A contestant that runs.
#[derive(Debug)]
pub(crate) struct Contestant {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub(crate) ready: Ready,
}

// === impl ContestantArgs ===

impl ContestantArgs {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let order: Order = serde_json::from_str(&self.order)?;
        let (ready, mut work) = order.prepare()?;
        output::line(serde_json::to_string(&ready)?)?;
        for line in std::io::stdin().lock().lines() {
            let runs: u32 = line?.trim().parse()?;
            let mut times = Vec::with_capacity(runs as usize);
            for _ in 0..runs {
                times.push(work()?);
            }
            output::line(serde_json::to_string(&times)?)?;
        }
        std::io::stdout().flush()?;
        Ok(())
    }
}

/// Makes one run, says the milliseconds.
type Work = Box<dyn FnMut() -> anyhow::Result<f64>>;

// === impl Order ===

impl Order {
    /// Loads what is to be run and warms it up.
    fn prepare(&self) -> anyhow::Result<(Ready, Work)> {
        let before = child::resident_mb(std::process::id().cast_signed()).unwrap_or_default();
        let started = Instant::now();
        let backends = Backends::installed().prefer(self.backend);
        let mut golden = None;
        let (version, mut work): (String, Work) = match &self.what {
            What::Model(name) => {
                let store = ModelStore::open(&chain::models_folder())?;
                let model = Model::load(&store, name, &backends)?;
                golden = match model.prove() {
                    Ok(proof) => proof.map(|proof| Ok(proof.difference)),
                    Err(error) => Some(Err(error.to_string())),
                };
                let inputs = zeros(&model.describe().inputs)?;
                let version = model.chosen().version.clone();
                (version, Box::new(move || time(inputs.clone(), |inputs| Ok(model.run(inputs).map(drop)?))))
            }
            What::File(file, format) => {
                let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
                let (loaded, chosen) = backends.load(*format, None, &bytes)?;
                let loaded: Box<dyn Loaded> = loaded;
                let inputs = zeros(&loaded.describe().inputs)?;
                (
                    chosen.version,
                    Box::new(move || time(inputs.clone(), |inputs| Ok(loaded.run(inputs).map(drop)?))),
                )
            }
            What::Score(shape) => {
                let body = score_body(*shape);
                let read = move || time((), |()| ScoreRequest::parse(&body).map(drop).map_err(Into::into));
                ("the module's own reader".to_owned(), Box::new(read))
            }
        };
        let load_ms = started.elapsed().as_secs_f64() * 1e3;
        for _ in 0..WARM_UP {
            work()?;
        }
        let after = child::resident_mb(std::process::id().cast_signed());
        Ok((Ready { version, load_ms, memory_mb: after.map(|after| after - before), golden }, work))
    }
}

/// Milliseconds of one run; what goes in is made ready before.
fn time<T>(input: T, run: impl FnOnce(T) -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let started = Instant::now();
    run(input)?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

/// A request to score with as many numbers as such a picture has.
fn score_body([channels, rows, columns]: [usize; 3]) -> Vec<u8> {
    let row = |row: usize| (0..columns).map(|column| (row * 7 + column * 13) % 256).collect::<Vec<_>>();
    let channel: Vec<Vec<usize>> = (0..rows).map(row).collect();
    serde_json::json!({ "data": [vec![channel; channels]] }).to_string().into_bytes()
}

// === impl Contestant ===

impl Contestant {
    /// One of ours, on this core where it is given.
    pub(crate) async fn ours(order: &Order, core: Option<usize>) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find the file of this program")?;
        let order = serde_json::to_string(order)?;
        Self::start(program, &["bench-model".to_owned(), order], core).await
    }

    /// Any program that speaks as ours do.
    pub(crate) async fn start(
        program: PathBuf,
        arguments: &[String],
        core: Option<usize>,
    ) -> anyhow::Result<Self> {
        let mut command = match (core, child::find_program("taskset")) {
            (Some(core), Some(taskset)) => {
                let mut command = Command::new(taskset);
                command.args(["-c", &core.to_string()]).arg(program);
                command
            }
            _ => Command::new(program),
        };
        let mut child = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let orders = child.stdin.take().context("a contestant has no input")?;
        let out = child.stdout.take().context("a contestant has no output")?;
        let mut answers = BufReader::new(out);
        let mut line = String::new();
        timeout(READY_LIMIT, answers.read_line(&mut line)).await.context("it was not ready in time")??;
        if line.is_empty() {
            let mut complaint = String::new();
            if let Some(errors) = child.stderr.take() {
                drop(timeout(READY_LIMIT, errors.take(4096).read_to_string(&mut complaint)).await);
            }
            let last = complaint.trim().lines().last().unwrap_or("it said nothing").to_owned();
            anyhow::bail!("{last}");
        }
        let ready = serde_json::from_str(&line).with_context(|| format!("it said {}", line.trim()))?;
        // What a library tells from now on is for nobody, but a full pipe would stop it.
        if let Some(mut errors) = child.stderr.take() {
            tokio::spawn(async move { tokio::io::copy(&mut errors, &mut tokio::io::sink()).await });
        }
        Ok(Self { child, orders, answers, ready })
    }

    /// Makes so many runs: milliseconds of each.
    pub(crate) async fn run(&mut self, runs: u32) -> anyhow::Result<Vec<f64>> {
        self.orders.write_all(format!("{runs}\n").as_bytes()).await?;
        self.orders.flush().await?;
        let mut line = String::new();
        timeout(ROUND_LIMIT, self.answers.read_line(&mut line)).await.context("a round took too long")??;
        serde_json::from_str(&line).with_context(|| format!("it said {:?}", line.trim()))
    }

    /// Ends it.
    pub(crate) async fn end(mut self) {
        drop(self.orders);
        if timeout(Duration::from_secs(5), self.child.wait()).await.is_err() {
            drop(self.child.kill().await);
        }
    }
}

/// The value that half of them are below; nought where there are none.
pub(crate) fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
