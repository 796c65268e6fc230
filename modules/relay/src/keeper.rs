//! The one owner of the queue: writes what came from the bus, hands out what goes to the hub, takes out what the hub
//! has.
//!
//! Many events share one write to the disk: while a write is under way, the next ones gather. An event is
//! acknowledged on the bus only after the write that holds it has returned (law 3).

use std::{path::PathBuf, time::Duration};

use shunt_bus::Ack;
use shunt_module::Health;
use shunt_wire::Kind;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    queue::{Bounds, Item, Place, Plan, Queue, QueueError, Taken},
    tally::{Reason, Tally},
};

/// Events that wait to be written. When it is full, the intake waits, and with it the broker, which keeps them.
const WAITING: usize = 256;
/// Most events, and most bytes, in one write.
const BATCH: (usize, usize) = (256, 4 * 1024 * 1024);
/// Requests of the outlet: one `take`, and the numbers that the hub has. When it is full, the outlet waits.
const REQUESTS: usize = 256;
/// Events that the hub has are taken out together with the next write, or after this time, or when so many gathered.
/// Until then a crash makes the hub get them again, with the same message id.
const TIDY: (Duration, usize) = (Duration::from_millis(100), 256);
/// After a failure of the disk: the time until it is tried again, doubled with each failure from the first value up
/// to the second. A disk that is full stays so for long, and each try opens the file anew.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// An event from the bus, with the key to acknowledge it.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) kind: Kind,
    pub(crate) item: Item,
    pub(crate) ack: Ack,
}

/// What the outlet asks for.
#[derive(Debug)]
enum Request {
    /// The next events, this many at most; answered when there is one.
    Take(usize, oneshot::Sender<Taken>),
    /// The hub has this event, or will never have it.
    Done(u64),
}

/// The intake's way to the queue.
pub(crate) type Arrivals = mpsc::Sender<Arrival>;

/// The outlet's way to the queue.
#[derive(Debug, Clone)]
pub(crate) struct Store(mpsc::Sender<Request>);

/// The one owner of the queue. Ends when intake and outlet have let go of it, with everything written.
pub(crate) struct Keeper {
    folder: PathBuf,
    bounds: watch::Receiver<Bounds>,
    tally: Tally,
    health: Health,
    arrivals: mpsc::Receiver<Arrival>,
    requests: mpsc::Receiver<Request>,
    /// None until the disk lets it be opened.
    queue: Option<Queue>,
    place: Option<Place>,
    /// Events that are known to be on disk, to say what is lost with a damaged file. None until it was read.
    known: Option<u64>,
    batch: Vec<Arrival>,
    batch_bytes: usize,
    done: Vec<u64>,
    take: Option<(usize, oneshot::Sender<Taken>)>,
    /// The change that failed, whose fate is open.
    failed: Option<Failed>,
    failing: bool,
    /// The wait after the next failure.
    again: Duration,
    retry_at: Option<Instant>,
    tidy_at: Option<Instant>,
}

/// A change that failed, and how many events of the batch, from its front, it holds.
#[derive(Debug)]
struct Failed {
    plan: Plan,
    batch: usize,
}

/// What is to be done at one visit to the disk.
struct Job {
    folder: PathBuf,
    place: Option<Place>,
    queue: Option<Queue>,
    failed: Option<Failed>,
    push: Vec<Item>,
    done: Vec<u64>,
    most: Option<usize>,
    bounds: Bounds,
}

/// What came of it.
#[derive(Default)]
struct Visit {
    queue: Option<Queue>,
    failed: Option<Failed>,
    /// So many events of the batch, from its front, are on disk.
    written: usize,
    /// What was done with is taken out.
    tidied: bool,
    dropped: u64,
    taken: Taken,
    error: Option<QueueError>,
}

// === impl Store ===

