//! The file of all buckets.

use std::{
    collections::HashMap,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use redb::{
    Database, ReadOnlyTable, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError,
    WriteTransaction,
};
use shunt_module::Health;

use super::{Condition, Done, Entry, KEY_COST, LARGEST_ANSWER, Operation, StateError, Sum, WHOLE, at_most};

/// Bucket and key, to the tag (8 bytes, little-endian) and the value.
const STATE: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("state");
/// Bytes of each bucket.
const SIZES: TableDefinition<'_, &str, u64> = TableDefinition::new("sizes");
/// The last tag given, under `etag`: one for all, so that a key that was removed and made again has another. And the bytes
/// of all buckets, under `bytes`.
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");
/// Bytes in front of each value.
const HEAD: usize = 8;
/// Bytes that redb may keep in memory.
const CACHE: usize = 8 * 1024 * 1024;
/// The part of the module's health.
const PART: &str = "state";
/// So long a file that did not open is not tried again: its check may take a while.
const AGAIN: Duration = Duration::from_secs(1);

/// The file, open or not.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    health: Health,
    slot: Mutex<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    /// None before the first use, and after a failure.
    database: Option<Arc<Database>>,
    failed: Option<(Instant, StateError)>,
    /// Nobody opens it any more.
    is_over: bool,
}

/// What ends a piece of work: an answer of its own, or the disk.
#[derive(Debug)]
pub(super) enum Failure {
    Answer(StateError),
    Disk(String),
}

/// A look at the file as it is now.
pub(super) struct Reader(Option<ReadOnlyTable<(&'static str, &'static str), &'static [u8]>>);

/// One transaction.
pub(super) struct Change<'a> {
    state: Table<'a, (&'static str, &'static str), &'static [u8]>,
    sizes: Table<'a, &'static str, u64>,
    counters: Table<'a, &'static str, u64>,
}

/// What is known of a value while changes are planned.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// None: it is made by an earlier change of the same request.
    etag: Option<u64>,
    size: usize,
}

// === impl File ===

impl File {
    pub(super) fn new(path: PathBuf, health: Health) -> Self {
        Self { path, health, slot: Mutex::default() }
    }

    /// Closes it for good: what is on disk needs no repair, and another process may open it.
    pub(super) fn close(&self) {
        let mut slot = self.slot.lock();
        slot.is_over = true;
        slot.database = None;
    }

    /// The open file.
    pub(super) fn open(&self) -> Result<Arc<Database>, StateError> {
        let mut slot = self.slot.lock();
        if let Some(database) = &slot.database {
            return Ok(Arc::clone(database));
        }
        if slot.is_over {
            return Err(StateError::Unavailable("the module is ending".to_owned()));
        }
        if let Some((at, error)) = &slot.failed
            && at.elapsed() < AGAIN
        {
            return Err(error.clone());
        }
        // redb does not promise to find every damage without a panic.
        let opened = catch_unwind(AssertUnwindSafe(|| self.open_file()));
        match opened.unwrap_or_else(|_| Err("the file is damaged".to_owned())) {
            Ok(database) => {
                let database = Arc::new(database);
                *slot = Slot { database: Some(Arc::clone(&database)), ..Slot::default() };
                self.health.set(PART, Ok(()));
                Ok(database)
            }
            Err(why) => {
                let error = self.unavailable(&why);
                slot.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    fn open_file(&self) -> Result<Database, String> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        }
        let database = Database::builder().set_cache_size(CACHE).create(&self.path);
        let database = database.map_err(|error| error.to_string())?;
        // Tables of another form are found here and not at the first call.
        let tables = || -> Result<(), Failure> {
            let transaction = database.begin_write()?;
            Change::begin(&transaction)?.recount()?;
            transaction.commit()?;
            Ok(())
        };
        match tables() {
            Ok(()) => Ok(database),
            Err(Failure::Disk(why) | Failure::Answer(StateError::Unavailable(why))) => Err(why),
            Err(Failure::Answer(error)) => Err(error.to_string()),
        }
    }

    /// Reads. A failure of the disk closes the file; the next call opens it anew.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Reader) -> Result<T, Failure>) -> Result<T, StateError> {
        let database = self.open()?;
        self.guarded(&database, || read(&Reader::new(&database)?))
    }

