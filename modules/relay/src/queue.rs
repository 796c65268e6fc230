//! The queue on disk: events in the order they came, bounded, each change whole or not at all.
//!
//! One file of redb (`queue.redb`), one table from running number to record. A small index in memory (number, size,
//! time) answers all questions about length and age, so the disk is read only for the records themselves.
//!
//! Everything here blocks: the caller is on a blocking thread.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
/// Bytes that redb may keep in memory. The relay reads what it wrote a moment ago, or old events one after the other.
const CACHE: usize = 8 * 1024 * 1024;
/// Bytes in front of each record: when it was queued, milliseconds since 1970.
const STAMP: usize = 8;

/// Bounds of the queue. When one is reached, the oldest events that are not being sent are dropped: fresh events say
/// more about the world than old ones, and a hub that was away for days shall not get only history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
}

/// An event to be queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// When it was queued, milliseconds since 1970.
    pub(crate) at_ms: u64,
    pub(crate) bytes: Bytes,
}

/// A change of the queue.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What is added, with the running numbers.
    insert: Vec<(u64, Item)>,
    /// What is taken out, because the hub has it, or because the queue is full.
    remove: Vec<u64>,
    /// How many events are dropped because the queue is full.
    pub(crate) dropped: u64,
    next: u64,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Queue {
    path: PathBuf,
    /// None after a failure, until [`Queue::recover`].
    database: Option<Database>,
    index: BTreeMap<u64, Entry>,
    bytes: u64,
    next: u64,
    /// Everything below was handed out.
    taken: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    bytes: u64,
    at_ms: u64,
}

/// How long, how large, how old the queue is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Measure {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    /// When the oldest event was queued, milliseconds since 1970.
    pub(crate) oldest_ms: Option<u64>,
}

/// Where a queue is in its running numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    next: u64,
    taken: u64,
}

/// Events that were handed out: running numbers and records, the oldest first.
pub(crate) type Taken = Vec<(u64, Vec<u8>)>;

/// Why the queue did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueueError {
    /// The file is damaged; it has to be replaced.
    #[error("the queue's file is damaged: {0}")]
    Damaged(String),
    /// The disk does not do it now: it is full, or not there, or another process holds the file, or the file is of
    /// another version of redb.
    #[error("the disk does not take the queue: {0}")]
    Disk(String),
}

// === impl QueueError ===

impl<E: Into<redb::Error>> From<E> for QueueError {
    fn from(error: E) -> Self {
        let error = error.into();
        let text = error.to_string();
        match error {
            redb::Error::Io(error)
                if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                Self::Damaged(text)
            }
            redb::Error::Corrupted(_)
            | redb::Error::RepairAborted
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TypeDefinitionChanged { .. } => Self::Damaged(text),
            // So is `UpgradeRequired`: the file is whole, a program of another version reads it. It stays.
            _ => Self::Disk(text),
        }
    }
}

// === impl Plan ===

impl Plan {
    pub(crate) fn is_empty(&self) -> bool {
        self.insert.is_empty() && self.remove.is_empty() && self.dropped == 0
    }
}

// === impl Queue ===

impl Queue {
    /// Opens the queue in this folder; makes both where they are not there.
    pub(crate) fn open(folder: &Path) -> Result<Self, QueueError> {
        Self::open_at(folder, Place { next: 1, taken: 0 })
    }

    /// Opens the queue where another one of this process left off: numbers below are never given again, because
    /// their events may still be on their way to the hub.
    pub(crate) fn open_at(folder: &Path, place: Place) -> Result<Self, QueueError> {
        fs::create_dir_all(folder).map_err(|error| {
            QueueError::Disk(format!("the folder {} cannot be made: {error}", folder.display()))
        })?;
        let path = folder.join("queue.redb");
        let Place { next, taken } = place;
        let mut queue = Self { path, database: None, index: BTreeMap::new(), bytes: 0, next, taken };
        queue.load()?;
        Ok(queue)
    }

