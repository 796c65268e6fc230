//! The task that owns the queue on disk.
//!
//! Requests are gathered while the disk works, so one commit serves many events. An event is acknowledged on the bus
//! after the commit that holds it, never before. While the disk fails, nothing is acknowledged: the broker keeps what
//! is new.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use shunt_bus::Ack;
use shunt_module::Health;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinError,
    time::sleep,
};

use super::{
    queue::{Bounds, Change, Effect, Queue, QueueError},
    tally::{Outcome, Tally},
};

/// Requests on their way. Full: those who ask wait, and with them the bus.
const REQUESTS: usize = 256;
/// Most requests served by one commit.
const BATCH: usize = 256;
/// After a failure of the disk: the first wait and the longest.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// Asks the keeper. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Keeper(mpsc::Sender<Request>);

/// Numbers and events, the oldest first.
type Taken = Vec<(u64, Bytes)>;

#[derive(Debug)]
enum Request {
    Change(Change, Option<Ack>),
    /// The next events of a line; answered when there are some.
    Take {
        line: String,
        most: usize,
        answer: oneshot::Sender<Taken>,
    },
    /// What is known from before.
    Known(oneshot::Sender<Known>),
}

/// What the queue knows from before.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// App to what it subscribed to when it was asked last, as JSON.
    pub(crate) apps: BTreeMap<String, String>,
    /// Lines that hold events.
    pub(crate) lines: Vec<String>,
}

/// Works until all who ask are gone.
pub(crate) struct KeeperTask {
    folder: PathBuf,
    requests: mpsc::Receiver<Request>,
    queue: Option<Queue>,
    /// Where the lines were when the disk failed.
    places: HashMap<String, (u64, u64)>,
    /// Not on disk yet. Bounded by [`BATCH`].
    changes: Vec<Change>,
    acks: Vec<Ack>,
    /// Who waits for events of a line, and for how many at most.
    waiting: HashMap<String, (usize, oneshot::Sender<Taken>)>,
    rewind: HashSet<String>,
    curious: Vec<oneshot::Sender<Known>>,
    tally: Tally,
    health: Health,
}

/// What one visit at the disk brought.
#[derive(Default)]
struct Visit {
    queue: Option<Queue>,
    effect: Effect,
    committed: bool,
    taken: Vec<(String, Taken)>,
    known: Option<Known>,
    error: Option<QueueError>,
}

// === impl Keeper ===

impl Keeper {
    /// The keeper of the queue in this folder, and the task that must run.
    pub(crate) fn new(folder: PathBuf, tally: Tally, health: Health) -> (Self, KeeperTask) {
        let (sender, requests) = mpsc::channel(REQUESTS);
        let task = KeeperTask {
            folder,
            requests,
            queue: None,
            places: HashMap::new(),
            changes: Vec::new(),
            acks: Vec::new(),
            waiting: HashMap::new(),
            rewind: HashSet::new(),
            curious: Vec::new(),
            tally,
            health,
        };
        (Self(sender), task)
    }

    /// Puts an event at the end of a line. It is acknowledged when it is on disk.
    pub(crate) async fn push(&self, line: &str, bytes: Bytes, bounds: Bounds, ack: Ack) {
        self.ask(Request::Change(Change::Push { line: line.to_owned(), bytes, bounds }, Some(ack))).await;
    }

    /// The event is done with.
    pub(crate) async fn done(&self, line: &str, number: u64) {
        self.ask(Request::Change(Change::Done { line: line.to_owned(), number }, None)).await;
    }

    /// Nobody wants this line any more.
    pub(crate) async fn purge(&self, line: &str) {
        self.ask(Request::Change(Change::Purge { line: line.to_owned() }, None)).await;
    }

    /// Notes what an app subscribed to.
    pub(crate) async fn note_app(&self, app: &str, subscriptions: String) {
        self.ask(Request::Change(Change::App { app: app.to_owned(), subscriptions }, None)).await;
    }

    /// The next events of a line, one at least and so many at most; waits until there are some. None at the end.
    pub(crate) async fn take(&self, line: &str, most: usize) -> Option<Taken> {
        let (answer, events) = oneshot::channel();
        self.ask(Request::Take { line: line.to_owned(), most, answer }).await;
        events.await.ok()
    }

    /// What is known from before.
    pub(crate) async fn known(&self) -> Known {
        let (answer, known) = oneshot::channel();
        self.ask(Request::Known(answer)).await;
        known.await.unwrap_or_default()
    }

    async fn ask(&self, request: Request) {
        // The task ends after all who ask.
        self.0.send(request).await.ok();
    }
}

// === impl KeeperTask ===

impl KeeperTask {
    pub(crate) async fn run(mut self) {
        let mut again = AGAIN.0;
        let mut batch = Vec::with_capacity(BATCH);
        let mut failed = false;
        loop {
            // What failed is done first, before anything more is taken.
            if !failed && self.requests.recv_many(&mut batch, BATCH).await == 0 {
                return;
            }
            batch.drain(..).for_each(|request| self.note(request));
            let error = self.visit().await;
            failed = error.is_some();
            match error {
                None => {
                    again = AGAIN.0;
                    self.health.set("disk", Ok(()));
                }
                Some(error) => {
                    self.tally.disk_failure();
                    tracing::error!(%error, "Events for apps cannot be kept on disk; nothing is acknowledged meanwhile.");
                    self.health.set("disk", Err(error.to_string()));
                    if matches!(error, QueueError::Damaged(_)) {
                        self.replace();
                    }
                    if self.requests.is_closed() && self.requests.is_empty() {
                        return;
                    }
                    sleep(again).await;
                    again = (again * 2).min(AGAIN.1);
                }
            }
        }
    }

