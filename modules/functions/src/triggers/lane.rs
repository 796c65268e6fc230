//! Events call.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use shunt_bus::{Delivery, Received, SubscribeError, Subscription};
use shunt_wire::{Envelope, Stamps, TopicFilter};
use tokio::{
    sync::{Mutex, watch},
    time::{sleep, timeout},
};

use super::{AnswerTopic, Desk, Failure, Reason, Source, Unanswered};
use crate::{
    host::{Answer, CallError, Cause, Request},
    name::FunctionName,
};

/// After a refused subscription: the time until it is asked for again.
const AGAIN: Duration = Duration::from_secs(5);
/// How often a function that fails is called with the same event.
const TRIES: u32 = 3;
/// After the first failure; after the second twice as long.
const TRY_PAUSE: Duration = Duration::from_millis(100);
/// Where the host is busy: the first pause, doubled up to the longest.
const BUSY_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How often an event, and those made from it, may go through this module: more is a circle.
const ROUNDS: usize = 8;

/// One function's subscription to one filter.
pub(super) struct Lane {
    pub(super) desk: Desk,
    pub(super) name: FunctionName,
    pub(super) filter: TopicFilter,
    pub(super) turn: Arc<Mutex<()>>,
    pub(super) waiting: Arc<AtomicUsize>,
}

// === impl Lane ===

impl Lane {
    /// Works until shutdown, and gives the subscription back; or until it is taken away.
    pub(super) async fn run(self, mut publish: watch::Receiver<Option<AnswerTopic>>) -> Option<Subscription> {
        let subscription = self.subscribe(&publish).await;
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        self.desk.tell(&self.waiting);
        let mut subscription = subscription?;
        let shutdown = self.desk.shutdown.clone();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Some(subscription),
                changed = publish.changed() => if changed.is_err() {
                    // A subscription that is only dropped lives on at the broker, for the next process.
                    subscription.unsubscribe();
                    return None;
                },
                // Of fast events, the newest; of others, the next.
                received = subscription.newest() => {
                    let topic = publish.borrow().clone();
                    let mut taking = std::pin::pin!(self.take(received?, topic));
                    tokio::select! {
                        () = &mut taking => {}
                        () = shutdown.cancelled() => {
                            // What goes on may end in order; what does not is not acknowledged and comes again.
                            timeout(self.desk.linger, taking).await.ok();
                            return Some(subscription);
                        }
                    }
                }
            }
        }
    }

    async fn subscribe(&self, publish: &watch::Receiver<Option<AnswerTopic>>) -> Option<Subscription> {
        let Desk { bus, health, shutdown, .. } = &self.desk;
        loop {
            let asking = bus.subscribe(&self.filter, delivery(&self.filter));
            match shutdown.run_until_cancelled(asking).await? {
                Ok(subscription) => return Some(subscription),
                Err(SubscribeError::Closed) => return None,
                Err(error) => {
                    let (name, filter) = (&self.name, &self.filter);
                    tracing::error!(%name, %filter, %error, "A subscription is refused; it is asked for again.");
                    health.set("triggers", Err(format!("{name}: {filter}: {error}")));
                }
            }
            shutdown.run_until_cancelled(sleep(AGAIN)).await?;
            // Taken away meanwhile?
            if publish.has_changed().is_err() {
                return None;
            }
        }
    }

    /// Calls the function with one event, and acknowledges it. Only the end of the module leaves it to the bus: one that
    /// is not acknowledged would hold back the acknowledgements of all that follow.
    async fn take(&self, received: Received, publish: Option<AnswerTopic>) {
        let turn = self.turn.lock().await;
        let done = match &received.envelope {
            Ok(event) => self.work(&received, event, publish).await,
            Err(error) => Some(Err(Failure { reason: Reason::Unusable, text: error.to_string() })),
        };
        drop(turn);
        let Some(done) = done else { return };
        if let Err(failure) = done {
            self.desk.tally.failure(Source::Event, failure.reason);
            // No louder: a source may send nothing but such events. The counter and the letters tell.
            tracing::debug!(name = %self.name, topic = received.topic, reason = failure.text, "An event came to nothing.");
            let letters = match failure.reason {
                Reason::NotInstalled => &self.desk.rare_letters,
                _ => &self.desk.letters,
            };
            let reason = format!("function {}: {}", self.name, failure.text);
            letters.send(&received.topic, &received.payload, &reason).await;
        }
        received.ack.ack();
    }

    /// Nothing where the module is being stopped.
    async fn work(
        &self,
        received: &Received,
        event: &Envelope,
        publish: Option<AnswerTopic>,
    ) -> Option<Result<(), Failure>> {
        let stamps = event.stamps.clone().unwrap_or_else(|| Stamps::captured(received.received_at));
        let rounds = stamps.hops().iter().filter(|hop| hop.module == self.desk.module).count();
        if stamps.hops().len() >= Stamps::MAX_HOPS {
            // It notes no more of them, and could go round for ever.
            let text = format!("the event has come through {} modules, and notes no more", Stamps::MAX_HOPS);
            return Some(Err(Failure { reason: Reason::Loop, text }));
        }
        if rounds >= ROUNDS {
            let text = format!("the event has come through functions {rounds} times: it goes in a circle");
            return Some(Err(Failure { reason: Reason::Loop, text }));
        }
        let traceparent = event.traceparent.clone();
        let cause = Arc::new(Cause { stamps, received_at: received.received_at, traceparent });
        let request = request(&self.name, &received.topic, event, Arc::clone(&cause));
        let answer = match self.answer(request).await {
            Ok(answer) => answer,
            // At any other time the event would be left without an acknowledgement, and hold up all others.
            Err(Unanswered::Call(CallError::Stopped)) if self.desk.shutdown.is_cancelled() => return None,
            Err(error) => return Some(Err(error.into())),
        };
        match publish {
            Some(topic) => self.desk.publish(&self.name, topic.of(&event.source), answer, &cause).await,
            None => Some(Ok(())),
        }
    }

    /// Calls until there is an answer, the event is known to be bad, or the function has failed too often. A busy host is
    /// waited for, as long as it takes: what comes meanwhile waits at the broker.
    async fn answer(&self, request: Request) -> Result<Answer, Unanswered> {
        let (mut tries, mut pause) = (0, BUSY_PAUSE);
        loop {
            self.desk.tally.call(Source::Event);
            match self.desk.call(&self.name, request.clone()).await {
                Err(Unanswered::Call(CallError::Busy | CallError::Full)) => {
                    self.desk.tally.postponed.inc();
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                // Past its time or its memory it would go again, and its own word stands.
                Err(Unanswered::Call(CallError::Failed(_))) if tries + 1 < TRIES => {
                    tries += 1;
                    sleep(TRY_PAUSE * tries).await;
                }
                Err(Unanswered::Call(CallError::Failed(text))) => {
                    return Err(CallError::Failed(format!("{text} ({TRIES} tries)")).into());
                }
                done => return done,
            }
        }
    }
}

