//! The way past the broker: fast events between modules that share a folder in memory, over Unix sockets in it.
//!
//! Each bus has a socket in `<shared>/bus/` and connects to those of all others. On each connection the one who
//! connects tells which topics it wants, and the one who is connected to sends what is published of them; so two
//! buses have two connections, one for each direction, and nobody must agree on who begins. Who comes new connects
//! to those who are there, and they connect to it when they hear of it; a look at the folder now and then heals the
//! rest.
//!
//! The broker gets every event as well, for those who do not share the folder. A subscriber hands an event over once,
//! whichever copy comes first, and in the order of its publisher ([`TwoWays`]).
//!
//! Assured and retained events never come here. Neither does what a module publishes to itself.

mod folder;
mod frame;
mod inlet;
mod outlet;
mod seen;

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use shunt_wire::TopicFilter;
use tokio::{
    net::UnixStream,
    runtime::Handle,
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    ack::Ack,
    inbox::{Inbox, Item, Wish},
    link::{Common, Counters},
    message::{Arrived, Message},
};

use self::{
    folder::{BindError, Socket},
    outlet::{Outlet, Sent},
};

pub(crate) use self::seen::{TwoWays, Verdict};

/// How often to look who is in the folder, and to try again what did not work.
const LOOK: Duration = Duration::from_secs(3);
/// The most subscribers served, and the most publishers listened to. Beyond, the others are reached by the broker.
const MOST: usize = 64;
/// At most one complaint about the others in this time.
const COMPLAINTS: Duration = Duration::from_mins(1);
/// How long the first event of a publisher waits for its copy from the broker, so that it does not overtake earlier
/// ones that are there still.
const HOLD: Duration = Duration::from_millis(250);
/// How long the end may take: some files are removed.
const END_LIMIT: Duration = Duration::from_secs(1);

/// The handle on the local path of one bus. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Local {
    shared: Arc<Shared>,
    end: CancellationToken,
    gone: CancellationToken,
}

/// What the tasks of one bus share.
#[derive(Debug)]
struct Shared {
    common: Arc<Common>,
    folder: PathBuf,
    /// Those who listen to us. Bounded by [`MOST`].
    outlets: RwLock<Vec<Arc<Outlet>>>,
    subscribers: Mutex<Vec<(TopicFilter, Arc<Inbox>)>>,
    /// The filters of all subscribers.
    filters: watch::Sender<Vec<TopicFilter>>,
    /// The sockets that we listen to. Bounded by [`MOST`].
    known: Mutex<HashSet<String>>,
    /// Somebody new is in the folder.
    look: Notify,
    /// How many publishers were met; their number to the inboxes.
    publishers: AtomicU64,
    complained: Mutex<Option<Instant>>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it was closed")]
    Closed,
    #[error("the other side did not answer in time")]
    Time,
    #[error("the other side is a process of another user")]
    Foreign,
    #[error("what came cannot be read: {0}")]
    Bad(#[from] frame::Bad),
}

/// Begins to look for others, in the background. What does not work is told in the log and left to the broker.
pub(crate) fn open(shared: &Path, common: &Arc<Common>, runtime: &Handle) -> Local {
    let shared = Arc::new(Shared {
        common: Arc::clone(common),
        folder: folder::of(shared),
        outlets: RwLock::default(),
        subscribers: Mutex::default(),
        filters: watch::Sender::default(),
        known: Mutex::default(),
        look: Notify::new(),
        publishers: AtomicU64::new(0),
        complained: Mutex::default(),
    });
    let local = Local { shared, end: CancellationToken::new(), gone: CancellationToken::new() };
    let (shared, end, gone) = (Arc::clone(&local.shared), local.end.clone(), local.gone.clone());
    runtime.spawn(async move {
        end.run_until_cancelled(run(shared)).await;
        gone.cancel();
    });
    local
}

/// Serves and listens for as long as the bus lives. All other tasks are owned by this one.
async fn run(shared: Arc<Shared>) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let Some(socket) = shared.bind(&mut ticks).await else { return };
    let own: Arc<str> = socket.name.as_str().into();
    // The first look is now.
    ticks.reset_immediately();
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = socket.listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if shared.outlets.read().len() < MOST && tasks.len() < 2 * MOST {
                        tasks.spawn(Arc::clone(&shared).serve(stream));
                    }
                }
                Err(error) => {
                    shared.complain(&Broken::Io(error));
                    // Too many open files: that takes a moment to change.
                    ticks.tick().await;
                }
            },
            _ = ticks.tick() => shared.look(&own, &mut tasks),
            () = shared.look.notified() => shared.look(&own, &mut tasks),
            Some(_) = tasks.join_next() => {}
        }
    }
}

// === impl Local ===

impl Local {
    /// An inbox that takes an event once although it comes by two ways.
    pub(crate) fn inbox(&self, delivery: crate::Delivery) -> Arc<Inbox> {
        Inbox::of_two_ways(delivery, self.shared.common.queue)
    }

    /// Sends a fast event to those who want it and share the folder; returns whether there was one. Never blocks.
    pub(crate) fn send(&self, message: &Message) -> bool {
        let counters = &self.shared.common.counters;
        let outlets = self.shared.outlets.read();
        let mut frame: Option<Bytes> = None;
        let mut taken = false;
        for outlet in outlets.iter().filter(|outlet| outlet.wants(&message.topic)) {
            let frame = frame.get_or_insert_with(|| frame::event(message));
            if !outlet.takes(frame) {
                outlet.send(&frame::GAP);
                continue;
            }
            if let Sent::Taken { dropped } = outlet.send(frame) {
                taken = true;
                Counters::count(&counters.sent_locally);
                (0..dropped).for_each(|_| Counters::count(&counters.dropped_locally));
            }
        }
        taken
    }

