//! Where functions keep state: buckets of keys in one file of redb (`state.redb`).
//!
//! One thread writes. While a write is under way the next changes gather, and share one transaction that is on disk
//! before any of them is answered: so what was answered survives a kill and a power cut. Reads see what was there when
//! they began and wait for no writer.
//!
//! A file that cannot be opened, a full disk or a damaged file is an error of each call that needs it, and of
//! `/readyz`; the module lives.

mod file;
mod writer;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use shunt_module::Health;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc, oneshot},
};

use self::{
    file::{File, Reader},
    writer::{Job, Work, Writer},
};

/// The longest key in bytes.
pub(crate) const LONGEST_KEY: usize = 1024;
/// The largest value in bytes.
pub(crate) const LARGEST_VALUE: usize = 1024 * 1024;
/// Most bytes of all values of one answer, or of one change.
pub(crate) const LARGEST_ANSWER: usize = 16 * 1024 * 1024;
/// Most keys or changes of one request, and most keys of one list.
pub(crate) const MOST: usize = 1000;
/// Bytes that a key costs besides itself and its value, for the bound of a bucket.
const KEY_COST: usize = 64;
/// All buckets together may have so many times what one of them may have.
const WHOLE: u64 = 4;
/// Changes that wait for the writer. Full: the callers wait, within their own time.
const WAITING: usize = 256;
/// Bytes of keys and values that wait for the writer, or are being written. Full: the callers wait, as above. Larger than
/// the largest request.
const WAITING_BYTES: u32 = 32 * 1024 * 1024;
/// Reads at the disk at a time. Full: the others wait.
const READS: usize = 8;

/// All buckets; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Buckets(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    file: Arc<File>,
    jobs: mpsc::Sender<Job>,
    /// Has a place for each byte that may wait.
    room: Arc<Semaphore>,
    /// A read whose call has gone keeps its place to its end, so that there are never more.
    reads: Arc<Semaphore>,
    /// The module's own runtime: reads block, and the threads of guests have none to spare for that.
    runtime: Handle,
    /// Most bytes of a bucket.
    bound: AtomicU64,
}

/// A bucket: keys of its own. It is there as soon as something is put into it.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    buckets: Buckets,
    name: String,
}

/// A value and its tag, which changes with each change and is never given twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) value: Vec<u8>,
    pub(crate) etag: String,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) key: String,
    pub(crate) condition: Condition,
    /// None removes the key.
    pub(crate) value: Option<Vec<u8>>,
}

/// What must hold before a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Nothing: the last writer wins.
    Any,
    /// The key is not there.
    Absent,
    /// The value has this tag.
    Etag(String),
}

/// What a change did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Done {
    /// The value has this tag now.
    Set(String),
    /// Was there a value?
    Deleted(bool),
}

/// A number to be added to a value, which is a decimal number as text; a value that is not there counts as 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) delta: i128,
    /// The least and the most that may come out.
    pub(crate) range: (i128, i128),
}

/// Why state did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StateError {
    /// The value has another tag than the caller thinks.
    #[error("the key {0:?} has another tag than expected")]
    Conflict(String),
    /// A key, a value or a request is too large, or the bucket is full.
    #[error("{what} would have {size}, {max} are allowed")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large, in bytes or pieces.
        size: u64,
        /// How large it may be.
        max: u64,
    },
    /// What is to be counted up is no number, or would not fit.
    #[error("{0}")]
    Number(String),
    /// The store has no such bucket.
    #[error("the state store has no such bucket")]
    NoSuchStore,
    /// The grants do not give it.
    #[error("{0}")]
    Denied(String),
    /// The disk, or the store, does not do it now.
    #[error("{0}")]
    Unavailable(String),
}

// === impl Buckets ===

impl Buckets {
    /// Buckets in this file, each of at most so many bytes, and of [`WHOLE`] times as many together. The file is opened,
    /// or made, in the background. Needs a tokio runtime, which must outlive it: reads are done on its threads.
    pub(crate) fn new(path: PathBuf, bound: u64, health: Health) -> Self {
        let (jobs, waiting) = mpsc::channel(WAITING);
        let file = Arc::new(File::new(path, health));
        Writer::new(Arc::clone(&file), waiting).start();
        Self(Arc::new(Shared {
            file,
            jobs,
            room: Arc::new(Semaphore::new(WAITING_BYTES as usize)),
            reads: Arc::new(Semaphore::new(READS)),
            runtime: Handle::current(),
            bound: AtomicU64::new(bound),
        }))
    }

    /// From now on a bucket may have so many bytes. One that has more takes only changes that make it smaller.
    pub(crate) fn set_bound(&self, bytes: u64) {
        self.0.bound.store(bytes, Ordering::Relaxed);
    }