    fn note(&mut self, request: Request) {
        match request {
            Request::Change(change, ack) => {
                self.changes.push(change);
                self.acks.extend(ack);
            }
            Request::Take { line, most, answer } => {
                self.waiting.insert(line, (most, answer));
            }
            Request::Known(answer) => self.curious.push(answer),
        }
    }

    /// One visit at the disk, on a thread that may block; gives the error if there was one.
    async fn visit(&mut self) -> Option<QueueError> {
        self.waiting.retain(|_, (_, answer)| !answer.is_closed());
        let wanted: Vec<_> = self.waiting.iter().map(|(line, (most, _))| (line.clone(), *most)).collect();
        let (queue, folder, places) = (self.queue.take(), self.folder.clone(), self.places.clone());
        let changes = Arc::new(std::mem::take(&mut self.changes));
        let rewind = Arc::new(std::mem::take(&mut self.rewind));
        let (given, wound) = (Arc::clone(&changes), Arc::clone(&rewind));
        let curious = !self.curious.is_empty();
        let work = tokio::task::spawn_blocking(move || {
            let mut visit = Visit::default();
            let open = queue.map_or_else(|| Queue::reopen(&folder, &places), Ok);
            match open {
                Ok(mut queue) => {
                    visit.error = visit.work(&mut queue, &given, &wound, &wanted, curious).err();
                    visit.queue = Some(queue);
                }
                Err(error) => visit.error = Some(error),
            }
            visit
        });
        let visit = work.await;
        self.settle(visit, Arc::unwrap_or_clone(changes), Arc::unwrap_or_clone(rewind))
    }

    /// After a visit: what is on disk is acknowledged, what is not is kept for the next one.
    fn settle(
        &mut self,
        visit: Result<Visit, JoinError>,
        changes: Vec<Change>,
        rewind: HashSet<String>,
    ) -> Option<QueueError> {
        if visit.as_ref().is_ok_and(|visit| visit.committed) {
            self.acks.drain(..).for_each(Ack::ack);
        } else {
            (self.changes, self.rewind) = (changes, rewind);
        }
        match visit {
            Ok(visit) => self.tell(visit),
            // A defect of ours or of redb.
            Err(error) => Some(QueueError::Disk(error.to_string())),
        }
    }

    fn tell(&mut self, visit: Visit) -> Option<QueueError> {
        for (line, count) in visit.effect.dropped {
            self.tally.ended(app_of(&line), Outcome::QueueFull, count);
        }
        for (line, count) in visit.effect.purged {
            self.tally.ended(app_of(&line), Outcome::Unsubscribed, count);
            // The line is not measured any more.
            self.tally.queued(app_of(&line), 0);
        }
        for (line, events) in visit.taken {
            if let Some((_, answer)) = self.waiting.remove(&line)
                && answer.send(events).is_err()
            {
                // Who asked is gone: the next one gets them.
                self.rewind.insert(line);
            }
        }
        if let Some(known) = visit.known {
            self.curious.drain(..).for_each(|answer| drop(answer.send(known.clone())));
        }
        if let Some(queue) = &visit.queue {
            self.places = queue.places();
            self.measure(queue);
        }
        // After an error redb takes nothing more: the file is opened anew.
        self.queue = visit.queue.filter(|_| visit.error.is_none());
        visit.error
    }

    fn measure(&self, queue: &Queue) {
        let mut lengths: HashMap<&str, u64> = HashMap::new();
        for (line, length) in queue.lengths() {
            *lengths.entry(app_of(line)).or_default() += length;
        }
        for (app, length) in lengths {
            self.tally.queued(app, length);
        }
    }

    fn replace(&mut self) {
        self.queue = None;
        match Queue::move_aside(&self.folder) {
            Ok(aside) => {
                let aside = aside.display();
                tracing::error!(%aside, "The damaged file of events for apps is moved aside and a new one begun.");
            }
            Err(error) => {
                tracing::error!(%error, "The damaged file of events for apps cannot be moved aside.");
            }
        }
    }
}

// === impl Visit ===

impl Visit {
    fn work(
        &mut self,
        queue: &mut Queue,
        changes: &[Change],
        rewind: &HashSet<String>,
        wanted: &[(String, usize)],
        curious: bool,
    ) -> Result<(), QueueError> {
        for line in rewind {
            queue.rewind(line);
        }
        if !changes.is_empty() {
            self.effect = queue.commit(changes)?;
        }
        self.committed = true;
        for (line, most) in wanted {
            if queue.has_more(line) {
                self.taken.push((line.clone(), queue.take(line, *most)?));
            }
        }
        if curious {
            let lines = queue.lengths().filter(|(_, length)| *length > 0);
            let lines = lines.map(|(line, _)| line.to_owned()).collect();
            self.known = Some(Known { apps: queue.apps()?, lines });
        }
        Ok(())
    }
}

/// A line begins with its app: `<app>|<pubsub>|<topic>`.
pub(crate) fn app_of(line: &str) -> &str {
    line.split('|').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_visit_that_broke_down_had_in_hand_is_written_by_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let (_keeper, mut task) =
            Keeper::new(folder.path().to_owned(), Tally::new().unwrap(), Health::default());
        let bounds = Bounds { events: 10, bytes: 1000 };
        let push = Change::Push { line: "one".to_owned(), bytes: Bytes::from_static(b"event"), bounds };
        let broken = tokio::spawn(async { panic!("a test of a visit that breaks down") }).await;
        let broken = broken.map(|()| Visit::default());
        assert!(task.settle(broken, vec![push], HashSet::new()).is_some());
        assert!(task.visit().await.is_none());
        assert!(task.queue.as_ref().unwrap().has_more("one"));
    }
}
