//! Keeps a process running until it is told to stop.

use std::{
    path::PathBuf,
    process::ExitStatus,
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{board::Board, logs};
use crate::child::{Process, Program};

/// The first wait before a process that ended is started again; it doubles up to [`LONGEST_WAIT`]. IoT Edge begins
/// with 10 s and goes up to 300 s.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// Running that long makes up for earlier ends.
const MADE_UP: Duration = Duration::from_mins(1);
/// What a module has to stop in; it drains in 8 s.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// What its last words have to come out in.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// A process that is kept running.
#[derive(Debug)]
pub(crate) struct Kept {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// How to start it: asked each time, so that a port that was taken meanwhile is not asked for again.
/// Gives the program and its HTTP address.
pub(crate) type Recipe = Box<dyn Fn() -> anyhow::Result<(Program, Option<String>)> + Send + Sync>;

/// Where a process of the chain writes and is told of.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    /// The folder of log files.
    pub(crate) logs: PathBuf,
    /// The board.
    pub(crate) board: Board,
}

// === impl Kept ===

impl Kept {
    /// Starts it and keeps it running.
    pub(crate) fn start(name: String, recipe: Recipe, surroundings: Surroundings) -> Self {
        let stop = CancellationToken::new();
        // On a thread of the runtime: the kernel ends a child with the thread that started it.
        let task = tokio::spawn(keep(name, recipe, surroundings, stop.clone()));
        Self { stop, task }
    }

    /// Stops it and waits until it is gone.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        drop(self.task.await);
    }
}

async fn keep(name: String, recipe: Recipe, surroundings: Surroundings, stop: CancellationToken) {
    let board = &surroundings.board;
    let mut wait = FIRST_WAIT;
    loop {
        let begin = Instant::now();
        let end = match recipe().and_then(|(program, address)| Ok((Process::start(&program)?, address))) {
            Ok((mut process, address)) => {
                let readers = read_output(&name, &mut process, &surroundings);
                board.began(&name, process.pid(), address);
                let end = tokio::select! {
                    status = process.ended() => Some(status),
                    () = stop.cancelled() => None,
                };
                let Some(status) = end else {
                    if !process.stop(STOP_LIMIT).await {
                        board.say(format!(
                            "{name} did not stop within {} s and was ended",
                            STOP_LIMIT.as_secs()
                        ));
                    }
                    board.ended(&name, false);
                    return;
                };
                // What it said at its end shall be in the log before we tell of the end.
                drop(tokio::time::timeout(LAST_WORDS, readers).await);
                board.ended(&name, true);
                status.map_or_else(|error| error.to_string(), describe)
            }
            Err(error) => format!("could not be started: {error:#}"),
        };
        if begin.elapsed() > MADE_UP {
            wait = FIRST_WAIT;
        }
        board.say(format!("{name} {end}; starts again in {:.1} s", wait.as_secs_f64()));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Follows both outputs; the handle ends with the last of them.
pub(crate) fn read_output(
    name: &str,
    process: &mut Process,
    surroundings: &Surroundings,
) -> oneshot::Receiver<()> {
    let (done, ended) = oneshot::channel();
    if let Some((out, err)) = process.take_output() {
        let follow_out =
            logs::follow(out, name.to_owned(), surroundings.logs.clone(), surroundings.board.clone());
        let follow_err =
            logs::follow(err, name.to_owned(), surroundings.logs.clone(), surroundings.board.clone());
        tokio::spawn(async move {
            tokio::join!(follow_out, follow_err);
            done.send(()).ok();
        });
    }
    ended
}

fn describe(status: ExitStatus) -> String {
    match status.code() {
        Some(0) => "ended by itself".to_owned(),
        Some(78) => "ended: its settings cannot be used (exit code 78, see its log)".to_owned(),
        Some(code) => format!("ended with exit code {code}"),
        None => format!("was ended ({status})"),
    }
}

/// Follows standard error alone.
pub(crate) fn read_errors(name: &str, process: &mut Process, surroundings: &Surroundings) {
    if let Some(errors) = process.take_errors() {
        tokio::spawn(logs::follow(
            errors,
            name.to_owned(),
            surroundings.logs.clone(),
            surroundings.board.clone(),
        ));
    }
}