impl Store {
    /// The next events, the oldest first; waits until there is one. Nothing if the keeper has ended.
    pub(crate) async fn take(&self, most: usize) -> Taken {
        let (answer, events) = oneshot::channel();
        if self.0.send(Request::Take(most, answer)).await.is_err() {
            return Vec::new();
        }
        events.await.unwrap_or_default()
    }

    /// The hub has this event, or will never have it.
    pub(crate) async fn done(&self, number: u64) {
        // The keeper ends after the outlet.
        self.0.send(Request::Done(number)).await.ok();
    }
}

// === impl Keeper ===

impl Keeper {
    pub(crate) fn new(
        folder: PathBuf,
        bounds: watch::Receiver<Bounds>,
        tally: Tally,
        health: Health,
    ) -> (Self, Arrivals, Store) {
        let (arrivals_sender, arrivals) = mpsc::channel(WAITING);
        let (requests_sender, requests) = mpsc::channel(REQUESTS);
        let keeper = Self {
            folder,
            bounds,
            tally,
            health,
            arrivals,
            requests,
            queue: None,
            place: None,
            known: None,
            batch: Vec::new(),
            batch_bytes: 0,
            done: Vec::new(),
            take: None,
            failed: None,
            failing: false,
            again: AGAIN.0,
            // The first visit opens the file.
            retry_at: Some(Instant::now()),
            tidy_at: None,
        };
        (keeper, arrivals_sender, Store(requests_sender))
    }

    pub(crate) async fn run(mut self) {
        let (mut arrivals_open, mut requests_open) = (true, true);
        // After the end of both: one last try to write what is there.
        let mut last_try = false;
        while arrivals_open || requests_open || (self.has_work() && !last_try) {
            let room = self.batch.len() < BATCH.0 && self.batch_bytes < BATCH.1;
            let ending = !(arrivals_open || requests_open);
            if !ending && !self.is_due() {
                let wake = self.wake();
                tokio::select! {
                    biased;
                    request = self.requests.recv(), if requests_open => match request {
                        Some(request) => self.note(request),
                        None => requests_open = false,
                    },
                    arrival = self.arrivals.recv(), if arrivals_open && room => match arrival {
                        Some(arrival) => self.gather(arrival),
                        None => arrivals_open = false,
                    },
                    () = sleep_until(wake) => {}
                }
            }
            // What else is there already goes along.
            while let Ok(request) = self.requests.try_recv() {
                self.note(request);
            }
            while self.batch.len() < BATCH.0
                && self.batch_bytes < BATCH.1
                && let Ok(arrival) = self.arrivals.try_recv()
            {
                self.gather(arrival);
            }
            last_try = ending;
            if self.is_due() || ending {
                self.visit().await;
            }
        }
        if !self.batch.is_empty() {
            tracing::warn!(
                events = self.batch.len(),
                "The disk did not take the last events; they are not acknowledged, the broker keeps them."
            );
        }
    }

    fn note(&mut self, request: Request) {
        match request {
            Request::Take(most, answer) => self.take = Some((most, answer)),
            Request::Done(number) => {
                self.done.push(number);
                self.tidy_at.get_or_insert_with(|| Instant::now() + TIDY.0);
            }
        }
    }

    fn gather(&mut self, arrival: Arrival) {
        self.batch_bytes += arrival.item.bytes.len();
        self.batch.push(arrival);
    }

    fn has_work(&self) -> bool {
        !self.batch.is_empty() || !self.done.is_empty()
    }

    /// When to visit the disk although nothing comes. After a failure nothing is due before the next try: to wake up
    /// for it earlier would be to wake up again and again.
    fn wake(&self) -> Option<Instant> {
        self.retry_at.or(self.tidy_at)
    }

    /// Is it time to visit the disk?
    fn is_due(&self) -> bool {
        let now = Instant::now();
        if let Some(at) = self.retry_at {
            return at <= now;
        }
        let wanted = self.take.is_some() && self.queue.as_ref().is_some_and(Queue::has_more);
        let tidy = self.done.len() >= TIDY.1 || self.tidy_at.is_some_and(|at| at <= now);
        !self.batch.is_empty() || wanted || tidy
    }

