//! From the bus to apps: store, acknowledge, deliver.
//!
//! The bus acknowledges in order over the whole connection, so an event that waited there for one app would hold up
//! all others. So each assured subscription has a line of its own on disk ([`queue`]): an event is acknowledged when it
//! lies there, and leaves it when the app took it, dropped it, or it was given up. A slow or dead app holds up only its
//! own line.

mod keeper;
mod lane;
mod post;
mod queue;
mod tally;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use parking_lot::RwLock;
use serde_json::Value;
use shunt_bus::Bus;
use shunt_module::{DeadLetters, Health, services::Services};
use shunt_wire::Name;
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

pub(crate) use self::{
    keeper::{Keeper, Known},
    queue::Bounds,
    tally::Tally,
};
use self::{lane::Lane, post::Post};
use crate::{
    pubsub::PubsubSettings,
    subscription::{MOST, Subscription, SubscriptionSettings, Told},
};

/// What all lines work with.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    /// The gateway's own name.
    pub(crate) name: Name,
    pub(crate) bus: Bus,
    pub(crate) services: Services,
    pub(crate) keeper: Keeper,
    pub(crate) tally: Tally,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) health: Health,
    pub(crate) shutdown: CancellationToken,
}

/// Subscriptions in force, and the tasks that serve them.
#[derive(Debug)]
pub(crate) struct Courier {
    desk: Desk,
    pubsubs: BTreeMap<String, PubsubSettings>,
    /// Those of the settings.
    by_settings: Vec<SubscriptionSettings>,
    /// Those that apps declared.
    by_apps: BTreeMap<Name, Vec<SubscriptionSettings>>,
    /// Those that an app leaves out of its answers, by pubsub and topic, and since when.
    missing: BTreeMap<Name, BTreeMap<(String, String), Instant>>,
    lines: BTreeMap<String, Line>,
    /// Lines that nobody wants any more, until they have ended.
    ending: BTreeMap<String, CancellationToken>,
    /// Each ends with its subscription where the broker shall go on keeping events for it.
    tasks: JoinSet<Option<shunt_bus::Subscription>>,
    /// For `/v1.0/metadata`.
    listed: Arc<RwLock<Vec<Value>>>,
}

/// One subscription at work.
#[derive(Debug)]
struct Line {
    wanted: watch::Sender<Arc<Wanted>>,
    /// Cancelled: nobody wants it any more.
    stop: CancellationToken,
    /// Cancelled when it has ended.
    ended: CancellationToken,
    /// The app is there again.
    wake: Arc<tokio::sync::Notify>,
}

/// A subscription, and how it is delivered.
#[derive(Debug)]
struct Wanted {
    subscription: Subscription,
    knobs: PubsubSettings,
    post: Post,
}

// === impl Courier ===

impl Courier {
    pub(crate) fn new(desk: Desk, listed: Arc<RwLock<Vec<Value>>>) -> Self {
        Self {
            desk,
            pubsubs: BTreeMap::new(),
            by_settings: Vec::new(),
            by_apps: BTreeMap::new(),
            missing: BTreeMap::new(),
            lines: BTreeMap::new(),
            ending: BTreeMap::new(),
            tasks: JoinSet::new(),
            listed,
        }
    }

    /// Takes up settings. What apps declared that are not asked any more is forgotten.
    pub(crate) async fn set(
        &mut self,
        pubsubs: BTreeMap<String, PubsubSettings>,
        by_settings: Vec<SubscriptionSettings>,
        asked: &BTreeSet<Name>,
    ) {
        (self.pubsubs, self.by_settings) = (pubsubs, by_settings);
        let gone: Vec<_> = self.by_apps.keys().filter(|app| !asked.contains(*app)).cloned().collect();
        for app in gone {
            self.by_apps.remove(&app);
            self.missing.remove(&app);
            self.desk.keeper.note_app(app.as_str(), "[]".to_owned()).await;
        }
        self.arrange();
    }

    /// Takes up what was known before the process was started, and throws away what nobody wants any more.
    pub(crate) async fn recall(&mut self, known: Known, asked: &BTreeSet<Name>) {
        for (app, declared) in known.apps {
            if let (Ok(app), Ok(declared)) = (app.parse::<Name>(), serde_json::from_str(&declared))
                && asked.contains(&app)
            {
                self.by_apps.insert(app, declared);
            }
        }
        self.arrange();
        for line in known.lines.iter().filter(|line| !self.lines.contains_key(*line)) {
            self.desk.keeper.purge(line).await;
        }
    }

    /// An app was asked what it wants. When it answers, it is there.
    pub(crate) async fn told(&mut self, app: Name, told: Told) {
        match told {
            Told::Subscriptions(declared) => self.declare(&app, declared).await,
            Told::Nothing => drop(self.missing.remove(&app)),
            Told::Away => {
                self.missing.remove(&app);
                return;
            }
        }
        let of_app = |line: &&Line| line.wanted.borrow().subscription.app == app;
        self.lines.values().filter(of_app).for_each(|line| line.wake.notify_waiters());
    }