    /// Works with it, and makes an error of each failure.
    pub(super) fn guarded<T>(
        &self,
        database: &Arc<Database>,
        work: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, StateError> {
        let done = catch_unwind(AssertUnwindSafe(work));
        match done.unwrap_or_else(|_| Err(Failure::Disk("the file is damaged".to_owned()))) {
            Ok(done) => Ok(done),
            Err(Failure::Answer(error)) => Err(error),
            Err(Failure::Disk(why)) => {
                // redb takes nothing more after an error. Another one may have opened it anew meanwhile.
                let mut slot = self.slot.lock();
                slot.database.take_if(|open| Arc::ptr_eq(open, database));
                drop(slot);
                Err(self.unavailable(&why))
            }
        }
    }

    /// The disk took something.
    pub(super) fn works(&self) {
        self.health.set(PART, Ok(()));
    }

    fn unavailable(&self, why: &str) -> StateError {
        let text = format!("the file {} cannot be used: {why}", self.path.display());
        if !self.health.failing().iter().any(|(part, _)| *part == PART) {
            tracing::error!("The state of functions: {text}.");
        }
        self.health.set(PART, Err(text.clone()));
        StateError::Unavailable(text)
    }
}

// === impl Reader ===

impl Reader {
    fn new(database: &Database) -> Result<Self, Failure> {
        match database.begin_read()?.open_table(STATE) {
            Ok(table) => Ok(Self(Some(table))),
            Err(TableError::TableDoesNotExist(_)) => Ok(Self(None)),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn get(&self, bucket: &str, keys: &[String]) -> Result<Vec<Option<Entry>>, Failure> {
        let Some(table) = &self.0 else { return Ok(vec![None; keys.len()]) };
        let mut size = 0;
        let entry = |key: &String| {
            let Some(record) = table.get((bucket, key.as_str()))? else { return Ok(None) };
            let (etag, value) = split(record.value());
            size += value.len();
            at_most("the values of one answer", size, LARGEST_ANSWER)?;
            Ok(Some(Entry { value: value.to_vec(), etag: etag.to_string() }))
        };
        keys.iter().map(entry).collect()
    }

    pub(super) fn keys(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<String>, Failure> {
        let Some(table) = &self.0 else { return Ok(Vec::new()) };
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded((bucket, after)),
            _ => Bound::Included((bucket, prefix)),
        };
        let mut keys = Vec::new();
        for record in table.range::<(&str, &str)>((from, Bound::Unbounded))? {
            let (place, _) = record?;
            let (own, key) = place.value();
            if own != bucket || !key.starts_with(prefix) || keys.len() == most {
                break;
            }
            keys.push(key.to_owned());
        }
        Ok(keys)
    }
}

// === impl Change ===

impl<'a> Change<'a> {
    pub(super) fn begin(transaction: &'a WriteTransaction) -> Result<Self, Failure> {
        Ok(Self {
            state: transaction.open_table(STATE)?,
            sizes: transaction.open_table(SIZES)?,
            counters: transaction.open_table(COUNTERS)?,
        })
    }

    /// Does all of these or, with an answer that is an error, none: everything is looked at before the first change,
    /// because others share the transaction.
    pub(super) fn apply(
        &mut self,
        bucket: &str,
        operations: &[Operation],
        bound: u64,
    ) -> Result<Vec<Done>, Failure> {
        let grows = self.plan(bucket, operations)?;
        self.grow(bucket, grows, bound)?;
        let mut done = Vec::with_capacity(operations.len());
        for operation in operations {
            let place = (bucket, operation.key.as_str());
            done.push(match &operation.value {
                None => Done::Deleted(self.state.remove(place)?.is_some()),
                Some(value) => Done::Set(self.put(place, value)?.to_string()),
            });
        }
        Ok(done)
    }

    pub(super) fn add(&mut self, bucket: &str, key: &str, sum: Sum, bound: u64) -> Result<i128, Failure> {
        let (sum, before) = {
            let record = self.state.get((bucket, key))?;
            let value = record.as_ref().map(|record| split(record.value()).1);
            (sum.with(key, value)?, value.map(|value| cost(key, value.len())))
        };
        let text = sum.to_string();
        let grows = cost(key, text.len()) - before.unwrap_or(0);
        self.grow(bucket, grows, bound)?;
        self.put((bucket, key), text.as_bytes())?;
        Ok(sum)
    }

    /// Do all conditions hold? By how much does the bucket grow?
    fn plan(&self, bucket: &str, operations: &[Operation]) -> Result<i64, Failure> {
        let mut made: HashMap<&str, Option<Known>> = HashMap::new();
        let mut grows = 0;
        for operation in operations {
            let key = operation.key.as_str();
            let known = match made.get(key) {
                Some(known) => *known,
                None => self.known(bucket, key)?,
            };
            if !operation.condition.holds(known) {
                return Err(StateError::Conflict(key.to_owned()).into());
            }
            grows -= known.map_or(0, |known| cost(key, known.size));
            let new = operation.value.as_ref().map(|value| Known { etag: None, size: value.len() });
            grows += new.map_or(0, |new| cost(key, new.size));
            made.insert(key, new);
        }
        Ok(grows)
    }

    fn known(&self, bucket: &str, key: &str) -> Result<Option<Known>, Failure> {
        let record = self.state.get((bucket, key))?;
        let known = record.map(|record| {
            let (etag, value) = split(record.value());
            Known { etag: Some(etag), size: value.len() }
        });
        Ok(known)
    }

    /// Notes that a bucket grows so; refused beyond its bound, and beyond that of all together: state is never thrown
    /// away to make room.
    fn grow(&mut self, bucket: &str, grows: i64, bound: u64) -> Result<(), Failure> {
        let before = self.sizes.get(bucket)?.map_or(0, |size| size.value());
        let size = before.saturating_add_signed(grows);
        let all = self.counters.get("bytes")?.map_or(0, |all| all.value()).saturating_add_signed(grows);
        let bounds = [("the bucket", size, bound), ("all state", all, bound.saturating_mul(WHOLE))];
        for (what, size, max) in bounds {
            if size > max && grows > 0 {
                return Err(StateError::TooLarge { what, size, max }.into());
            }
        }
        if size == 0 {
            self.sizes.remove(bucket)?;
        } else {
            self.sizes.insert(bucket, size)?;
        }
        self.counters.insert("bytes", all)?;
        Ok(())
    }

    /// Adds up what all buckets have.
    fn recount(&mut self) -> Result<(), Failure> {
        let mut all = 0_u64;
        for record in self.sizes.iter()? {
            all = all.saturating_add(record?.1.value());
        }
        self.counters.insert("bytes", all)?;
        Ok(())
    }

    fn put(&mut self, place: (&str, &str), value: &[u8]) -> Result<u64, Failure> {
        let etag = self.counters.get("etag")?.map_or(0, |etag| etag.value()) + 1;
        self.counters.insert("etag", etag)?;
        let mut slot = self.state.insert_reserve(place, HEAD + value.len())?;
        let (head, data) = slot.as_mut().split_at_mut(HEAD);
        head.copy_from_slice(&etag.to_le_bytes());
        data.copy_from_slice(value);
        Ok(etag)
    }
}

// === impl Condition ===

impl Condition {
    fn holds(&self, known: Option<Known>) -> bool {
        match (self, known) {
            (Self::Any, _) => true,
            (Self::Absent, known) => known.is_none(),
            (Self::Etag(_), None) => false,
            (Self::Etag(wanted), Some(known)) => known.etag.is_some_and(|etag| etag.to_string() == *wanted),
        }
    }
}

// === impl Failure ===

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
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

/// What a key costs its bucket, in bytes.
fn cost(key: &str, value: usize) -> i64 {
    (key.len() + value + KEY_COST) as i64
}

/// Tag and value of a record.
fn split(record: &[u8]) -> (u64, &[u8]) {
    match record.split_first_chunk::<HEAD>() {
        Some((etag, value)) => (u64::from_le_bytes(*etag), value),
        None => (0, &[]),
    }
}