    /// One visit to the disk: opens the file where needed, writes, hands out.
    async fn visit(&mut self) {
        let job = Job {
            folder: self.folder.clone(),
            place: self.place,
            queue: self.queue.take(),
            failed: self.failed.take(),
            push: self.batch.iter().map(|arrival| arrival.item.clone()).collect(),
            done: self.done.clone(),
            most: self.take.as_ref().map(|(most, _)| *most),
            bounds: *self.bounds.borrow_and_update(),
        };
        let visit = tokio::task::spawn_blocking(move || job.run()).await.unwrap_or_else(|error| {
            // redb does not promise to find every damage without a panic.
            Visit { error: Some(QueueError::Damaged(error.to_string())), ..Visit::default() }
        });
        (self.queue, self.failed) = (visit.queue, visit.failed);
        for arrival in self.batch.drain(..visit.written.min(self.batch.len())) {
            self.batch_bytes -= arrival.item.bytes.len();
            self.tally.accepted(Some(&arrival.kind));
            arrival.ack.ack();
        }
        if visit.tidied {
            self.done.clear();
            self.tidy_at = None;
        }
        if visit.dropped > 0 {
            self.tally.dropped(Reason::QueueFull, visit.dropped);
            tracing::warn!(events = visit.dropped, "The queue is full: its oldest events are dropped.");
        }
        if !visit.taken.is_empty()
            && let Some((_, answer)) = self.take.take()
        {
            // The outlet waits for the answer as long as it lives.
            answer.send(visit.taken).ok();
        }
        if let Some(queue) = &self.queue {
            let measure = queue.measure();
            (self.place, self.known) = (Some(queue.place()), Some(measure.events));
            self.tally.measured(measure);
        }
        match visit.error {
            Some(error) => self.went_wrong(&error),
            None if self.retry_at.take().is_some() => {
                if self.failing {
                    tracing::info!("The disk takes events again.");
                }
                (self.failing, self.again) = (false, AGAIN.0);
                self.health.set("disk", Ok(()));
            }
            None => {}
        }
    }

    fn went_wrong(&mut self, error: &QueueError) {
        self.tally.disk_failure();
        self.health.set("disk", Err(error.to_string()));
        self.retry_at = Some(Instant::now() + self.again);
        self.again = (self.again * 2).min(AGAIN.1);
        match error {
            QueueError::Disk(_) if self.failing => {}
            QueueError::Disk(reason) => tracing::error!(
                reason,
                "The disk does not take events; they are not acknowledged on the bus until it does."
            ),
            QueueError::Damaged(reason) => self.begin_anew(reason),
        }
        self.failing = true;
    }

    fn begin_anew(&mut self, reason: &str) {
        (self.queue, self.failed) = (None, None);
        match Queue::move_aside(&self.folder) {
            Ok(aside) => {
                let lost =
                    self.known.map_or_else(|| "an unknown number".to_owned(), |known| known.to_string());
                tracing::error!(
                    reason,
                    lost_events = lost,
                    aside = %aside.display(),
                    "The queue on disk is damaged; it is moved aside and a new one begun."
                );
                self.tally.replaced();
                // Those of a file that was never read are in no counter of this process either.
                self.tally.dropped(Reason::Damaged, self.known.unwrap_or(0));
                self.known = Some(0);
                self.retry_at = Some(Instant::now());
            }
            Err(error) => {
                tracing::error!(reason, %error, "The queue on disk is damaged and cannot be moved aside.");
            }
        }
    }
}

// === impl Job ===

impl Job {
    fn run(mut self) -> Visit {
        let mut visit = Visit::default();
        visit.error = self.steps(&mut visit).err();
        visit.queue = self.queue;
        visit
    }

