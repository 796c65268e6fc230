//! What functions say: the newest lines of each, in memory.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use serde::{Serialize, Serializer};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::watch;

use super::{Reach, View, take};
use crate::{host::world::function::shunt::functions::log, name::FunctionName};

/// The longest line in bytes; what is longer is cut.
const LONGEST: usize = 4096;
/// Most lines of one call; those beyond it are dropped, and the last line says so.
pub(super) const MOST: u32 = 1000;
/// Most bytes of the lines that are kept of a function: the oldest go first, as with the bound on lines.
const KEPT_BYTES: usize = 512 * 1024;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// A line of a function's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Line {
    /// Its running number, from 1; a gap tells of lines that are gone.
    pub(crate) number: u64,
    #[serde(serialize_with = "rfc3339")]
    pub(crate) at: OffsetDateTime,
    pub(crate) level: Level,
    pub(crate) message: String,
}

/// The logs of all functions.
#[derive(Debug)]
pub(crate) struct Logs {
    bound: Arc<AtomicUsize>,
    logs: Mutex<HashMap<FunctionName, Log>>,
}

/// The log of a function; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Log(Arc<Ring>);

#[derive(Debug)]
struct Ring {
    name: FunctionName,
    bound: Arc<AtomicUsize>,
    lines: Mutex<Lines>,
    /// The number of the newest line.
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<Line>,
    bytes: usize,
    newest: u64,
}

// === impl Logs ===

impl Logs {
    pub(super) fn new(bound: usize) -> Self {
        Self { bound: Arc::new(AtomicUsize::new(bound)), logs: Mutex::default() }
    }

    pub(super) fn set_bound(&self, lines: usize) {
        self.bound.store(lines, Ordering::Relaxed);
    }

    /// The log of this function; it begins with the first question for it.
    pub(crate) fn of(&self, name: &FunctionName) -> Log {
        let mut logs = self.logs.lock();
        let log = logs.entry(name.clone());
        log.or_insert_with(|| Log::new(name.clone(), Arc::clone(&self.bound))).clone()
    }

    /// Forgets the log of a function that is removed.
    pub(crate) fn remove(&self, name: &FunctionName) {
        self.logs.lock().remove(name);
    }
}

// === impl Log ===

impl Log {
    fn new(name: FunctionName, bound: Arc<AtomicUsize>) -> Self {
        let ring = Ring { name, bound, lines: Mutex::default(), newest: watch::Sender::new(0) };
        Self(Arc::new(ring))
    }

    /// One that nobody reads.
    pub(super) fn detached(name: FunctionName) -> Self {
        Self::new(name, Arc::default())
    }

    /// The lines after this number that are still kept, the oldest first, at most so many.
    pub(crate) fn lines(&self, after: u64, most: usize) -> Vec<Line> {
        let lines = self.0.lines.lock();
        lines.kept.iter().filter(|line| line.number > after).take(most).cloned().collect()
    }

    /// The number of the newest line; 0 before the first. Changes with each line, so that a reader can follow.
    pub(crate) fn newest(&self) -> watch::Receiver<u64> {
        self.0.newest.subscribe()
    }

    /// Adds a line that the module itself has to say of the function.
    pub(crate) fn add(&self, level: Level, message: &str) {
        let message = plain(message);
        tracing::debug!(function = %self.0.name, ?level, message, "A function logged.");
        let mut lines = self.0.lines.lock();
        lines.newest += 1;
        lines.bytes += message.len();
        let number = lines.newest;
        lines.kept.push_back(Line { number, at: OffsetDateTime::now_utc(), level, message });
        let bound = self.0.bound.load(Ordering::Relaxed);
        while lines.kept.len() > bound || lines.bytes > KEPT_BYTES {
            let Some(oldest) = lines.kept.pop_front() else { break };
            lines.bytes -= oldest.message.len();
        }
        drop(lines);
        self.0.newest.send_replace(number);
    }
}

// === impl Reach ===

impl Reach {
    /// Adds what a guest says: a line, or several where it has line ends.
    pub(super) fn say(&self, level: Level, message: &str) {
        for line in message.lines() {
            match take(&self.left.lines) {
                Some(1) => {
                    let end =
                        format!("This call has logged {MOST} lines; what it says from here on is dropped.");
                    self.log().add(Level::Warn, &end);
                }
                Some(_) => self.log().add(level, line),
                None => return,
            }
        }
    }
}

impl log::Host for View<'_> {
    async fn log(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        let level = match level {
            log::Level::Debug => Level::Debug,
            log::Level::Info => Level::Info,
            log::Level::Warn => Level::Warn,
            log::Level::Error => Level::Error,
        };
        self.reach.say(level, &message);
        Ok(())
    }
}

/// The line within its bound, and without signs that a terminal would obey.
fn plain(line: &str) -> String {
    let mut end = line.len().min(LONGEST);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    let (kept, cut) = line.split_at(end);
    let sign = |sign: char| if sign.is_control() && sign != '\t' { '\u{fffd}' } else { sign };
    let mut text: String = kept.chars().map(sign).collect();
    if !cut.is_empty() {
        text.push('…');
    }
    text
}

fn rfc3339<S: Serializer>(at: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    at.format(&Rfc3339).unwrap_or_default().serialize(serializer)
}
