//! One process of a measurement. The first one asks and measures, the others answer, or pass on.

use std::{
    io::Write,
    num::NonZero,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use serde::{Deserialize, Serialize};

use super::{
    line::{Line, Place, Way, call},
    note::{ANSWER, Kind, Note},
};

/// What a process says when others may send to it.
pub(super) const READY: &str = "ready";

/// A cell of the table takes no longer than this, however slow the way is.
const CELL: Duration = Duration::from_secs(3);
/// But has at least so many round trips.
const LEAST: usize = 20;
/// Round trips before the count begins: a tenth of those that count, within these bounds, and no longer than this.
const WARM_UP_ROUNDS: (usize, usize) = (5, 500);
const WARM_UP: Duration = Duration::from_millis(500);
/// What two sides have to meet in.
const READY_LIMIT: Duration = Duration::from_secs(10);
/// No answer for so long: the way is broken.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// A flood is so many messages a round, or as many as go in [`FLOOD`].
const FLOOD_FACTOR: usize = 5;
const FLOOD: Duration = Duration::from_secs(1);
/// Most messages of a flood that are under way: fewer than the queues of the bus hold.
const WINDOW: usize = 128;
/// The receiver answers after each so many.
const CREDIT: usize = 32;

/// One process of a measurement.
#[derive(Debug, Args)]
pub(crate) struct PeerArgs {
    /// What it does, as JSON.
    member: String,
}

/// What a process does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Member {
    pub(super) way: Way,
    /// Its place in the ring: the first one asks.
    pub(super) index: usize,
    /// Processes in the ring.
    pub(super) ring: usize,
    pub(super) runtime: Runtime,
    /// What the first one asks.
    pub(super) plan: Option<Plan>,
}

/// The threads of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Runtime {
    /// All on one thread.
    CurrentThread,
    /// As many worker threads as there are cores.
    MultiThread,
}

/// What is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Bytes of the questions.
    pub(super) sizes: Vec<usize>,
    /// Round trips of each size.
    pub(super) rounds: usize,
    /// Then as many small messages as go through.
    pub(super) flood: bool,
}

/// What the first process found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Found {
    pub(super) cells: Vec<Cell>,
    /// Messages a second.
    pub(super) rate: Option<f64>,
}

/// The round trips of one size, in nanoseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Cell {
    pub(super) size: usize,
    pub(super) round_trips: Vec<u64>,
    /// Of frames in shared memory: from before the frame is written until the reader holds its checked copy.
    pub(super) hand_overs: Vec<u64>,
}

// === impl PeerArgs ===

impl PeerArgs {
    /// Runs until it is ended, the first one until its plan is done.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let member: Member = serde_json::from_str(&self.member).context("the member is not understood")?;
        // Nobody else can have installed one: this is the first thing that this process does.
        drop(rustls::crypto::ring::default_provider().install_default());
        member.runtime.build()?.block_on(member.run())
    }
}

// === impl Runtime ===

impl Runtime {
    fn build(self) -> std::io::Result<tokio::runtime::Runtime> {
        let mut builder = match self {
            Self::CurrentThread => tokio::runtime::Builder::new_current_thread(),
            Self::MultiThread => {
                let mut builder = tokio::runtime::Builder::new_multi_thread();
                builder.worker_threads(std::thread::available_parallelism().map_or(1, NonZero::get));
                builder
            }
        };
        builder.enable_all().build()
    }

    /// Its name in the report.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::CurrentThread => "current-thread",
            Self::MultiThread => "multi-thread",
        }
    }
}

// === impl Member ===

