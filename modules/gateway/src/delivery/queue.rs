//! Events on disk that wait for apps: one line for each subscription, bounded, each change whole or not at all.
//!
//! One file of redb. A small index in memory answers all questions about length, so the disk is read only for the
//! events themselves. Everything here blocks: the caller is on a blocking thread.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};

/// Line and running number to event.
const EVENTS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("events");
/// App to what it subscribed to last, as JSON: so that the gateway takes up its subscriptions at its next start before
/// the app is asked.
const APPS: TableDefinition<'_, &str, &str> = TableDefinition::new("apps");
/// Bytes that redb may keep in memory.
const CACHE: usize = 8 * 1024 * 1024;
const FILE: &str = "deliveries.redb";

/// Bounds of one line. When one is reached, the oldest events that are not being delivered are dropped and counted:
/// an app that was away for days shall not get only history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
}

/// A change of one line.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// A new event at its end.
    Push { line: String, bytes: Bytes, bounds: Bounds },
    /// This event is done with.
    Done { line: String, number: u64 },
    /// Nobody wants this line any more.
    Purge { line: String },
    /// What this app subscribed to.
    App { app: String, subscriptions: String },
}

/// The lines.
#[derive(Debug)]
pub(crate) struct Queue {
    database: Database,
    lines: HashMap<String, Line>,
}

#[derive(Debug, Default)]
struct Line {
    /// Number to size.
    events: BTreeMap<u64, u64>,
    bytes: u64,
    next: u64,
    /// Everything below was handed out.
    taken: u64,
}

/// What a change did to a line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Effect {
    /// Events dropped because the line is full, by line.
    pub(crate) dropped: HashMap<String, u64>,
    /// Events dropped because nobody wants the line any more.
    pub(crate) purged: HashMap<String, u64>,
}

/// Why the disk did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueueError {
    /// The file is damaged; it has to be replaced.
    #[error("the file {FILE} is damaged: {0}")]
    Damaged(String),
    /// The disk does not do it now.
    #[error("the disk does not take the deliveries: {0}")]
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
            _ => Self::Disk(text),
        }
    }
}

// === impl Queue ===