    /// Moves a damaged file aside as `queue.redb.damaged`, in place of an earlier one: two would fill the disk.
    pub(crate) fn move_aside(folder: &Path) -> io::Result<PathBuf> {
        let (path, aside) = (folder.join("queue.redb"), folder.join("queue.redb.damaged"));
        fs::rename(path, &aside)?;
        Ok(aside)
    }

    /// Opens the file anew after a failure: redb takes nothing more after an error. What was handed out stays handed
    /// out.
    pub(crate) fn recover(&mut self) -> Result<(), QueueError> {
        self.database = None;
        self.load()
    }

    /// Is that change on disk after all? A failure may come after the disk has it.
    pub(crate) fn has_landed(&self, plan: &Plan) -> bool {
        match (plan.insert.first(), plan.remove.first()) {
            (Some((number, _)), _) => self.index.contains_key(number),
            (None, Some(number)) => !self.index.contains_key(number),
            (None, None) => false,
        }
    }

    /// Is the file open? It is not after a failure.
    pub(crate) fn is_open(&self) -> bool {
        self.database.is_some()
    }

    fn load(&mut self) -> Result<(), QueueError> {
        let database = Database::builder().set_cache_size(CACHE).create(&self.path)?;
        let (mut index, mut bytes) = (BTreeMap::new(), 0);
        let transaction = database.begin_read()?;
        match transaction.open_table(EVENTS) {
            Ok(table) => {
                for entry in table.iter()? {
                    let (number, value) = entry?;
                    let entry = Entry::of(value.value())?;
                    bytes += entry.bytes;
                    index.insert(number.value(), entry);
                }
            }
            Err(redb::TableError::TableDoesNotExist(_)) => {}
            Err(error) => return Err(error.into()),
        }
        drop(transaction);
        let last = index.last_key_value().map_or(0, |(number, _)| *number);
        self.next = self.next.max(last + 1);
        (self.database, self.index, self.bytes) = (Some(database), index, bytes);
        Ok(())
    }

    /// Plans a change: these events are added, these numbers are done with; what has to go to stay within the bounds.
    pub(crate) fn plan(&self, push: Vec<Item>, done: Vec<u64>, bounds: Bounds) -> Plan {
        let mut remove: Vec<u64> =
            done.into_iter().filter(|number| self.index.contains_key(number)).collect();
        remove.sort_unstable();
        remove.dedup();
        let mut insert: Vec<(u64, Item)> = (self.next..).zip(push).collect();
        let next = self.next + insert.len() as u64;
        let size = |number: &u64| self.index.get(number).map_or(0, |entry| entry.bytes);
        let mut events = self.index.len() as u64 - remove.len() as u64 + insert.len() as u64;
        let mut bytes = self.bytes - remove.iter().map(size).sum::<u64>()
            + insert.iter().map(|(_, item)| item.bytes.len() as u64).sum::<u64>();
        let full = |events: u64, bytes: u64| events > bounds.events || bytes > bounds.bytes;
        let mut dropped = 0;
        let mut victims = Vec::new();
        for (number, entry) in self.index.range(self.taken..) {
            if !full(events, bytes) {
                break;
            }
            if remove.binary_search(number).is_err() {
                victims.push(*number);
                events -= 1;
                bytes -= entry.bytes;
            }
        }
        dropped += victims.len() as u64;
        remove.extend(victims);
        let mut surplus = 0;
        for (_, item) in &insert {
            if !full(events, bytes) {
                break;
            }
            surplus += 1;
            events -= 1;
            bytes -= item.bytes.len() as u64;
        }
        dropped += surplus as u64;
        insert.drain(..surplus);
        Plan { insert, remove, dropped, next }
    }