    async fn declare(&mut self, app: &Name, mut declared: Vec<SubscriptionSettings>) {
        let left_out = self.left_out(app, &declared);
        declared.extend(left_out);
        // One that changes its mind all the time does not get more than others.
        declared.truncate(MOST);
        let app = app.clone();
        if self.by_apps.get(&app) != Some(&declared) {
            match serde_json::to_string(&declared) {
                Ok(text) => self.desk.keeper.note_app(app.as_str(), text).await,
                Err(error) => tracing::error!(%app, %error, "Subscriptions cannot be written down."),
            }
            tracing::info!(%app, subscriptions = declared.len(), "An app has declared its subscriptions.");
            self.by_apps.insert(app, declared);
            self.arrange();
        }
    }

    /// Subscriptions that the app had and leaves out now, but not for long enough to believe it: an app that starts
    /// may answer before it knows what it wants, and its waiting events would be lost.
    fn left_out(&mut self, app: &Name, declared: &[SubscriptionSettings]) -> Vec<SubscriptionSettings> {
        let name = |one: &SubscriptionSettings| (one.pubsubname.clone(), one.topic.clone());
        let told: BTreeSet<_> = declared.iter().map(name).collect();
        let mut since = self.missing.remove(app).unwrap_or_default();
        let known = self.by_apps.get(app).into_iter().flatten();
        let missing = known.filter(|one| !told.contains(&name(one)));
        let kept = missing.filter(|one| {
            let patience = self.pubsubs.get(&one.pubsubname).map(PubsubSettings::forget);
            let since = since.entry(name(one)).or_insert_with(Instant::now);
            patience.is_some_and(|patience| since.elapsed() < patience)
        });
        let kept: Vec<_> = kept.cloned().collect();
        since.retain(|missing, _| kept.iter().any(|one| name(one) == *missing));
        self.missing.insert(app.clone(), since);
        kept
    }

    /// Begins and ends lines so that they are those that are wanted.
    fn arrange(&mut self) {
        // Those of tasks that have ended.
        while self.tasks.try_join_next().is_some() {}
        self.ending.retain(|_, ended| !ended.is_cancelled());
        let wanted = self.wanted();
        *self.listed.write() = wanted.values().map(|wanted| wanted.subscription.metadata()).collect();
        let unwanted: Vec<_> =
            self.lines.keys().filter(|line| !wanted.contains_key(*line)).cloned().collect();
        for line in unwanted {
            self.end_line(&line);
        }
        for (line, wanted) in wanted {
            let delivery = wanted.subscription.delivery;
            match self.lines.get(&line) {
                Some(known) if known.wanted.borrow().subscription.delivery == delivery => {
                    known.wanted.send_replace(Arc::new(wanted));
                    continue;
                }
                Some(_) => self.end_line(&line),
                None => {}
            }
            self.begin_line(line, wanted);
        }
    }

    fn wanted(&self) -> BTreeMap<String, Wanted> {
        let of_settings = self.by_settings.iter().map(|declared| (declared, true));
        let of_apps = self.by_apps.values().flatten().map(|declared| (declared, false));
        let mut wanted = BTreeMap::new();
        // Of two for the same topic of an app the later one counts: that of the settings.
        for (declared, by_settings) in of_apps.chain(of_settings) {
            let is_pubsub = |name: &str| self.pubsubs.contains_key(name);
            match Subscription::new(declared.clone(), by_settings, is_pubsub) {
                Ok(subscription) => {
                    let knobs = self.pubsubs.get(&declared.pubsubname).cloned().unwrap_or_default();
                    let post = Post::new(&self.desk.services, &knobs);
                    wanted.insert(subscription.line(), Wanted { subscription, knobs, post });
                }
                Err(problem) => {
                    let (app, topic) = (&declared.app, &declared.topic);
                    tracing::warn!(app, topic, problem, "A subscription cannot be made.");
                }
            }
        }
        wanted
    }

    fn begin_line(&mut self, name: String, wanted: Wanted) {
        let (wanted, receiver) = watch::channel(Arc::new(wanted));
        let (stop, wake) = (CancellationToken::new(), Arc::default());
        let before = self.ending.remove(&name);
        let lane =
            Lane::new(self.desk.clone(), name.clone(), receiver, stop.clone(), Arc::clone(&wake), before);
        let ended = CancellationToken::new();
        let end = ended.clone().drop_guard();
        self.tasks.spawn(async move {
            let _end = end;
            lane.run().await
        });
        self.lines.insert(name, Line { wanted, stop, ended, wake });
    }

    /// The line throws away what it holds as soon as nothing more can come to it.
    fn end_line(&mut self, name: &str) {
        if let Some(line) = self.lines.remove(name) {
            line.stop.cancel();
            self.ending.insert(name.to_owned(), line.ended);
        }
    }

    /// Waits for what is being delivered, after shutdown. The subscriptions that come back must live until the module
    /// ends: what nobody here subscribes to, the bus acknowledges after a while.
    pub(crate) async fn end(self) -> Vec<shunt_bus::Subscription> {
        let Self { desk, lines, tasks, .. } = self;
        drop((desk, lines));
        tasks.join_all().await.into_iter().flatten().collect()
    }
}
