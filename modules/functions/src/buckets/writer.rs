//! The thread that writes.

use std::{sync::Arc, time::Duration};

use redb::{Database, WriteTransaction};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::{
    Done, Operation, StateError, Sum,
    file::{Change, Failure, File},
};

/// Most changes, and most bytes, in one transaction.
const BATCH: (usize, usize) = (256, 16 * 1024 * 1024);
/// How often to look, while the file does not open, whether it does now.
const LOOK: Duration = Duration::from_millis(100);

/// Something to be written.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) work: Work,
    /// Most bytes of the bucket.
    pub(super) bound: u64,
    /// The room for its bytes, given back when it is done.
    pub(super) _room: OwnedSemaphorePermit,
}

#[derive(Debug)]
pub(super) enum Work {
    Apply {
        bucket: String,
        operations: Vec<Operation>,
        answer: oneshot::Sender<Result<Vec<Done>, StateError>>,
    },
    Add {
        bucket: String,
        key: String,
        sum: Sum,
        answer: oneshot::Sender<Result<i128, StateError>>,
    },
}

/// What comes of a job, once the transaction is on disk.
enum Outcome {
    Applied(Result<Vec<Done>, StateError>),
    Added(Result<i128, StateError>),
}

/// The thread that writes.
pub(super) struct Writer {
    file: Arc<File>,
    jobs: mpsc::Receiver<Job>,
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(file: Arc<File>, jobs: mpsc::Receiver<Job>) -> Self {
        Self { file, jobs }
    }

    /// Begins. Ends when nobody can ask any more.
    pub(super) fn start(self) {
        let started = std::thread::Builder::new().name("functions-state".to_owned()).spawn(|| self.run());
        if let Err(error) = started {
            tracing::error!(%error, "The thread that writes the state of functions cannot be started.");
        }
    }

    /// Comes back when the file is open, or when nobody can ask any more. Why it is not open is in the health. It is
    /// tried without being asked, as one that was held by another process is free a moment later: nobody calls a
    /// module that is not ready.
    fn open(&mut self) {
        while self.file.open().is_err() && !self.jobs.is_closed() {
            match self.jobs.try_recv() {
                Ok(job) => self.write(vec![job]),
                Err(_) => std::thread::park_timeout(LOOK),
            }
        }
    }

    fn run(mut self) {
        self.open();
        while let Some(job) = self.jobs.blocking_recv() {
            let mut size = job.work.size();
            let mut batch = vec![job];
            while batch.len() < BATCH.0
                && size < BATCH.1
                && let Ok(job) = self.jobs.try_recv()
            {
                size += job.work.size();
                batch.push(job);
            }
            self.write(batch);
        }
    }

    fn write(&self, batch: Vec<Job>) {
        let written =
            self.file.open().and_then(|database| self.file.guarded(&database, || commit(&database, &batch)));
        match written {
            Ok(outcomes) => {
                self.file.works();
                for (job, outcome) in batch.into_iter().zip(outcomes) {
                    job.work.answer(outcome);
                }
            }
            Err(error) => batch.into_iter().for_each(|job| job.work.fail(&error)),
        }
    }
}

/// Does all jobs in one transaction, which is on disk when this returns.
fn commit(database: &Database, batch: &[Job]) -> Result<Vec<Outcome>, Failure> {
    let transaction = database.begin_write()?;
    let outcomes = outcomes(&transaction, batch)?;
    if outcomes.iter().any(Outcome::is_change) {
        transaction.commit()?;
    } else {
        transaction.abort()?;
    }
    Ok(outcomes)
}

fn outcomes(transaction: &WriteTransaction, batch: &[Job]) -> Result<Vec<Outcome>, Failure> {
    let mut change = Change::begin(transaction)?;
    let outcome = |Job { work, bound, .. }: &Job| {
        Ok(match work {
            Work::Apply { bucket, operations, .. } => {
                Outcome::Applied(own(change.apply(bucket, operations, *bound))?)
            }
            Work::Add { bucket, key, sum, .. } => Outcome::Added(own(change.add(bucket, key, *sum, *bound))?),
        })
    };
    batch.iter().map(outcome).collect()
}

/// An error that is the job's own answer; one of the disk ends the transaction.
fn own<T>(result: Result<T, Failure>) -> Result<Result<T, StateError>, Failure> {
    match result {
        Ok(done) => Ok(Ok(done)),
        Err(Failure::Answer(error)) => Ok(Err(error)),
        Err(disk) => Err(disk),
    }
}

// === impl Work ===

impl Work {
    /// Bytes that wait in it.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Apply { operations, .. } => {
                let size =
                    |Operation { key, value, .. }: &Operation| key.len() + value.as_ref().map_or(0, Vec::len);
                operations.iter().map(size).sum()
            }
            Self::Add { key, .. } => key.len(),
        }
    }

    /// A caller that has gone does not hear it.
    fn answer(self, outcome: Outcome) {
        match (self, outcome) {
            (Self::Apply { answer, .. }, Outcome::Applied(result)) => drop(answer.send(result)),
            (Self::Add { answer, .. }, Outcome::Added(result)) => drop(answer.send(result)),
            _ => {}
        }
    }

    fn fail(self, error: &StateError) {
        match self {
            Self::Apply { answer, .. } => drop(answer.send(Err(error.clone()))),
            Self::Add { answer, .. } => drop(answer.send(Err(error.clone()))),
        }
    }
}

// === impl Outcome ===

impl Outcome {
    fn is_change(&self) -> bool {
        match self {
            Self::Applied(result) => result.is_ok(),
            Self::Added(result) => result.is_ok(),
        }
    }
}