    /// Makes the change, durably. After an error nothing has changed here; [`Queue::recover`] must follow.
    pub(crate) fn commit(&mut self, plan: &Plan) -> Result<(), QueueError> {
        self.write(plan).inspect_err(|_| self.database = None)?;
        for number in &plan.remove {
            if let Some(entry) = self.index.remove(number) {
                self.bytes -= entry.bytes;
            }
        }
        for (number, item) in &plan.insert {
            let entry = Entry { bytes: item.bytes.len() as u64, at_ms: item.at_ms };
            self.bytes += entry.bytes;
            self.index.insert(*number, entry);
        }
        self.next = self.next.max(plan.next);
        Ok(())
    }

    fn write(&self, plan: &Plan) -> Result<(), QueueError> {
        let transaction = self.database()?.begin_write()?;
        {
            let mut table = transaction.open_table(EVENTS)?;
            for number in &plan.remove {
                table.remove(number)?;
            }
            for (number, item) in &plan.insert {
                let size = STAMP + item.bytes.len();
                let mut slot = table.insert_reserve(number, size)?;
                let slot = slot.as_mut();
                let (stamp, bytes) = slot.split_at_mut(STAMP);
                stamp.copy_from_slice(&item.at_ms.to_le_bytes());
                bytes.copy_from_slice(&item.bytes);
            }
        }
        // redb's default durability: it is on disk when this returns.
        transaction.commit()?;
        Ok(())
    }

    /// Hands out the next events, the oldest first, this many at most. After an error nothing is handed out;
    /// [`Queue::recover`] must follow.
    pub(crate) fn take(&mut self, most: usize) -> Result<Taken, QueueError> {
        self.read(most).inspect_err(|_| self.database = None)
    }

    fn read(&mut self, most: usize) -> Result<Taken, QueueError> {
        let numbers: Vec<u64> =
            self.index.range(self.taken..).take(most).map(|(number, _)| *number).collect();
        let Some(last) = numbers.last().copied() else { return Ok(Vec::new()) };
        let table = self.database()?.begin_read()?.open_table(EVENTS)?;
        let mut records = Vec::with_capacity(numbers.len());
        for number in numbers {
            let value = table.get(number)?.ok_or_else(|| {
                QueueError::Damaged(format!("event {number} is in the index but not there"))
            })?;
            records.push((number, value.value().get(STAMP..).unwrap_or_default().to_vec()));
        }
        self.taken = last + 1;
        Ok(records)
    }

    /// Is there something to hand out?
    pub(crate) fn has_more(&self) -> bool {
        self.index.range(self.taken..).next().is_some()
    }

    pub(crate) fn place(&self) -> Place {
        Place { next: self.next, taken: self.taken }
    }

    pub(crate) fn measure(&self) -> Measure {
        Measure {
            events: self.index.len() as u64,
            bytes: self.bytes,
            oldest_ms: self.index.first_key_value().map(|(_, entry)| entry.at_ms),
        }
    }

    fn database(&self) -> Result<&Database, QueueError> {
        self.database.as_ref().ok_or_else(|| QueueError::Disk("the file is not open".to_owned()))
    }
}

// === impl Entry ===