impl Queue {
    /// Opens the file in this folder; makes both where they are not there.
    pub(crate) fn open(folder: &Path) -> Result<Self, QueueError> {
        fs::create_dir_all(folder).map_err(|error| {
            QueueError::Disk(format!("the folder {} cannot be made: {error}", folder.display()))
        })?;
        let database = Database::builder().set_cache_size(CACHE).create(folder.join(FILE))?;
        let mut lines: HashMap<String, Line> = HashMap::new();
        match database.begin_read()?.open_table(EVENTS) {
            Ok(table) => {
                for entry in table.iter()? {
                    let (key, value) = entry?;
                    let (line, number) = key.value();
                    lines.entry(line.to_owned()).or_default().add(number, value.value().len() as u64);
                }
            }
            Err(TableError::TableDoesNotExist(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Self { database, lines })
    }

    /// Opens it anew after a failure. What was handed out stays handed out, and numbers are not given twice.
    pub(crate) fn reopen(folder: &Path, places: &HashMap<String, (u64, u64)>) -> Result<Self, QueueError> {
        let mut queue = Self::open(folder)?;
        for (name, (next, taken)) in places {
            let line = queue.lines.entry(name.clone()).or_default();
            line.next = line.next.max(*next);
            line.taken = *taken;
        }
        Ok(queue)
    }

    /// Where each line is: the next number, and below which all was handed out.
    pub(crate) fn places(&self) -> HashMap<String, (u64, u64)> {
        self.lines.iter().map(|(name, line)| (name.clone(), (line.next, line.taken))).collect()
    }

    /// Moves a damaged file aside, in place of an earlier one: two would fill the disk.
    pub(crate) fn move_aside(folder: &Path) -> io::Result<PathBuf> {
        let aside = folder.join(format!("{FILE}.damaged"));
        fs::rename(folder.join(FILE), &aside)?;
        Ok(aside)
    }

    /// What the apps subscribed to when they were asked last.
    pub(crate) fn apps(&self) -> Result<BTreeMap<String, String>, QueueError> {
        let table = match self.database.begin_read()?.open_table(APPS) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(BTreeMap::new()),
            Err(error) => return Err(error.into()),
        };
        let entry = |entry: Result<(redb::AccessGuard<'_, &str>, redb::AccessGuard<'_, &str>), _>| {
            let (app, subscriptions) = entry?;
            Ok((app.value().to_owned(), subscriptions.value().to_owned()))
        };
        table.iter()?.map(entry).collect()
    }

    /// Makes these changes, durably, all or none. After an error the queue must be opened anew.
    pub(crate) fn commit(&mut self, changes: &[Change]) -> Result<Effect, QueueError> {
        let mut effect = Effect::default();
        let transaction = self.database.begin_write()?;
        {
            let mut events = transaction.open_table(EVENTS)?;
            let mut apps = transaction.open_table(APPS)?;
            for change in changes {
                match change {
                    Change::Push { line: name, bytes, bounds } => {
                        let line = self.lines.entry(name.clone()).or_default();
                        let number = line.next;
                        events.insert((name.as_str(), number), bytes.as_ref())?;
                        line.add(number, bytes.len() as u64);
                        for victim in line.surplus(*bounds) {
                            events.remove((name.as_str(), victim))?;
                            line.remove(victim);
                            *effect.dropped.entry(name.clone()).or_default() += 1;
                        }
                    }
                    Change::Done { line: name, number } => {
                        events.remove((name.as_str(), *number))?;
                        if let Some(line) = self.lines.get_mut(name) {
                            line.remove(*number);
                        }
                    }
                    Change::Purge { line: name } => {
                        // The index forgets it: whoever served it has ended, so nothing of it comes later.
                        let Some(line) = self.lines.remove(name) else { continue };
                        *effect.purged.entry(name.clone()).or_default() += line.events.len() as u64;
                        for number in line.events.into_keys() {
                            events.remove((name.as_str(), number))?;
                        }
                    }
                    Change::App { app, subscriptions } => {
                        apps.insert(app.as_str(), subscriptions.as_str())?;
                    }
                }
            }
        }
        // redb's default durability: it is on disk when this returns.
        transaction.commit()?;
        Ok(effect)
    }

    /// Hands out the next events of a line, the oldest first, so many at most.
    pub(crate) fn take(&mut self, name: &str, most: usize) -> Result<Vec<(u64, Bytes)>, QueueError> {
        let Some(line) = self.lines.get_mut(name) else { return Ok(Vec::new()) };
        let numbers: Vec<u64> =
            line.events.range(line.taken..).take(most).map(|(number, _)| *number).collect();
        let Some(last) = numbers.last().copied() else { return Ok(Vec::new()) };
        let table = self.database.begin_read()?.open_table(EVENTS)?;
        let mut events = Vec::with_capacity(numbers.len());
        for number in numbers {
            let value = table.get((name, number))?.ok_or_else(|| {
                QueueError::Damaged(format!("event {number} is in the index but not there"))
            })?;
            events.push((number, Bytes::copy_from_slice(value.value())));
        }
        line.taken = last + 1;
        Ok(events)
    }

    /// Hands out everything of this line again.
    pub(crate) fn rewind(&mut self, name: &str) {
        if let Some(line) = self.lines.get_mut(name) {
            line.taken = 0;
        }
    }

    /// Length of each line.
    pub(crate) fn lengths(&self) -> impl Iterator<Item = (&str, u64)> {
        self.lines.iter().map(|(name, line)| (name.as_str(), line.events.len() as u64))
    }

    /// Has this line something to hand out?
    pub(crate) fn has_more(&self, name: &str) -> bool {
        self.lines.get(name).is_some_and(|line| line.events.range(line.taken..).next().is_some())
    }
}

// === impl Line ===

impl Line {
    fn add(&mut self, number: u64, size: u64) {
        self.events.insert(number, size);
        self.bytes += size;
        self.next = self.next.max(number + 1);
    }

    fn remove(&mut self, number: u64) {
        if let Some(size) = self.events.remove(&number) {
            self.bytes -= size;
        }
    }