    /// Adds a subscriber.
    pub(crate) fn subscribe(&self, filter: TopicFilter, inbox: Arc<Inbox>) {
        self.shared.subscribers.lock().push((filter, inbox));
        self.shared.tell();
    }

    /// A subscriber's wish has changed.
    pub(crate) fn look(&self) {
        self.shared.subscribers.lock().retain(|(_, inbox)| inbox.wish() == Wish::Messages);
        self.shared.tell();
    }

    /// Ends all connections and removes the socket.
    pub(crate) async fn close(&self) {
        self.end.cancel();
        if timeout(END_LIMIT, self.gone.cancelled()).await.is_err() {
            tracing::debug!("The sockets of the bus were not closed in time.");
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

// === impl Shared ===

impl Shared {
    /// Our socket, as soon as the folder allows it; nothing if it never will.
    async fn bind(&self, ticks: &mut tokio::time::Interval) -> Option<Socket> {
        let mut told = false;
        loop {
            ticks.tick().await;
            // The folder is in memory, so this takes no time worth another thread.
            match Socket::bind(&self.folder, &self.common.module) {
                Ok(socket) => return Some(socket),
                Err(error) => {
                    if !told {
                        told = true;
                        let folder = self.folder.display();
                        tracing::warn!(%folder, %error, "This folder cannot be used; all events go through the broker.");
                    }
                    if matches!(error, BindError::Long(_)) {
                        return None;
                    }
                }
            }
        }
    }

    /// Connects to those in the folder whom we are not connected to.
    fn look(self: &Arc<Self>, own: &Arc<str>, tasks: &mut JoinSet<()>) {
        let names = match folder::others(&self.folder, own) {
            Ok(names) => names,
            Err(error) => return self.complain(&Broken::Io(error)),
        };
        let mut known = self.known.lock();
        for name in names {
            if known.len() < MOST && known.insert(name.clone()) {
                tasks.spawn(Arc::clone(self).listen(name, Arc::clone(own)));
            }
        }
    }

    async fn listen(self: Arc<Self>, name: String, own: Arc<str>) {
        let path = self.folder.join(&name);
        if let Err(broken) = inlet::listen(&self, &path, &own).await {
            self.ended(&broken);
        }
        self.known.lock().remove(&name);
    }

    async fn serve(self: Arc<Self>, stream: UnixStream) {
        if let Err(broken) = outlet::serve(Arc::clone(&self), stream).await {
            self.ended(&broken);
        }
    }

    /// A subscriber has told its socket: if we do not listen to that yet, we should.
    fn meet(&self, name: &str) {
        if !self.known.lock().contains(name) {
            self.look.notify_one();
        }
    }

    fn ended(&self, broken: &Broken) {
        match broken {
            // Modules come and go.
            Broken::Closed | Broken::Io(_) | Broken::Time => {
                tracing::debug!(reason = %broken, "A connection to another module ended.");
            }
            Broken::Foreign | Broken::Bad(_) => self.complain(broken),
        }
    }

    fn complain(&self, broken: &Broken) {
        let mut complained = self.complained.lock();
        if complained.is_none_or(|at| at.elapsed() >= COMPLAINTS) {
            *complained = Some(Instant::now());
            let folder = self.folder.display();
            tracing::warn!(%folder, reason = %broken, "Another module cannot be talked to over a socket; what it sends and gets goes through the broker.");
        }
    }

    /// Tells the others which events we want, if that has changed.
    fn tell(&self) {
        let mut filters = Vec::new();
        for (filter, _) in &*self.subscribers.lock() {
            if !filters.contains(filter) {
                filters.push(filter.clone());
            }
        }
        self.filters.send_if_modified(|told| {
            let changed = *told != filters;
            *told = filters;
            changed
        });
    }

    /// Hands an event to its subscribers, if they did not get it by the broker yet. Returns whether it waits for
    /// [`Shared::release`].
    fn receive(&self, publisher: u64, message: Arrived) -> bool {
        let inboxes = self.inboxes(|filter| filter.matches(&message.topic));
        let counters = &self.common.counters;
        let message = Arc::new(message);
        // Without a broker there are no earlier events that could come later.
        let patient = self.common.is_connected();
        let (mut is_news, mut waits) = (false, false);
        for inbox in inboxes {
            let item = Item { message: Arc::clone(&message), ack: Ack::none() };
            let (news, held) = inbox.offer_local(publisher, item, patient, &counters.dropped_receiving);
            is_news |= news;
            waits |= held;
        }
        if is_news {
            Counters::count(&counters.received);
            Counters::count(&counters.received_locally);
        }
        waits
    }

    /// What waits of this publisher waits no longer; `end`: it is gone.
    fn release(&self, publisher: u64, end: bool) {
        for inbox in self.inboxes(|_| true) {
            inbox.release(publisher, end, &self.common.counters.dropped_receiving);
        }
    }

    fn inboxes(&self, wanted: impl Fn(&TopicFilter) -> bool) -> Vec<Arc<Inbox>> {
        let subscribers = self.subscribers.lock();
        let inboxes =
            subscribers.iter().filter(|(filter, inbox)| inbox.wish() == Wish::Messages && wanted(filter));
        inboxes.map(|(_, inbox)| Arc::clone(inbox)).collect()
    }
}