impl Entry {
    fn of(value: &[u8]) -> Result<Self, QueueError> {
        let stamp: [u8; STAMP] = value
            .get(..STAMP)
            .and_then(|stamp| stamp.try_into().ok())
            .ok_or_else(|| QueueError::Damaged("an event is cut off".to_owned()))?;
        Ok(Self { bytes: (value.len() - STAMP) as u64, at_ms: u64::from_le_bytes(stamp) })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const WIDE: Bounds = Bounds { events: 1_000_000, bytes: 1 << 40 };

    fn item(number: u64, size: usize) -> Item {
        let mut bytes = vec![b'x'; size.max(8)];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        Item { at_ms: number, bytes: bytes.into() }
    }

    fn push(queue: &mut Queue, numbers: std::ops::Range<u64>, bounds: Bounds) -> u64 {
        let plan = queue.plan(numbers.map(|number| item(number, 8)).collect(), Vec::new(), bounds);
        queue.commit(&plan).unwrap();
        plan.dropped
    }

    fn contents(taken: &Taken) -> Vec<u64> {
        taken.iter().map(|(_, bytes)| u64::from_le_bytes(bytes[..8].try_into().unwrap())).collect()
    }

    #[test]
    fn a_file_of_another_version_of_redb_is_kept() {
        let error = QueueError::from(redb::DatabaseError::UpgradeRequired(2));
        assert!(matches!(error, QueueError::Disk(_)), "{error}");
    }

    #[test]
    fn what_was_handed_out_and_not_done_comes_again_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut queue = Queue::open(folder.path()).unwrap();
        push(&mut queue, 0..10, WIDE);
        let taken = queue.take(4).unwrap();
        assert_eq!(contents(&taken), [0, 1, 2, 3]);
        let plan = queue.plan(Vec::new(), vec![taken[1].0], WIDE);
        queue.commit(&plan).unwrap();
        drop(queue);
        let mut queue = Queue::open(folder.path()).unwrap();
        assert_eq!(contents(&queue.take(100).unwrap()), [0, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(queue.measure(), Measure { events: 9, bytes: 72, oldest_ms: Some(0) });
    }

    #[test]
    fn a_full_queue_drops_its_oldest_events_but_none_that_is_on_its_way() {
        let folder = tempfile::tempdir().unwrap();
        let bounds = Bounds { events: 5, bytes: 1 << 30 };
        let mut queue = Queue::open(folder.path()).unwrap();
        assert_eq!(push(&mut queue, 0..5, bounds), 0);
        assert_eq!(contents(&queue.take(2).unwrap()), [0, 1]);
        assert_eq!(push(&mut queue, 5..7, bounds), 2);
        assert_eq!(contents(&queue.take(100).unwrap()), [4, 5, 6]);
        // All are on their way: there is room for nothing new.
        assert_eq!(push(&mut queue, 7..9, bounds), 2);
        assert_eq!(queue.measure().events, 5);
    }

    #[test]
    fn bounds_that_became_narrower_hold_at_the_next_change() {
        let folder = tempfile::tempdir().unwrap();
        let mut queue = Queue::open(folder.path()).unwrap();
        push(&mut queue, 0..10, WIDE);
        let narrow = Bounds { events: 100, bytes: 30 };
        assert_eq!(push(&mut queue, 10..11, narrow), 8);
        assert_eq!(contents(&queue.take(100).unwrap()), [8, 9, 10]);
    }

    #[test]
    fn garbage_is_found_and_moved_aside_and_numbers_are_never_given_twice() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("queue.redb"), vec![7; 20_000]).unwrap();
        assert!(matches!(Queue::open(folder.path()), Err(QueueError::Damaged(_))));
        Queue::move_aside(folder.path()).unwrap();
        let mut queue = Queue::open_at(folder.path(), Place { next: 50, taken: 50 }).unwrap();
        push(&mut queue, 0..1, WIDE);
        assert_eq!(queue.take(1).unwrap()[0].0, 50);
    }

    #[test]
    fn a_change_that_landed_although_it_failed_is_recognised() {
        let folder = tempfile::tempdir().unwrap();
        let mut queue = Queue::open(folder.path()).unwrap();
        let plan = queue.plan(vec![item(1, 8)], Vec::new(), WIDE);
        assert!(!queue.has_landed(&plan));
        queue.commit(&plan).unwrap();
        queue.recover().unwrap();
        assert!(queue.has_landed(&plan));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(Vec<usize>),
        Take(usize),
        Done(Vec<prop::sample::Index>),
        /// The process ends, with or without a chance to tidy up.
        Restart {
            killed: bool,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => prop::collection::vec(8..300_usize, 0..12).prop_map(Step::Push),
            3 => (1..8_usize).prop_map(Step::Take),
            3 => prop::collection::vec(any::<prop::sample::Index>(), 1..6).prop_map(Step::Done),
            1 => any::<bool>().prop_map(|killed| Step::Restart { killed }),
        ]
    }