/// How sure the events of a topic come: frames, faces and presence are live values, which are published fast; all else
/// that was published assured must not be missed.
fn delivery(filter: &TopicFilter) -> Delivery {
    match filter.as_str().split('/').nth(1) {
        Some("frame" | "face" | "presence") => Delivery::Fast,
        _ => Delivery::Assured,
    }
}

/// What the function is called with: the event's data, and its attributes as headers, as the HTTP binding of
/// `CloudEvents` has them (binary mode).
fn request(name: &FunctionName, topic: &str, event: &Envelope, cause: Arc<Cause>) -> Request {
    let mut headers = HeaderMap::new();
    for (attribute, value) in event.to_binary().attributes {
        if let Ok(name) = HeaderName::try_from(format!("ce-{attribute}"))
            && let Ok(value) = HeaderValue::try_from(encoded(&value))
        {
            headers.append(name, value);
        }
    }
    if let Some(trace) = event.traceparent.as_ref().and_then(|trace| HeaderValue::try_from(trace).ok()) {
        headers.insert("traceparent", trace);
    }
    let (content_type, body) = match &event.body {
        Some(body) => (body.content_type.clone(), body.bytes.clone()),
        None => (String::new(), Bytes::new()),
    };
    if let Ok(content_type) = HeaderValue::try_from(&content_type)
        && !content_type.is_empty()
    {
        headers.insert(header::CONTENT_TYPE, content_type);
    }
    Request {
        name: name.to_string(),
        source: topic.to_owned(),
        method: http::Method::POST,
        path: String::new(),
        query: String::new(),
        headers,
        content_type,
        body,
        cause: Some(cause),
    }
}

/// An attribute's value as a header's (`CloudEvents` HTTP binding 1.0.2, section 3.1.3.2): blanks, quotes, percent signs
/// and what is not printable ASCII are percent-encoded.
fn encoded(value: &str) -> String {
    let encode = |byte: u8| match byte {
        b' ' | b'"' | b'%' => format!("%{byte:02X}"),
        0x21..=0x7e => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    value.bytes().map(encode).collect()
}