    fn steps(&mut self, visit: &mut Visit) -> Result<(), QueueError> {
        let mut queue = match (self.queue.take(), self.place) {
            (Some(queue), _) => queue,
            (None, Some(place)) => Queue::open_at(&self.folder, place)?,
            (None, None) => Queue::open(&self.folder)?,
        };
        let result = self.work(&mut queue, visit);
        self.queue = Some(queue);
        result
    }

    fn work(&mut self, queue: &mut Queue, visit: &mut Visit) -> Result<(), QueueError> {
        let after_failure = !queue.is_open();
        if after_failure {
            if let Err(error) = queue.recover() {
                visit.failed = self.failed.take();
                return Err(error);
            }
            if let Some(Failed { plan, batch }) = self.failed.take()
                && queue.has_landed(&plan)
            {
                (visit.written, visit.dropped) = (batch, plan.dropped);
            }
            // On a full disk, events that leave make the room that new ones need, so they go first.
            self.commit(queue, visit, 0)?;
            self.hand_out(queue, visit)?;
        }
        let rest = self.push.len() - visit.written.min(self.push.len());
        self.commit(queue, visit, rest)?;
        self.hand_out(queue, visit)
    }

    /// Writes so many events of the batch, and takes out what is done with.
    fn commit(&mut self, queue: &mut Queue, visit: &mut Visit, events: usize) -> Result<(), QueueError> {
        let push = self.push.iter().skip(visit.written).take(events).cloned().collect();
        let plan = queue.plan(push, std::mem::take(&mut self.done), self.bounds);
        if !plan.is_empty()
            && let Err(error) = queue.commit(&plan)
        {
            visit.failed = Some(Failed { plan, batch: events });
            return Err(error);
        }
        visit.written += events;
        visit.dropped += plan.dropped;
        visit.tidied = true;
        Ok(())
    }

    fn hand_out(&self, queue: &mut Queue, visit: &mut Visit) -> Result<(), QueueError> {
        if let Some(most) = self.most
            && visit.taken.is_empty()
        {
            visit.taken = queue.take(most)?;
        }
        Ok(())
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeper(folder: PathBuf) -> (Keeper, Arrivals, Store) {
        let (_, bounds) = watch::channel(Bounds { events: 100, bytes: 1 << 20 });
        Keeper::new(folder, bounds, Tally::new().unwrap(), Health::new())
    }

    #[tokio::test]
    async fn a_disk_that_fails_is_tried_again_after_waits_that_double() {
        let folder = tempfile::tempdir().unwrap();
        // A file in the way of the folder.
        let path = folder.path().join("relay");
        std::fs::write(&path, "").unwrap();
        let (mut keeper, _arrivals, _store) = keeper(path.clone());
        // The hub has an event: what is to be tidied is overdue after each failure.
        keeper.note(Request::Done(1));
        keeper.tidy_at = Some(Instant::now());
        for expected in [500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000] {
            let before = Instant::now();
            keeper.visit().await;
            let wait = Duration::from_millis(expected);
            let wake = keeper.wake().unwrap();
            assert!(wake >= before + wait && wake <= Instant::now() + wait, "{expected} ms");
            assert!(keeper.failing);
        }
        assert!(!keeper.is_due());
        std::fs::remove_file(path).unwrap();
        keeper.visit().await;
        assert_eq!((keeper.failing, keeper.again, keeper.wake()), (false, AGAIN.0, None));
    }

    #[tokio::test]
    async fn nobody_knows_how_much_is_lost_with_a_file_that_was_never_read() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("queue.redb"), vec![7; 8192]).unwrap();
        let (mut keeper, _arrivals, _store) = keeper(folder.path().to_owned());
        assert_eq!(keeper.known, None);
        keeper.visit().await;
        assert!(folder.path().join("queue.redb.damaged").exists());
        keeper.visit().await;
        assert_eq!((keeper.failing, keeper.known), (false, Some(0)));
    }
}
