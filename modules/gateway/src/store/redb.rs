//! State in one file of redb.
//!
//! Every change is one transaction that is on disk before it is answered; so what was answered survives a power cut,
//! and a transaction of which one part fails leaves nothing. Expired keys count as not there and are removed by later
//! changes.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use parking_lot::Mutex;
use redb::{
    Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table, TableDefinition, TableError,
};
use tokio::sync::Semaphore;

use super::{Answer, Change, Item, LARGEST_ANSWER, Operation, StateStore, StoreError};

/// Key to record: etag, when it expires (0: never), both 8 bytes little-endian, then the value.
const STATE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("state");
/// When a key expires, milliseconds since 1970, and the key.
const EXPIRY: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("expiry");
/// The last etag given, under `etag`, and the sum of all keys and values in bytes, under `bytes`.
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");
/// Bytes in front of each value.
const HEAD: usize = 16;
/// Bytes that redb may keep in memory.
const CACHE: usize = 8 * 1024 * 1024;
/// Requests at the disk at a time. Full: the others wait.
const AT_ONCE: usize = 8;
/// Most expired keys that one change removes, so that none takes long.
const SWEEP: usize = 100;

/// A store in a file.
#[derive(Debug)]
pub(crate) struct RedbStore {
    file: Arc<File>,
    turns: Semaphore,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    max_keys: u64,
    max_bytes: u64,
    /// None before the first use, and after a failure.
    database: Mutex<Option<Arc<Database>>>,
}

#[derive(Debug)]
struct Record {
    etag: u64,
    expires_ms: u64,
    value: Bytes,
}

// === impl RedbStore ===

impl RedbStore {
    /// A store in this file, which is made at its first use.
    pub(crate) fn new(path: PathBuf, max_keys: u64, max_bytes: u64) -> Self {
        let file = File { path, max_keys, max_bytes, database: Mutex::new(None) };
        Self { file: Arc::new(file), turns: Semaphore::new(AT_ONCE) }
    }

    /// Runs this on a thread that may block. A failure of the disk closes the file; the next call opens it anew.
    async fn work<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&File, &Database) -> Result<T, Failure> + Send + 'static,
    {
        // The semaphore is never closed.
        let _turn = self.turns.acquire().await.map_err(|_| unavailable("the store is closed"))?;
        let file = Arc::clone(&self.file);
        let done = tokio::task::spawn_blocking(move || {
            let database = file.open()?;
            let done = work(&file, &database);
            if let Err(Failure::Disk(_)) = &done {
                *file.database.lock() = None;
            }
            done.map_err(StoreError::from)
        });
        done.await.map_err(unavailable)?
    }
}

impl StateStore for RedbStore {
    fn get(&self, keys: Vec<String>) -> Answer<'_, Vec<Option<Item>>> {
        Box::pin(self.work(move |_, database| {
            let now = now_ms();
            let table = match database.begin_read()?.open_table(STATE) {
                Ok(table) => table,
                Err(TableError::TableDoesNotExist(_)) => return Ok(vec![None; keys.len()]),
                Err(error) => return Err(error.into()),
            };
            let mut room = LARGEST_ANSWER;
            let item = |key: &String| {
                let Some(value) = table.get(key.as_str())? else { return Ok(None) };
                let size = value.value().len().saturating_sub(HEAD);
                room = room.checked_sub(size).ok_or(Failure::Answer(StoreError::TooMuch))?;
                let record = Record::read(value.value());
                Ok(record.lives_at(now).then(|| Item::from(record)))
            };
            keys.iter().map(item).collect()
        }))
    }

    fn apply(&self, operations: Vec<Operation>) -> Answer<'_, ()> {
        Box::pin(self.work(move |file, database| {
            let transaction = database.begin_write()?;
            {
                let mut change = Transaction {
                    state: transaction.open_table(STATE)?,
                    expiry: transaction.open_table(EXPIRY)?,
                    counters: transaction.open_table(COUNTERS)?,
                    now: now_ms(),
                };
                change.sweep()?;
                let before = change.size()?;
                change.check(&operations)?;
                for operation in &operations {
                    change.make(operation)?;
                }
                change.bounds(file, before)?;
            }
            // Dropped before this, on any error above, nothing has changed.
            transaction.commit()?;
            Ok(())
        }))
    }
}

// === impl File ===

impl File {
    fn open(&self) -> Result<Arc<Database>, StoreError> {
        let mut database = self.database.lock();
        if let Some(database) = &*database {
            return Ok(Arc::clone(database));
        }
        let folder = self.path.parent().unwrap_or(&self.path);
        std::fs::create_dir_all(folder).map_err(unavailable)?;
        let opened = Database::builder().set_cache_size(CACHE).create(&self.path).map_err(|error| {
            tracing::error!(file = %self.path.display(), %error, "The file of a state store cannot be opened.");
            unavailable(error)
        })?;
        let opened = Arc::new(opened);
        *database = Some(Arc::clone(&opened));
        Ok(opened)
    }
}

