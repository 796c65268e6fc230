//! The clock calls.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use shunt_bus::{Subscription, clock};
use shunt_wire::{Name, Stamps};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};

use super::{AnswerTopic, Desk, Failure, Source};
use crate::{
    host::{Cause, Request},
    name::FunctionName,
};

/// One function that is called again and again.
pub(super) struct Interval {
    pub(super) desk: Desk,
    pub(super) name: FunctionName,
    pub(super) every: Duration,
    /// One run at a time; a tick that finds it taken is skipped and counted.
    pub(super) place: Arc<Semaphore>,
}

// === impl Interval ===

impl Interval {
    /// Works until shutdown, or until it is taken away. The first run comes after one interval.
    pub(super) async fn run(self, mut publish: watch::Receiver<Option<AnswerTopic>>) -> Option<Subscription> {
        let mut ticks = interval_at(Instant::now() + self.every, self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (Self { desk, name, place, .. }, mut runs) = (self, JoinSet::new());
        loop {
            tokio::select! {
                biased;
                () = desk.shutdown.cancelled() => break,
                changed = publish.changed() => if changed.is_err() { break },
                _ = ticks.tick() => {
                    while runs.try_join_next().is_some() {}
                    let Ok(taken) = Arc::clone(&place).try_acquire_owned() else {
                        desk.tally.skipped.inc();
                        tracing::debug!(%name, "An interval is skipped: the run before goes on.");
                        continue;
                    };
                    let (desk, name, topic) = (desk.clone(), name.clone(), publish.borrow().clone());
                    runs.spawn(async move {
                        desk.run_once(&name, topic).await;
                        drop(taken);
                    });
                }
            }
        }
        // What goes on may end in order.
        timeout(desk.linger, runs.join_all()).await.ok();
        None
    }
}

// === impl Desk ===

impl Desk {
    async fn run_once(&self, name: &FunctionName, topic: Option<AnswerTopic>) {
        let now = clock::now();
        let cause = Cause { stamps: Stamps::captured(now), received_at: now, traceparent: None };
        let request = Request {
            name: name.to_string(),
            source: "interval".to_owned(),
            method: http::Method::POST,
            path: String::new(),
            query: String::new(),
            headers: http::HeaderMap::new(),
            content_type: String::new(),
            body: Bytes::new(),
            cause: None,
        };
        self.tally.call(Source::Interval);
        let done = match self.call(name, request).await {
            Err(error) => Err(Failure::from(error)),
            Ok(answer) => match (topic, name.as_str().parse::<Name>()) {
                (Some(topic), source) => {
                    // With '+' the name was checked to be a source.
                    let topic = topic.of(&source.unwrap_or(Name::from_static("functions")));
                    self.publish(name, topic, answer, &cause).await.unwrap_or(Ok(()))
                }
                (None, _) => Ok(()),
            },
        };
        if let Err(failure) = done {
            self.tally.failure(Source::Interval, failure.reason);
            tracing::debug!(%name, reason = failure.text, "A run by interval came to nothing.");
        }
    }
}