    /// Closes the file; nothing is read or written any more.
    pub(crate) fn end(&self) {
        self.0.file.close();
    }

    /// The bucket of this name.
    pub(crate) fn bucket(&self, name: &str) -> Bucket {
        Bucket { buckets: self.clone(), name: name.to_owned() }
    }

    /// Reads, on a thread that may block.
    async fn read<T, F>(&self, read: F) -> Result<T, StateError>
    where
        T: Send + 'static,
        F: FnOnce(&Reader) -> Result<T, file::Failure> + Send + 'static,
    {
        let unavailable = |error: &dyn ToString| StateError::Unavailable(error.to_string());
        // The semaphore is never closed.
        let turn = Arc::clone(&self.0.reads).acquire_owned().await.map_err(|error| unavailable(&error))?;
        let file = Arc::clone(&self.0.file);
        let reading = self.0.runtime.spawn_blocking(move || {
            let _turn = turn;
            file.read(read)
        });
        reading.await.map_err(|error| unavailable(&error))?
    }

    async fn write<T>(
        &self,
        work: impl FnOnce(oneshot::Sender<Result<T, StateError>>) -> Work,
    ) -> Result<T, StateError> {
        let (answer, answered) = oneshot::channel();
        let work = work(answer);
        let gone = || StateError::Unavailable("the thread that writes state has ended".to_owned());
        let size = u32::try_from(work.size()).map_or(WAITING_BYTES, |size| size.min(WAITING_BYTES));
        let room = Arc::clone(&self.0.room).acquire_many_owned(size).await.map_err(|_| gone())?;
        let job = Job { work, bound: self.0.bound.load(Ordering::Relaxed), _room: room };
        self.0.jobs.send(job).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

// === impl Bucket ===

impl Bucket {
    /// What is there under these keys, in their order.
    pub(crate) async fn get(&self, keys: Vec<String>) -> Result<Vec<Option<Entry>>, StateError> {
        at_most("a request for keys", keys.len(), MOST)?;
        keys.iter().try_for_each(|key| check_key(key))?;
        let bucket = self.name.clone();
        self.buckets.read(move |reader| reader.get(&bucket, &keys)).await
    }

    /// The keys that begin so, in order, from after the one given; at most [`MOST`].
    pub(crate) async fn keys(
        &self,
        prefix: String,
        after: Option<String>,
    ) -> Result<Vec<String>, StateError> {
        let bucket = self.name.clone();
        self.buckets.read(move |reader| reader.keys(&bucket, &prefix, after.as_deref(), MOST)).await
    }

    /// Does all of these one after the other, or none.
    pub(crate) async fn apply(&self, operations: Vec<Operation>) -> Result<Vec<Done>, StateError> {
        check(&operations)?;
        let bucket = self.name.clone();
        self.buckets.write(|answer| Work::Apply { bucket, operations, answer }).await
    }

    /// Adds to a number; the new one.
    pub(crate) async fn add(&self, key: String, sum: Sum) -> Result<i128, StateError> {
        check_key(&key)?;
        let bucket = self.name.clone();
        self.buckets.write(|answer| Work::Add { bucket, key, sum, answer }).await
    }
}

// === impl Sum ===

impl Sum {
    /// The number that comes out where this was the value before.
    pub(crate) fn with(self, key: &str, before: Option<&[u8]>) -> Result<i128, StateError> {
        let before = match before {
            None => 0,
            Some(value) => {
                let number = str::from_utf8(value).ok().and_then(|text| text.parse::<i128>().ok());
                let wrong = || StateError::Number(format!("the value of {key:?} is no decimal number"));
                number.ok_or_else(wrong)?
            }
        };
        let (least, most) = self.range;
        let sum = before.checked_add(self.delta).filter(|sum| (least..=most).contains(sum));
        sum.ok_or_else(|| StateError::Number(format!("{key:?} would be counted beyond {least} to {most}")))
    }
}

/// Are these changes within the bounds of one request?
pub(crate) fn check(operations: &[Operation]) -> Result<(), StateError> {
    at_most("a request's changes", operations.len(), MOST)?;
    let mut sum = 0;
    for operation in operations {
        check_key(&operation.key)?;
        let size = operation.value.as_ref().map_or(0, Vec::len);
        at_most("the value", size, LARGEST_VALUE)?;
        sum += size;
    }
    at_most("a request's values", sum, LARGEST_ANSWER)
}

/// Is the key within its bound?
pub(crate) fn check_key(key: &str) -> Result<(), StateError> {
    at_most("the key", key.len(), LONGEST_KEY)
}

fn at_most(what: &'static str, size: usize, max: usize) -> Result<(), StateError> {
    if size <= max { Ok(()) } else { Err(StateError::TooLarge { what, size: size as u64, max: max as u64 }) }
}

#[cfg(test)]
mod tests;