    /// The queue as one would think of it.
    #[derive(Default)]
    struct Model {
        /// Events: their content and size, handed out or not.
        events: VecDeque<(u64, u64, bool)>,
        dropped: u64,
    }

    impl Model {
        fn bound(&mut self, bounds: Bounds) {
            let full = |events: &VecDeque<(u64, u64, bool)>| {
                events.len() as u64 > bounds.events
                    || events.iter().map(|(_, size, _)| size).sum::<u64>() > bounds.bytes
            };
            while full(&self.events) {
                let Some(oldest) = self.events.iter().position(|(_, _, taken)| !taken) else { break };
                self.events.remove(oldest);
                self.dropped += 1;
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        #[test]
        fn the_queue_does_what_a_simple_model_does(
            steps in prop::collection::vec(step(), 1..40),
            events in 1..20_u64,
            bytes in 300..3_000_u64,
        ) {
            let bounds = Bounds { events, bytes };
            let mut folder = tempfile::tempdir().unwrap();
            let mut queue = Queue::open(folder.path()).unwrap();
            let (mut model, mut next, mut dropped) = (Model::default(), 0, 0);
            // Running number and content of what is on its way.
            let mut flying: Vec<(u64, u64)> = Vec::new();
            for step in steps {
                match step {
                    Step::Push(sizes) => {
                        let items: Vec<_> = sizes.iter().zip(next..).map(|(size, number)| item(number, *size)).collect();
                        for (size, number) in sizes.iter().zip(next..) {
                            model.events.push_back((number, *size as u64, false));
                        }
                        next += sizes.len() as u64;
                        model.bound(bounds);
                        let plan = queue.plan(items, Vec::new(), bounds);
                        queue.commit(&plan).unwrap();
                        dropped += plan.dropped;
                    }
                    Step::Take(most) => {
                        let taken = queue.take(most).unwrap();
                        let expected: Vec<u64> = model
                            .events
                            .iter_mut()
                            .filter(|(_, _, taken)| !*taken)
                            .take(most)
                            .map(|(number, _, taken)| { *taken = true; *number })
                            .collect();
                        prop_assert_eq!(contents(&taken), expected.clone());
                        flying.extend(taken.iter().map(|(number, _)| *number).zip(expected));
                    }
                    Step::Done(which) => {
                        let mut done = Vec::new();
                        for index in which {
                            if !flying.is_empty() {
                                let (number, content) = flying.remove(index.index(flying.len()));
                                done.push(number);
                                model.events.retain(|(number, _, _)| *number != content);
                            }
                        }
                        let plan = queue.plan(Vec::new(), done, bounds);
                        queue.commit(&plan).unwrap();
                        dropped += plan.dropped;
                    }
                    Step::Restart { killed } => {
                        if killed {
                            // What a killed process leaves: the file as it is while it is open.
                            let left = tempfile::tempdir().unwrap();
                            fs::copy(folder.path().join("queue.redb"), left.path().join("queue.redb")).unwrap();
                            drop(queue);
                            folder = left;
                        } else {
                            drop(queue);
                        }
                        queue = Queue::open(folder.path()).unwrap();
                        flying.clear();
                        for (_, _, taken) in &mut model.events {
                            *taken = false;
                        }
                    }
                }
                let measure = queue.measure();
                prop_assert_eq!(measure.events, model.events.len() as u64);
                prop_assert_eq!(measure.bytes, model.events.iter().map(|(_, size, _)| size).sum::<u64>());
                prop_assert_eq!(measure.oldest_ms, model.events.front().map(|(number, _, _)| *number));
                prop_assert_eq!(dropped, model.dropped);
            }
        }
    }
}
