//! Raw messages over Redis: `PUBLISH` on one connection, `PSUBSCRIBE` on another.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::{
    Server, longest,
    resp::Reply,
    socket::{Broken, Talk},
};
use crate::{
    SubscribeError,
    backoff::Backoff,
    link::Counters,
    mqtt::Tls,
    raw::{Ends, NewRaw, RawMessage},
};

/// How often to look whether Redis is there.
const LOOK: Duration = Duration::from_secs(2);
/// How long Redis may leave a command without an answer.
const SILENCE: Duration = Duration::from_secs(5);
/// How long a message of ours may take to come back; the same bytes after that are somebody else's.
const ECHO: Duration = Duration::from_secs(10);
/// The most messages of ours that may be on their way back. Beyond it the oldest are forgotten, and come back.
const ECHOES: usize = 10_000;

/// The connections' task.
struct RawSession {
    server: Server,
    tls: Option<Tls>,
    ends: Ends,
    subscribers: Vec<Subscriber>,
    /// What we published and our subscriptions may bring back. Bounded by [`ECHOES`] and [`ECHO`].
    echoes: VecDeque<Echo>,
    connections: u64,
}

struct Subscriber {
    pattern: String,
    messages: mpsc::Sender<RawMessage>,
    asked: Option<oneshot::Sender<Result<(), SubscribeError>>>,
}

/// A message of ours: each pattern of ours that matches its channel brings it back, once.
struct Echo {
    since: Instant,
    digest: u64,
    /// The patterns that brought it back, or were subscribed to later.
    brought: Vec<String>,
}

/// What the listening connection answers.
enum Heard {
    Subscribed(String),
    Unsubscribed,
    Pong,
}

struct Talks {
    main: Talk<()>,
    live: Talk<Heard>,
}

enum End {
    Broken(Broken),
    Closed,
}

/// Connects, and stays connected, until the handle is gone.
pub(crate) async fn run(server: Server, tls: Option<Tls>, ends: Ends) {
    let (subscribers, echoes) = (Vec::new(), VecDeque::new());
    let mut session = RawSession { server, tls, ends, subscribers, echoes, connections: 0 };
    let mut backoff = Backoff::default();
    while let Some(talks) = session.connect(&mut backoff).await {
        match session.converse(talks, &mut backoff).await {
            End::Closed => break,
            End::Broken(broken) => session.broken(&broken),
        }
    }
    session.ends.common.closed();
    session.ends.gone.cancel();
}

// === impl RawSession ===

impl RawSession {
    /// Tries until Redis is there; nothing if the handle is gone or closed meanwhile.
    async fn connect(&mut self, backoff: &mut Backoff) -> Option<Talks> {
        loop {
            let (server, tls, delay) = (self.server.clone(), self.tls.clone(), backoff.next());
            let (name, max) = (self.ends.common.module.to_string(), longest(self.ends.common.max_message));
            let attempt = async move {
                sleep(delay).await;
                let [main, live] = server.connect(tls.as_ref(), &name, max).await?;
                Ok::<_, Broken>(Talks { main: Talk::new(main), live: Talk::new(live) })
            };
            tokio::pin!(attempt);
            let result = loop {
                tokio::select! {
                    () = self.ends.end.cancelled() => return None,
                    () = self.ends.closing.cancelled() => return None,
                    result = &mut attempt => break result,
                    Some(new) = self.ends.control.recv() => self.add(new, None),
                }
            };
            match result {
                Ok(talks) => return Some(talks),
                Err(broken) => self.ends.common.disconnected(broken.to_string()),
            }
        }
    }