impl Member {
    async fn run(self) -> anyhow::Result<()> {
        if let (Way::Call(way), None) = (&self.way, &self.plan) {
            return call::serve(way, self.index, || say(READY)).await;
        }
        let place = Place { index: self.index, ring: self.ring };
        let mut line = Line::open(&self.way, place).await?;
        if let Some(plan) = &self.plan {
            return say(&serde_json::to_string(&plan.ask(&mut line).await?)?);
        }
        say(READY)?;
        answer(&mut line).await
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Answers, or passes on, until it is ended.
async fn answer(line: &mut Line) -> anyhow::Result<()> {
    let mut counted = 0;
    loop {
        let note = line.receive().await?;
        let told = if note.kind == Kind::Flood {
            counted += 1;
            if counted % CREDIT != 0 {
                continue;
            }
            Note::new(Kind::Answer)
        } else {
            Note { lap: note.lap, nanos: note.nanos, ..Note::new(Kind::Answer) }
        };
        line.send(told, ANSWER).await?;
    }
}

// === impl Plan ===

impl Plan {
    async fn ask(&self, line: &mut Line) -> anyhow::Result<Found> {
        let (mut found, mut lap) = (Found::default(), 0);
        for size in &self.sizes {
            found.cells.push(self.round_trips(line, &mut lap, *size).await?);
        }
        if self.flood {
            found.rate = Some(flood(line, self.rounds * FLOOD_FACTOR).await?);
        }
        Ok(found)
    }

    async fn round_trips(&self, line: &mut Line, lap: &mut u32, size: usize) -> anyhow::Result<Cell> {
        self.warm_up(line, lap, size).await?;
        let (mut round_trips, mut hand_overs) = (Vec::with_capacity(self.rounds), Vec::new());
        let end = Instant::now() + CELL;
        while round_trips.len() < self.rounds && (round_trips.len() < LEAST || Instant::now() < end) {
            let begin = Instant::now();
            let answer = exchange(line, lap, size).await?;
            round_trips.push(begin.elapsed().as_nanos() as u64);
            if answer.nanos > 0 {
                hand_overs.push(answer.nanos);
            }
        }
        Ok(Cell { size, round_trips, hand_overs })
    }

    async fn warm_up(&self, line: &mut Line, lap: &mut u32, size: usize) -> anyhow::Result<()> {
        let end = Instant::now() + WARM_UP;
        let rounds = (self.rounds / 10).clamp(WARM_UP_ROUNDS.0, WARM_UP_ROUNDS.1);
        let mut number = 0;
        while !line.is_ready() || number < WARM_UP_ROUNDS.0 || (number < rounds && Instant::now() < end) {
            anyhow::ensure!(
                line.is_ready() || Instant::now() < end + READY_LIMIT,
                "what is sent goes another way than the one to be measured"
            );
            number += 1;
            exchange(line, lap, size).await?;
        }
        Ok(())
    }
}

/// One round trip. An answer to an earlier question is passed over: the way past the broker may bring an event twice,
/// where the broker is thousands of events behind.
async fn exchange(line: &mut Line, lap: &mut u32, size: usize) -> anyhow::Result<Note> {
    *lap = lap.wrapping_add(1);
    let note = Note { lap: *lap, ..Note::new(Kind::Ask) };
    let answered = async {
        let mut answer = line.exchange(note, size).await?;
        while answer.lap != note.lap && line.is_ring() {
            answer = line.receive().await?;
        }
        Ok(answer)
    };
    let answer = tokio::time::timeout(ANSWER_LIMIT, answered).await;
    answer.with_context(|| format!("no answer to {size} bytes came in {} s", ANSWER_LIMIT.as_secs()))?
}

/// Sends this many messages, or for a second; messages a second.
async fn flood(line: &mut Line, most: usize) -> anyhow::Result<f64> {
    if let Line::Call(line) = line {
        return line.flood(most, FLOOD, WINDOW).await;
    }
    let most = most.next_multiple_of(CREDIT);
    let begin = Instant::now();
    let (mut sent, mut received, mut done) = (0_usize, 0, false);
    while !done || received < sent {
        if !done && sent.saturating_sub(received) < WINDOW {
            line.send_ahead(Note::new(Kind::Flood), ANSWER).await?;
            sent += 1;
            done = sent % CREDIT == 0 && (sent >= most || begin.elapsed() > FLOOD);
        } else {
            let note = tokio::time::timeout(ANSWER_LIMIT, line.receive()).await.with_context(|| {
                format!("of {sent} messages, {} were lost or late", sent.saturating_sub(received))
            })??;
            // A late answer to a question is none to this.
            received += if note.lap == 0 { CREDIT } else { 0 };
        }
    }
    Ok(received as f64 / begin.elapsed().as_secs_f64())
}