    /// What has to go: the oldest that were not handed out, at last the newest.
    fn surplus(&self, bounds: Bounds) -> Vec<u64> {
        let (mut events, mut bytes) = (self.events.len() as u64, self.bytes);
        let mut victims = Vec::new();
        for (number, size) in self.events.range(self.taken..) {
            if events <= bounds.events && bytes <= bounds.bytes {
                break;
            }
            victims.push(*number);
            events -= 1;
            bytes -= size;
        }
        victims
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: Bounds = Bounds { events: 1_000, bytes: 1 << 30 };

    fn push(line: &str, text: &str, bounds: Bounds) -> Change {
        Change::Push { line: line.to_owned(), bytes: Bytes::from(text.to_owned()), bounds }
    }

    fn texts(taken: &[(u64, Bytes)]) -> Vec<String> {
        taken.iter().map(|(_, bytes)| String::from_utf8(bytes.to_vec()).unwrap()).collect()
    }

    #[test]
    fn what_was_handed_out_and_not_done_comes_again_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut queue = Queue::open(folder.path()).unwrap();
        let changes = ["a", "b", "c"].map(|text| push("one", text, WIDE));
        queue.commit(&changes).unwrap();
        queue.commit(&[push("two", "x", WIDE)]).unwrap();
        let taken = queue.take("one", 2).unwrap();
        assert_eq!(texts(&taken), ["a", "b"]);
        queue.commit(&[Change::Done { line: "one".to_owned(), number: taken[0].0 }]).unwrap();
        drop(queue);
        let mut queue = Queue::open(folder.path()).unwrap();
        assert_eq!(texts(&queue.take("one", 9).unwrap()), ["b", "c"]);
        assert_eq!(texts(&queue.take("two", 9).unwrap()), ["x"]);
        assert!(!queue.has_more("one"));
    }

    #[test]
    fn a_full_line_drops_its_oldest_events_and_leaves_the_other_lines_alone() {
        let folder = tempfile::tempdir().unwrap();
        let bounds = Bounds { events: 3, bytes: 1 << 30 };
        let mut queue = Queue::open(folder.path()).unwrap();
        queue.commit(&[push("two", "x", bounds)]).unwrap();
        queue.commit(&["a", "b", "c"].map(|text| push("one", text, bounds))).unwrap();
        assert_eq!(texts(&queue.take("one", 1).unwrap()), ["a"]);
        let effect = queue.commit(&["d", "e"].map(|text| push("one", text, bounds))).unwrap();
        assert_eq!(effect.dropped, HashMap::from([("one".to_owned(), 2)]));
        assert_eq!(texts(&queue.take("one", 9).unwrap()), ["d", "e"]);
        assert_eq!(queue.take("two", 9).unwrap().len(), 1);
    }

    #[test]
    fn a_line_that_nobody_wants_is_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let mut queue = Queue::open(folder.path()).unwrap();
        queue.commit(&["a", "b"].map(|text| push("one", text, WIDE))).unwrap();
        let effect = queue.commit(&[Change::Purge { line: "one".to_owned() }]).unwrap();
        assert_eq!(effect.purged["one"], 2);
        assert_eq!(queue.lengths().count(), 0);
        drop(queue);
        assert!(!Queue::open(folder.path()).unwrap().has_more("one"));
    }

    #[test]
    fn garbage_is_found_and_moved_aside() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), vec![7; 20_000]).unwrap();
        assert!(matches!(Queue::open(folder.path()), Err(QueueError::Damaged(_))));
        Queue::move_aside(folder.path()).unwrap();
        Queue::open(folder.path()).unwrap();
    }

    #[test]
    fn subscriptions_outlive_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let mut queue = Queue::open(folder.path()).unwrap();
        let change = Change::App { app: "shop".to_owned(), subscriptions: "[]".to_owned() };
        queue.commit(&[change]).unwrap();
        drop(queue);
        let apps = Queue::open(folder.path()).unwrap().apps().unwrap();
        assert_eq!(apps, BTreeMap::from([("shop".to_owned(), "[]".to_owned())]));
    }
}
