//! `shunt bench bus`: what each way between two processes costs, and a chain of six, beside a raw Unix socket in the
//! same run.
//!
//! Each measurement has processes of its own and a server of its own, so nothing of the one before is in its way.

mod line;
mod note;
mod peer;
pub(super) mod report;
mod server;
mod setup;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Args;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use self::{
    line::Way,
    peer::{Found, Member, Plan, READY, Runtime},
    report::{BASE, FRAME, Measured, Outcome, Report, Row, SIZES, Times},
    server::NoServer,
    setup::{KNOWN, Known, Setup},
};
use super::{machine, page};
use crate::{
    child::{Process, Program},
    output, up,
};

pub(crate) use peer::PeerArgs;

/// Round trip and throughput of each way between two processes: raw Unix sockets, the bus over its brokers, frames in
/// shared memory, calls; and a chain of six processes. Says which bars are met.
#[derive(Debug, Args)]
pub(crate) struct BusBench {
    /// Only these, and the raw Unix socket that all is compared with.
    #[arg(long, value_name = "WAY", value_delimiter = ',', value_parser = known)]
    only: Vec<&'static Known>,
    /// Round trips a cell, where these go in three seconds.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(20..=1_000_000))]
    rounds: u32,
    /// Only questions of these sizes, and of 256 bytes.
    #[arg(long, value_name = "BYTES", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(256..=8_000_000))]
    size: Vec<u32>,
    /// The threads of processes that stand for modules [default: one, as modules have it].
    #[arg(long, value_name = "KIND", value_enum)]
    runtime: Option<Runtime>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Write a page with plots to this file too.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Processes of a chain.
const CHAIN: usize = 6;
/// What a process has to get ready in.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// What one measurement may take.
const LIMIT: Duration = Duration::from_mins(2);
/// How long a process may take to stop.
const STOP_LIMIT: Duration = Duration::from_millis(500);
/// The raw Unix socket is asked again after each row, so many times fewer: what else the machine does meanwhile is in
/// what all is compared with too.
const AGAIN: usize = 5;

/// What is to be measured.
#[derive(Debug)]
struct Run {
    sizes: Vec<usize>,
    rounds: usize,
    runtime: Option<Runtime>,
}

// === impl BusBench ===

impl BusBench {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let stop = up::stop_on_signals()?;
        let mut sizes: Vec<usize> = self.size.iter().map(|size| *size as usize).collect();
        if sizes.is_empty() {
            sizes = SIZES.to_vec();
        }
        let [smallest, ..] = SIZES;
        sizes.push(smallest);
        sizes.sort_unstable();
        sizes.dedup();
        let run = Run { sizes, rounds: self.rounds as usize, runtime: self.runtime };
        let wanted = |known: &&Known| {
            known.id == BASE || self.only.is_empty() || self.only.iter().any(|only| only.id == known.id)
        };
        let wanted: Vec<&Known> = KNOWN.iter().filter(wanted).collect();
        let report = tokio::select! {
            report = run.report(&wanted) => report?,
            () = stop.cancelled() => anyhow::bail!("stopped"),
        };
        if let Some(file) = &self.html {
            std::fs::write(file, page::write(&report)?)
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        if self.json {
            output::line(report.to_json())?;
        } else {
            output::line(report.to_table())?;
        }
        Ok(if report.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn known(id: &str) -> Result<&'static Known, String> {
    let ids: Vec<&str> = KNOWN.iter().map(|known| known.id).collect();
    KNOWN.iter().find(|known| known.id == id).ok_or_else(|| format!("it must be one of {}", ids.join(", ")))
}

// === impl Run ===

impl Run {
    async fn report(&self, wanted: &[&'static Known]) -> anyhow::Result<Report> {
        let machine = machine();
        let mut rows = Vec::new();
        // All round trips of the smallest size over the raw socket, from the beginning of the run to its end.
        let mut base = Vec::new();
        for known in wanted {
            output::complain(format_args!("measuring {}", known.name));
            let runtime = self.runtime.filter(|_| known.is_module).unwrap_or(Runtime::CurrentThread);
            let outcome = match self.measure(known, runtime).await {
                Ok(measured) => Outcome::Measured(measured),
                Err(NoServer::NotInstalled(command)) => Outcome::NotInstalled(command),
                Err(NoServer::Failed(error)) => Outcome::Failed(format!("{error:#}")),
            };
            rows.push(Row { id: known.id, name: known.name, runtime: runtime.name(), outcome });
            base.extend(self.base().await?);
        }
        let mut report = Report {
            time: OffsetDateTime::now_utc().format(&Rfc3339)?,
            machine,
            sizes: self.sizes.clone(),
            rounds: self.rounds,
            rows,
        };
        report.set_base(Times::of(&base));
        Ok(report)
    }

    async fn measure(&self, known: &Known, runtime: Runtime) -> Result<Measured, NoServer> {
        let mut measured = Measured::default();
        let sizes: Vec<usize> = self.sizes.iter().copied().filter(|size| known.takes(*size)).collect();
        if !sizes.is_empty() {
            let plan = Plan { sizes, rounds: self.rounds, flood: known.is_whole() };
            let found = attempt(known, 2, runtime, plan).await?;
            for cell in &found.cells {
                measured.round_trips.extend(Times::of(&cell.round_trips).map(|times| (cell.size, times)));
                if cell.size == FRAME {
                    measured.hand_over = Times::of(&cell.hand_overs);
                }
            }
            measured.rate = found.rate;
        }
        if known.is_whole() {
            let [smallest, ..] = SIZES;
            let plan = Plan { sizes: vec![smallest], rounds: self.rounds, flood: false };
            let found = attempt(known, CHAIN, runtime, plan).await?;
            measured.chain = found.cells.first().and_then(|cell| Times::of(&cell.round_trips));
        }
        Ok(measured)
    }

    /// The raw Unix socket once more.
    async fn base(&self) -> anyhow::Result<Vec<u64>> {
        let [smallest, ..] = SIZES;
        let plan = Plan { sizes: vec![smallest], rounds: (self.rounds / AGAIN).max(20), flood: false };
        let base = known(BASE).map_err(anyhow::Error::msg)?;
        match attempt(base, 2, Runtime::CurrentThread, plan).await {
            Ok(found) => Ok(found.cells.into_iter().next().map(|cell| cell.round_trips).unwrap_or_default()),
            Err(NoServer::Failed(error)) => Err(error),
            Err(NoServer::NotInstalled(command)) => anyhow::bail!("not installed: {command}"),
        }
    }
}

/// One measurement with processes and servers of its own.
async fn attempt(known: &Known, ring: usize, runtime: Runtime, plan: Plan) -> Result<Found, NoServer> {
    let mut setup = Setup::new(known.id, ring).await?;
    let mut processes = Vec::new();
    let found = tokio::time::timeout(LIMIT, go_round(&setup.way, ring, runtime, plan, &mut processes)).await;
    for process in &mut processes {
        process.stop(STOP_LIMIT).await;
    }
    setup.stop().await;
    let found = found.with_context(|| format!("it took longer than {} s", LIMIT.as_secs()));
    Ok(found.and_then(|found| found)?)
}

async fn go_round(
    way: &Way,
    ring: usize,
    runtime: Runtime,
    plan: Plan,
    processes: &mut Vec<Process>,
) -> anyhow::Result<Found> {
    let member = |index: usize, plan: Option<Plan>| Member { way: way.clone(), index, ring, runtime, plan };
    // From the last one on, so that each finds the next one ready.
    for index in (1..ring).rev() {
        let said = start(&member(index, None), processes)?.said(READY_LIMIT).await;
        let said = said.with_context(|| format!("process {index} of {ring}"))?;
        anyhow::ensure!(said == READY, "process {index} of {ring} said {said:?}");
    }
    let said = start(&member(0, Some(plan)), processes)?.said(LIMIT).await?;
    serde_json::from_str(&said).context("what the first process found is not understood")
}

/// The output of a process.
struct Voice {
    out: BufReader<tokio::process::ChildStdout>,
    errors: tokio::process::ChildStderr,
}

fn start(member: &Member, processes: &mut Vec<Process>) -> anyhow::Result<Voice> {
    let program = Program {
        file: std::env::current_exe().context("cannot find the file of this program")?,
        arguments: vec!["bench-peer".to_owned(), serde_json::to_string(member)?],
        environment: Vec::new(),
    };
    let mut process = Process::start(&program)?;
    let (out, errors) = process.take_output().context("a process has no output")?;
    processes.push(process);
    Ok(Voice { out: BufReader::new(out), errors })
}

// === impl Voice ===

impl Voice {
    /// The one line that it says; or its complaint.
    async fn said(mut self, limit: Duration) -> anyhow::Result<String> {
        let mut line = String::new();
        let read = tokio::time::timeout(limit, self.out.read_line(&mut line)).await;
        if read.context("it said nothing in time")?? > 0 {
            // It says no more; its complaints are for nobody then.
            tokio::spawn(async move {
                let mut errors = self.errors;
                drop(tokio::io::copy(&mut errors, &mut tokio::io::sink()).await);
            });
            return Ok(line.trim_end().to_owned());
        }
        let mut complaint = String::new();
        drop(self.errors.take(4096).read_to_string(&mut complaint).await);
        anyhow::bail!("it ended: {}", complaint.trim())
    }
}
