//! Calls without a caller: events of the bus, and the clock.
//!
//! An assured event is acknowledged when its function has answered and the answer is published, if it is to be one; a
//! function takes its events one after another. Where the host is busy the event waits, and those behind it wait at the
//! broker. Of frames and other live values the newest wins. An event that comes to nothing is told on
//! `shunt/dead-letter/functions`; a run by interval that fails is counted.
//!
//! All events of the module share one window of what is not acknowledged yet, so a function that is slower than its
//! events holds up those of others. It never loses them.
//!
//! One exception: events of a function that is not installed (yet) do not wait for it, since that would hold up those
//! of all others, perhaps for ever. They are acknowledged and counted, and one a second is told as a dead letter. Whoever
//! wants none of them lost installs the function before its triggers are set.

mod interval;
mod lane;
mod tally;
mod trigger;

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use shunt_bus::{Bus, Delivery, PublishError, Subscription};
use shunt_module::{Context, DeadLetters, Events, Health, Settings};
use shunt_wire::{Envelope, Name, Topic, TopicFilter};
use tokio::{
    sync::{Mutex, Semaphore, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::{
    tally::{Reason, Source, Tally},
    trigger::{AnswerTopic, Trigger, check, one_or_many},
};
use crate::{
    grants::Grants,
    host::{Answer, CallError, Cause, Request},
    name::FunctionName,
};

/// Most letters about functions that are not installed: one in this time.
const LETTER_PAUSE: Duration = Duration::from_secs(1);
/// The largest answer that is looked at to find out what it is, in bytes.
const LOOKED_AT: usize = 256 * 1024;

/// Calls an installed function.
pub(crate) type Calling = Arc<
    dyn Fn(FunctionName, Request) -> Pin<Box<dyn Future<Output = Result<Answer, Unanswered>> + Send>>
        + Send
        + Sync,
>;
/// Tells what an installed function may reach.
pub(crate) type Granted = Arc<dyn Fn(&FunctionName) -> Option<Grants> + Send + Sync>;

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Unanswered {
    /// There is no such function.
    #[error("it is not installed")]
    NotInstalled,
    /// The call failed.
    #[error("{0}")]
    Call(#[from] CallError),
}

/// The triggers at work.
pub(crate) struct Triggers {
    desk: Desk,
    lanes: BTreeMap<(FunctionName, TopicFilter), watch::Sender<Option<AnswerTopic>>>,
    intervals: BTreeMap<(FunctionName, Duration), watch::Sender<Option<AnswerTopic>>>,
    /// A function takes one event at a time, whichever of its filters it came by.
    turns: BTreeMap<FunctionName, Arc<Mutex<()>>>,
    /// A function has one run by interval at a time, also where its interval has changed.
    places: BTreeMap<FunctionName, Arc<Semaphore>>,
    /// Each ends with its subscription where the broker shall go on keeping events for it.
    tasks: JoinSet<Option<Subscription>>,
    /// Subscriptions that are not made yet.
    waiting: Arc<AtomicUsize>,
}

/// What each trigger works with.
#[derive(Clone)]
struct Desk {
    module: Name,
    bus: Bus,
    events: Events,
    letters: DeadLetters,
    rare_letters: DeadLetters,
    health: Health,
    tally: Tally,
    shutdown: CancellationToken,
    /// After shutdown a call that goes on has this long.
    linger: Duration,
    call: Calling,
    granted: Granted,
}

/// Why nothing became of a call or its answer.
#[derive(Debug)]
struct Failure {
    reason: Reason,
    text: String,
}

// === impl Triggers ===

impl Triggers {
    pub(crate) fn new<S: Settings>(
        context: &Context<S>,
        tally: Tally,
        call: Calling,
        granted: Granted,
    ) -> Self {
        let desk = Desk {
            module: context.name.clone(),
            bus: context.bus.clone(),
            events: context.events.clone(),
            letters: context.dead_letters(),
            rare_letters: context.dead_letters().at_most_every(LETTER_PAUSE),
            health: context.health.clone(),
            tally,
            shutdown: context.shutdown.clone(),
            linger: context.common.drain_limit / 2,
            call,
            granted,
        };
        Self {
            desk,
            lanes: BTreeMap::new(),
            intervals: BTreeMap::new(),
            turns: BTreeMap::new(),
            places: BTreeMap::new(),
            tasks: JoinSet::new(),
            waiting: Arc::default(),
        }
    }

    /// These from now on. What goes on unchanged is not touched: no interval begins anew.
    pub(crate) fn set(&mut self, triggers: &BTreeMap<FunctionName, Trigger>) {
        let wants = |name: &FunctionName, filter: &TopicFilter| {
            triggers.get(name).is_some_and(|trigger| trigger.on.contains(filter))
        };
        self.lanes.retain(|(name, filter), _| wants(name, filter));
        let ticks = |name: &FunctionName, every| {
            triggers.get(name).is_some_and(|trigger| trigger.every == Some(every))
        };
        self.intervals.retain(|(name, every), _| ticks(name, *every));
        // A lane that ends only now may still hold its function's turn.
        let held = |turn: &Arc<_>| Arc::strong_count(turn) > 1;
        self.turns.retain(|name, turn| triggers.contains_key(name) || held(turn));
        self.places.retain(|name, place| triggers.contains_key(name) || Arc::strong_count(place) > 1);
        // Those that were taken away before.
        while self.tasks.try_join_next().is_some() {}
        for (name, trigger) in triggers {
            for filter in &trigger.on {
                self.listen(name, filter, trigger.publish.as_ref());
            }
            if let Some(every) = trigger.every {
                self.tick(name, every, trigger.publish.as_ref());
            }
        }
        self.desk.tell(&self.waiting);
    }

    fn listen(&mut self, name: &FunctionName, filter: &TopicFilter, publish: Option<&AnswerTopic>) {
        let key = (name.clone(), filter.clone());
        if let Some(lane) = self.lanes.get(&key) {
            retell(lane, publish);
            return;
        }
        let (sender, publish) = watch::channel(publish.cloned());
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let lane = lane::Lane {
            desk: self.desk.clone(),
            name: name.clone(),
            filter: filter.clone(),
            turn: Arc::clone(self.turns.entry(name.clone()).or_default()),
            waiting: Arc::clone(&self.waiting),
        };
        self.tasks.spawn(lane.run(publish));
        self.lanes.insert(key, sender);
    }

    fn tick(&mut self, name: &FunctionName, every: Duration, publish: Option<&AnswerTopic>) {
        let key = (name.clone(), every);
        if let Some(interval) = self.intervals.get(&key) {
            retell(interval, publish);
            return;
        }
        let (sender, publish) = watch::channel(publish.cloned());
        let place = self.places.entry(name.clone()).or_insert_with(|| Arc::new(Semaphore::new(1)));
        let (desk, place) = (self.desk.clone(), Arc::clone(place));
        let interval = interval::Interval { desk, name: name.clone(), every, place };
        self.tasks.spawn(interval.run(publish));
        self.intervals.insert(key, sender);
    }

    /// Waits until nothing more is taken from the bus, after shutdown. The subscriptions must live until the module
    /// ends, so that the broker keeps what comes meanwhile.
    pub(crate) async fn end(self) -> Vec<Subscription> {
        // Dropped first, the senders would say that all triggers are taken away.
        let Self { lanes, intervals, mut tasks, .. } = self;
        let mut subscriptions = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            // One that panicked was told of; it keeps no other from its end.
            subscriptions.extend(ended.ok().flatten());
        }
        drop((lanes, intervals));
        subscriptions
    }
}

/// Tells a trigger where its answers go.
fn retell(trigger: &watch::Sender<Option<AnswerTopic>>, publish: Option<&AnswerTopic>) {
    trigger.send_if_modified(|current| {
        let changed = current.as_ref() != publish;
        if changed {
            *current = publish.cloned();
        }
        changed
    });
}

// === impl Desk ===

impl Desk {
    /// The module is ready when all subscriptions are made: an event that is published then calls its function.
    fn tell(&self, waiting: &AtomicUsize) {
        let ready = match waiting.load(Ordering::Acquire) {
            0 => Ok(()),
            count => Err(format!("{count} subscriptions of functions are being made")),
        };
        self.health.set("triggers", ready);
    }

    /// Calls once. What a `wasi:http` function answers as an error is one.
    async fn call(&self, name: &FunctionName, request: Request) -> Result<Answer, Unanswered> {
        let answer = (self.call)(name.clone(), request).await?;
        let told = || format!("it answered {}", answer.status);
        if answer.status.is_client_error() {
            return Err(CallError::Refused(told()).into());
        }
        if answer.status.is_server_error() {
            return Err(CallError::Failed(told()).into());
        }
        Ok(answer)
    }

    /// Makes an event of an answer and publishes it; an empty answer is none.
    ///
    /// Says nothing where the bus was closed meanwhile.
    async fn publish(
        &self,
        name: &FunctionName,
        topic: Topic,
        answer: Answer,
        cause: &Cause,
    ) -> Option<Result<(), Failure>> {
        if answer.body.is_empty() {
            return Some(Ok(()));
        }
        if !(self.granted)(name).is_some_and(|grants| grants.may_publish(&topic)) {
            let text =
                format!("its grants do not have the topic {topic}, which its answer is to be published on");
            return Some(Err(Failure { reason: Reason::Denied, text }));
        }
        let mut event = self.event(topic, answer);
        cause.lead_to(&mut event);
        match self.bus.publish(event, Delivery::Assured).await {
            Ok(()) => {
                self.tally.published.inc();
                Some(Ok(()))
            }
            Err(PublishError::Closed) => None,
            Err(error) => {
                let text = format!("its answer was not published: {error}");
                Some(Err(Failure { reason: Reason::Unpublished, text }))
            }
        }
    }

    fn event(&self, topic: Topic, answer: Answer) -> Envelope {
        let content_type =
            if answer.content_type.is_empty() { guess(&answer.body).to_owned() } else { answer.content_type };
        let (kind, source) = (topic.kind().clone(), topic.source().clone());
        self.events.event(kind, source).with_body(content_type, answer.body)
    }
}

/// What bytes are that nobody named the type of: a program that writes to standard output cannot say.
fn guess(body: &[u8]) -> &'static str {
    if body.len() > LOOKED_AT {
        return "application/octet-stream";
    }
    if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() {
        "application/json"
    } else if std::str::from_utf8(body).is_ok() {
        "text/plain; charset=utf-8"
    } else {
        "application/octet-stream"
    }
}

// === impl Failure ===

impl From<Unanswered> for Failure {
    fn from(error: Unanswered) -> Self {
        let reason = match &error {
            Unanswered::NotInstalled => Reason::NotInstalled,
            Unanswered::Call(CallError::Time(_)) => Reason::Time,
            Unanswered::Call(CallError::Memory(_)) => Reason::Memory,
            Unanswered::Call(CallError::Output(_)) => Reason::Output,
            Unanswered::Call(CallError::Refused(_)) => Reason::Refused,
            Unanswered::Call(CallError::Busy | CallError::Full) => Reason::Busy,
            Unanswered::Call(_) => Reason::Failed,
        };
        Self { reason, text: error.to_string() }
    }
}

#[cfg(test)]
mod tests;