/// One change at work.
struct Transaction<'a> {
    state: Table<'a, &'static str, &'static [u8]>,
    expiry: Table<'a, (u64, &'static str), ()>,
    counters: Table<'a, &'static str, u64>,
    now: u64,
}

// === impl Transaction ===

impl Transaction<'_> {
    /// Removes some keys that have expired.
    fn sweep(&mut self) -> Result<(), Failure> {
        let mut expired = Vec::new();
        for entry in self.expiry.range(..(self.now, ""))?.take(SWEEP) {
            expired.push(entry?.0.value().1.to_owned());
        }
        expired.iter().try_for_each(|key| self.remove(key))
    }

    fn check(&self, operations: &[Operation]) -> Result<(), Failure> {
        for operation in operations {
            let record = self.state.get(operation.key.as_str())?.map(|value| Record::read(value.value()));
            let record = record.filter(|record| record.lives_at(self.now));
            if !operation.agrees(record.map(|record| record.etag)) {
                return Err(StoreError::Mismatch(operation.key.clone()).into());
            }
        }
        Ok(())
    }

    fn make(&mut self, operation: &Operation) -> Result<(), Failure> {
        let key = operation.key.as_str();
        self.remove(key)?;
        let Change::Set { value, ttl_s } = &operation.change else { return Ok(()) };
        let expires_ms = ttl_s.map_or(0, |ttl_s| self.now.saturating_add(ttl_s.saturating_mul(1000)));
        // Etags are never given twice, so that a key that was removed and made again is not taken for the old one.
        let etag = self.counter("etag")? + 1;
        self.counters.insert("etag", etag)?;
        let size = HEAD + value.len();
        {
            let mut slot = self.state.insert_reserve(key, size)?;
            let (head, data) = slot.as_mut().split_at_mut(HEAD);
            let (first, second) = head.split_at_mut(8);
            first.copy_from_slice(&etag.to_le_bytes());
            second.copy_from_slice(&expires_ms.to_le_bytes());
            data.copy_from_slice(value);
        }
        if expires_ms > 0 {
            self.expiry.insert((expires_ms, key), ())?;
        }
        let bytes = self.counter("bytes")? + (key.len() + value.len()) as u64;
        self.counters.insert("bytes", bytes)?;
        Ok(())
    }

    fn remove(&mut self, key: &str) -> Result<(), Failure> {
        let removed = self.state.remove(key)?.map(|value| Record::read(value.value()));
        if let Some(removed) = removed {
            if removed.expires_ms > 0 {
                self.expiry.remove((removed.expires_ms, key))?;
            }
            let size = (key.len() + removed.value.len()) as u64;
            let bytes = self.counter("bytes")?.saturating_sub(size);
            self.counters.insert("bytes", bytes)?;
        }
        Ok(())
    }

    /// Keys, and bytes of keys and values together.
    fn size(&self) -> Result<(u64, u64), Failure> {
        Ok((self.state.len()?, self.counter("bytes")?))
    }

    /// Refuses a change that grows beyond the bounds: state is never thrown away to make room.
    fn bounds(&self, file: &File, before: (u64, u64)) -> Result<(), Failure> {
        let now = self.size()?;
        for (what, before, size, max) in
            [("its keys", before.0, now.0, file.max_keys), ("its bytes", before.1, now.1, file.max_bytes)]
        {
            if size > max && size > before {
                return Err(StoreError::Full { what, size, max }.into());
            }
        }
        Ok(())
    }

    fn counter(&self, name: &str) -> Result<u64, Failure> {
        Ok(self.counters.get(name)?.map_or(0, |value| value.value()))
    }
}

// === impl Record ===

impl Record {
    fn read(bytes: &[u8]) -> Self {
        let number = |from: usize| {
            let bytes = bytes.get(from..from + 8).and_then(|bytes| bytes.try_into().ok());
            u64::from_le_bytes(bytes.unwrap_or_default())
        };
        let value = Bytes::copy_from_slice(bytes.get(HEAD..).unwrap_or_default());
        Self { etag: number(0), expires_ms: number(8), value }
    }

    fn lives_at(&self, now: u64) -> bool {
        self.expires_ms == 0 || self.expires_ms > now
    }
}

impl From<Record> for Item {
    fn from(record: Record) -> Self {
        let expires_ms = Some(record.expires_ms).filter(|at| *at > 0);
        Self { value: record.value, etag: record.etag.to_string(), expires_ms }
    }
}

/// What ends a piece of work: the store's own answer, or the disk.
#[derive(Debug)]
enum Failure {
    Answer(StoreError),
    Disk(String),
}

// === impl Failure ===

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Answer(error)
    }
}

macro_rules! from_the_disk {
    ($($error:ty),*) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::Disk(error.to_string())
            }
        })*
    };
}

from_the_disk!(redb::StorageError, redb::TableError, redb::TransactionError, redb::CommitError);

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Answer(error) => error,
            Failure::Disk(text) => Self::Unavailable(text),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` hands over")]
fn unavailable(error: impl ToString) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
