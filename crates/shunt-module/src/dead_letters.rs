//! Events that a module could not use, told on `shunt/dead-letter/<module>`.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use shunt_bus::{Bus, Delivery};
use shunt_wire::{Envelope, Kind, Name, events::DeadLetter};
use tokio::time::{Instant, timeout};

use crate::Events;

/// Most bytes of an excerpt.
const EXCERPT: usize = 1024;
/// How long a dead letter may take: it is a courtesy, what happened is counted and logged anyway.
const LIMIT: Duration = Duration::from_secs(5);

/// Tells on `shunt/dead-letter/<module>` what could not be used and why: [`Context::dead_letters`].
///
/// A letter is a courtesy to whoever watches the bus. It holds the first 1,024 bytes of what came, takes 5 s at most,
/// and is given up where the bus does not take it; the module counts and logs what happened by itself. Clones share
/// one pace.
///
/// [`Context::dead_letters`]: crate::Context::dead_letters
///
/// ```
/// use std::time::Duration;
///
/// use shunt_bus::Received;
/// use shunt_module::{Context, Settings};
///
/// async fn refuse<S: Settings>(context: &Context<S>, received: &Received, reason: &str) {
///     let letters = context.dead_letters().at_most_every(Duration::from_secs(1));
///     letters.send(&received.topic, &received.payload, reason).await;
/// }
/// ```
#[derive(Debug, Clone)]
pub struct DeadLetters {
    bus: Bus,
    events: Events,
    module: Name,
    /// None: every letter is sent.
    pace: Option<Pace>,
}

/// How often there may be a letter.
#[derive(Debug, Clone)]
struct Pace {
    pause: Duration,
    last: Arc<Mutex<Option<Instant>>>,
}

// === impl DeadLetters ===

impl DeadLetters {
    pub(crate) fn new(bus: Bus, events: Events, module: Name) -> Self {
        Self { bus, events, module, pace: None }
    }

    /// The same with a letter in `pause` at most; those that come sooner are left out. For a module whose source may
    /// send nothing but broken events, which would fill the bus with letters.
    #[must_use]
    pub fn at_most_every(mut self, pause: Duration) -> Self {
        self.pace = Some(Pace { pause, last: Arc::default() });
        self
    }

    /// Tells of what came on this topic. Says whether there was a letter to send: not where the last one was too
    /// short ago, nor about a dead letter, which would come back for ever.
    pub async fn send(&self, topic: &str, payload: &[u8], reason: &str) -> bool {
        if topic.starts_with("shunt/dead-letter/") || !self.pace.as_ref().is_none_or(Pace::take) {
            return false;
        }
        let excerpt = payload.get(..EXCERPT).unwrap_or(payload);
        let letter = DeadLetter {
            topic: topic.to_owned(),
            reason: reason.to_owned(),
            excerpt: String::from_utf8_lossy(excerpt).into_owned(),
        };
        let event = match self.events.event(Kind::DEAD_LETTER, self.module.clone()).with_json(&letter) {
            Ok(event) => event,
            Err(error) => {
                tracing::debug!(%error, "A dead letter was not written.");
                return true;
            }
        };
        match timeout(LIMIT, self.bus.publish(event, Delivery::Assured)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "A dead letter was not published."),
            Err(_) => tracing::debug!("A dead letter was not published in time."),
        }
        true
    }

    /// Tells of an event; the reason begins with its id. Otherwise as [`DeadLetters::send`].
    pub async fn send_event(&self, event: &Envelope, reason: &str) -> bool {
        let reason = format!("event {}: {reason}", event.id);
        let body = event.body.as_ref().map(|body| body.bytes.as_ref()).unwrap_or_default();
        self.send(&event.topic().to_string(), body, &reason).await
    }
}

// === impl Pace ===

impl Pace {
    /// Takes the turn, if it has come.
    fn take(&self) -> bool {
        let mut last = self.last.lock();
        let has_come = last.is_none_or(|last| last.elapsed() >= self.pause);
        if has_come {
            *last = Some(Instant::now());
        }
        has_come
    }
}

#[cfg(test)]
mod tests {
    use shunt_bus::{BusOptions, Subscription};
    use shunt_wire::TopicFilter;

    use super::*;

    /// Letters of the module `lamp` on a bus of this name, and those who read them.
    async fn desk(bus: &str) -> (DeadLetters, Subscription) {
        let bus = Bus::open(BusOptions::new(format!("memory:{bus}"), Name::from_static("lamp"))).unwrap();
        let filter = TopicFilter::kind(&Kind::DEAD_LETTER);
        let subscription = bus.subscribe(&filter, Delivery::Assured).await.unwrap();
        (DeadLetters::new(bus, Events::new(), Name::from_static("lamp")), subscription)
    }

    async fn next(letters: &mut Subscription) -> DeadLetter {
        let received = timeout(LIMIT, letters.next()).await.unwrap().unwrap();
        assert_eq!(received.topic, "shunt/dead-letter/lamp");
        received.ack.ack();
        received.envelope.unwrap().json().unwrap()
    }

    #[tokio::test]
    async fn a_letter_names_topic_and_reason_and_holds_the_first_bytes() {
        let (letters, mut read) = desk("letter-excerpt").await;
        let payload = [b"\xff broken ".as_slice(), &[b'x'; 5_000]].concat();
        assert!(letters.send("shunt/frame/gate", &payload, "it is broken").await);
        let letter = next(&mut read).await;
        assert_eq!((letter.topic.as_str(), letter.reason.as_str()), ("shunt/frame/gate", "it is broken"));
        assert!(letter.excerpt.starts_with("\u{fffd} broken xxx"), "{letter:?}");
        assert_eq!(letter.excerpt.chars().count(), EXCERPT);
    }

    #[tokio::test]
    async fn a_letter_about_an_event_begins_with_its_id() {
        let (letters, mut read) = desk("letter-event").await;
        let event = Envelope::new("7", Kind::FRAME, Name::from_static("gate"), "2026-11-21T09:00:00Z");
        assert!(letters.send_event(&event, "no pixels").await);
        let expected = DeadLetter {
            topic: "shunt/frame/gate".to_owned(),
            reason: "event 7: no pixels".to_owned(),
            excerpt: String::new(),
        };
        assert_eq!(next(&mut read).await, expected);
    }

    #[tokio::test]
    async fn letters_keep_their_pace_and_clones_share_it() {
        let (letters, mut read) = desk("letter-pace").await;
        let hourly = letters.clone().at_most_every(Duration::from_hours(1));
        assert!(hourly.send("shunt/frame/gate", b"", "the first").await);
        assert!(!hourly.clone().send("shunt/frame/gate", b"", "the second").await);
        let at_once = letters.at_most_every(Duration::ZERO);
        assert!(at_once.send("shunt/frame/gate", b"", "the third").await);
        assert!(at_once.send("shunt/frame/gate", b"", "the fourth").await);
        for reason in ["the first", "the third", "the fourth"] {
            assert_eq!(next(&mut read).await.reason, reason);
        }
    }

    #[tokio::test]
    async fn there_is_no_letter_about_a_letter() {
        let (letters, mut read) = desk("letter-circle").await;
        assert!(!letters.send("shunt/dead-letter/relay", b"", "too large").await);
        assert!(letters.send("shunt/frame/gate", b"", "the next").await);
        assert_eq!(next(&mut read).await.reason, "the next");
    }
}