    async fn converse(&mut self, mut talks: Talks, backoff: &mut Backoff) -> End {
        self.echoes.clear();
        for subscriber in &self.subscribers {
            let pattern = subscriber.pattern.clone();
            talks.live.ask(&[b"PSUBSCRIBE", pattern.as_bytes()], Heard::Subscribed(pattern.clone()));
        }
        self.connections += 1;
        self.ends.common.connected(self.connections == 1);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            match self.take_replies(&mut talks) {
                Ok(true) => backoff.reset(),
                Ok(false) => {}
                Err(broken) => return End::Broken(broken),
            }
            let closing = self.ends.closing.is_cancelled();
            if closing && self.ends.outgoing.is_empty() && talks.main.expected.is_empty() {
                return End::Closed;
            }
            let room = talks.main.has_room();
            let turned = tokio::select! { biased;
                () = self.ends.end.cancelled() => return End::Closed,
                _ = look.tick() => self.look(&mut talks),
                turned = talks.main.turn() => turned,
                turned = talks.live.turn() => turned,
                Some(new) = self.ends.control.recv(), if room => {
                    self.add(new, Some(&mut talks));
                    Ok(())
                }
                Some(message) = self.ends.outgoing.recv(), if room => {
                    self.send(&message, &mut talks);
                    Ok(())
                }
                () = self.ends.closing.cancelled(), if !closing => Ok(()),
            };
            if let Err(broken) = turned {
                return End::Broken(broken);
            }
        }
    }

    /// Asks whether Redis is there, and forgets subscribers that are gone.
    fn look(&mut self, talks: &mut Talks) -> Result<(), Broken> {
        if talks.main.is_silent(SILENCE) || talks.live.is_silent(SILENCE) {
            return Err(Broken::Silent);
        }
        talks.main.ask(&[b"PING"], ());
        talks.live.ask(&[b"PING"], Heard::Pong);
        let (stay, gone): (Vec<_>, Vec<_>) =
            self.subscribers.drain(..).partition(|subscriber| !subscriber.messages.is_closed());
        self.subscribers = stay;
        for Subscriber { pattern, .. } in gone {
            if !self.subscribers.iter().any(|other| other.pattern == pattern) {
                talks.live.ask(&[b"PUNSUBSCRIBE", pattern.as_bytes()], Heard::Unsubscribed);
            }
        }
        Ok(())
    }

    fn send(&mut self, message: &RawMessage, talks: &mut Talks) {
        if !self.ends.echo {
            if self.echoes.len() >= ECHOES {
                self.echoes.pop_front();
            }
            let digest = digest(&message.topic, &message.payload);
            self.echoes.push_back(Echo { since: Instant::now(), digest, brought: Vec::new() });
        }
        talks.main.ask(&[b"PUBLISH", message.topic.as_bytes(), &message.payload], ());
        Counters::count(&self.ends.common.counters.published);
    }

    /// Adds a subscriber, and subscribes where Redis is there.
    fn add(&mut self, new: NewRaw, talks: Option<&mut Talks>) {
        let NewRaw { filter: pattern, messages, done } = new;
        let asked = if let Some(talks) = talks {
            talks.live.ask(&[b"PSUBSCRIBE", pattern.as_bytes()], Heard::Subscribed(pattern.clone()));
            Some(done)
        } else {
            // It is made when Redis is there; who asked may be gone.
            drop(done.send(Ok(())));
            None
        };
        self.subscribers.push(Subscriber { pattern, messages, asked });
    }

    /// Takes all whole replies that came; returns whether there were any.
    fn take_replies(&mut self, talks: &mut Talks) -> Result<bool, Broken> {
        let mut any = false;
        while let Some(reply) = talks.main.reply()? {
            any = true;
            talks.main.expected.pop_front().ok_or(Broken::Protocol("an answer to no command"))?;
            if let Reply::Error(error) = reply {
                tracing::debug!(%error, "The broker refused a message.");
                Counters::count(&self.ends.common.counters.dropped_sending);
            }
        }
        while let Some(reply) = talks.live.reply()? {
            any = true;
            self.heard(reply, talks)?;
        }
        Ok(any)
    }

    fn heard(&mut self, reply: Reply, talks: &mut Talks) -> Result<(), Broken> {
        if let Reply::List(list) = &reply
            && let [Reply::Text(kind), Reply::Text(pattern), Reply::Text(channel), Reply::Text(payload)] =
                list.as_slice()
            && &kind[..] == b"pmessage"
        {
            self.arrived(pattern, channel, payload);
            return Ok(());
        }
        let expected = talks.live.expected.pop_front();
        match (expected.ok_or(Broken::Protocol("an answer to no command"))?, reply) {
            (Heard::Subscribed(pattern), reply) => {
                let result = match reply {
                    Reply::Error(error) => Err(SubscribeError::Refused(error)),
                    _ => Ok(()),
                };
                self.subscribed(&pattern, result);
                Ok(())
            }
            (_, Reply::Error(error)) => Err(Broken::Failed(error)),
            (Heard::Unsubscribed | Heard::Pong, _) => Ok(()),
        }
    }

    fn subscribed(&mut self, pattern: &str, result: Result<(), SubscribeError>) {
        let waits = |subscriber: &Subscriber| subscriber.pattern == pattern && subscriber.asked.is_some();
        let Some(at) = self.subscribers.iter().position(waits) else { return };
        let is_refused = result.is_err();
        let is_first =
            self.subscribers.iter().filter(|subscriber| subscriber.pattern == pattern).count() == 1;
        if is_first && !is_refused {
            // What was published before does not come by it.
            for echo in &mut self.echoes {
                echo.brought.push(pattern.to_owned());
            }
        }
        if let Some(done) = self.subscribers.get_mut(at).and_then(|subscriber| subscriber.asked.take()) {
            // Who asked may be gone.
            drop(done.send(result));
        }
        if is_refused {
            self.subscribers.remove(at);
        }
    }

    fn arrived(&mut self, pattern: &Bytes, channel: &Bytes, payload: &Bytes) {
        let topic = String::from_utf8_lossy(channel).into_owned();
        if self.is_echo(&String::from_utf8_lossy(pattern), &topic, payload) {
            return;
        }
        Counters::count(&self.ends.common.counters.received);
        for subscriber in
            self.subscribers.iter().filter(|subscriber| subscriber.pattern.as_bytes() == pattern)
        {
            let message = RawMessage { topic: topic.clone(), payload: payload.clone(), retain: false };
            NewRaw::hand(&subscriber.messages, message, &self.ends.common.counters);
        }
    }

    /// Is that what we published ourselves? Redis has no way to ask it not to send that. Each publish is good for
    /// one message a pattern, so the same bytes from somebody else are not taken for ours.
    fn is_echo(&mut self, pattern: &str, topic: &str, payload: &Bytes) -> bool {
        while self.echoes.front().is_some_and(|echo| echo.since.elapsed() > ECHO) {
            self.echoes.pop_front();
        }
        if self.echoes.is_empty() {
            return false;
        }
        let wanted = digest(topic, payload);
        let mine = |echo: &Echo| echo.digest == wanted && !echo.brought.iter().any(|other| other == pattern);
        let Some(at) = self.echoes.iter().position(mine) else { return false };
        let Some(echo) = self.echoes.get_mut(at) else { return false };
        echo.brought.push(pattern.to_owned());
        let brought = &echo.brought;
        if self.subscribers.iter().all(|subscriber| brought.contains(&subscriber.pattern)) {
            self.echoes.remove(at);
        }
        true
    }

    /// The line broke.
    fn broken(&mut self, broken: &Broken) {
        self.ends.common.disconnected(broken.to_string());
        for subscriber in &mut self.subscribers {
            if let Some(done) = subscriber.asked.take() {
                drop(done.send(Ok(())));
            }
        }
        // Fast messages do not wait for a broker.
        while self.ends.outgoing.try_recv().is_ok() {
            Counters::count(&self.ends.common.counters.dropped_sending);
        }
    }
}

fn digest(topic: &str, payload: &Bytes) -> u64 {
    let mut hasher = DefaultHasher::new();
    (topic, payload).hash(&mut hasher);
    hasher.finish()
}
