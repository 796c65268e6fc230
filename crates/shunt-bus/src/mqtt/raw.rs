//! Raw messages over MQTT: one connection, `QoS` 0, a session that ends with it.

use bytes::Bytes;
use rumqttc::v5::mqttbytes::{
    QoS,
    v5::{
        Connect, ConnectProperties, Filter, Packet, Publish, SubAck, Subscribe, SubscribeReasonCode,
        Unsubscribe,
    },
};
use shunt_wire::TopicFilter;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    Tls,
    packets::{self, Incoming, write_disconnect},
    session::{End, KEEP_ALIVE, READ, Talk},
    socket::{Broken, Socket, Target},
};
use crate::{
    SubscribeError,
    backoff::Backoff,
    link::Counters,
    raw::{Ends, NewRaw, RawMessage},
};

/// The connection's task.
struct RawSession {
    target: Target,
    ends: Ends,
    subscribers: Vec<Subscriber>,
    next_pkid: u16,
    connections: u64,
}

struct Subscriber {
    filter: TopicFilter,
    messages: mpsc::Sender<RawMessage>,
    /// The SUBSCRIBE without an answer, and who waits for it.
    asked: Option<(u16, oneshot::Sender<Result<(), SubscribeError>>)>,
}

/// Connects, and stays connected, until the handle is gone.
pub(crate) async fn run(host: String, port: u16, tls: Option<Tls>, ends: Ends) {
    let target = Target { host, port, tls };
    let mut session = RawSession { target, ends, subscribers: Vec::new(), next_pkid: 0, connections: 0 };
    let mut backoff = Backoff::default();
    while let Some(socket) = session.connect(&mut backoff).await {
        match session.converse(socket, &mut backoff).await {
            End::Closed => break,
            End::Broken(broken) => session.broken(&broken),
        }
    }
    session.ends.common.closed();
    session.ends.gone.cancel();
}

// === impl RawSession ===

impl RawSession {
    /// Tries until the broker is there; nothing if the handle is gone or closed meanwhile.
    async fn connect(&mut self, backoff: &mut Backoff) -> Option<Socket> {
        loop {
            let (connect, target, delay) = (self.connect_packet(), self.target.clone(), backoff.next());
            let max = self.ends.common.max_message;
            let attempt = async move {
                sleep(delay).await;
                target.connect(connect, None, max).await
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
                Ok(socket) => return Some(socket),
                Err(broken) => self.ends.common.disconnected(broken.to_string()),
            }
        }
    }

    fn connect_packet(&self) -> Connect {
        let properties = ConnectProperties {
            max_packet_size: Some(u32::try_from(self.ends.common.max_message).unwrap_or(u32::MAX).max(1)),
            ..ConnectProperties::new()
        };
        Connect {
            keep_alive: KEEP_ALIVE.as_secs() as u16,
            client_id: self.ends.common.module.to_string(),
            clean_start: true,
            properties: Some(properties),
        }
    }

    async fn converse(&mut self, socket: Socket, backoff: &mut Backoff) -> End {
        let mut talk = Talk::new(socket, self.ends.common.queue, self.ends.common.max_message);
        for at in 0..self.subscribers.len() {
            self.ask(&mut talk, at);
        }
        self.connections += 1;
        self.ends.common.connected(self.connections == 1);
        let mut look = interval(talk.look());
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        look.reset();
        loop {
            if self.ends.closing.is_cancelled() && !talk.leaving && self.ends.outgoing.is_empty() {
                write_disconnect(&mut talk.out, false, false);
                talk.leaving = true;
            }
            if talk.leaving && talk.is_written() {
                talk.hang_up().await;
                return End::Closed;
            }
            let room = talk.has_room() && !talk.leaving;
            let Talk { socket, out, flush, .. } = &mut talk;
            let Socket { reader, writer, inbox, .. } = socket;
            let read = async {
                inbox.reserve(READ);
                reader.read_buf(inbox).await
            };
            let writing = !out.is_empty();
            let flushing = !writing && *flush;
            let write = async {
                if writing { writer.write_buf(out).await } else { writer.flush().await.map(|()| 0) }
            };
            tokio::select! { biased;
                () = self.ends.end.cancelled() => return End::Closed,
                _ = look.tick() => {
                    self.sweep(&mut talk);
                    if let Err(broken) = talk.keep_alive() {
                        return End::Broken(broken);
                    }
                }
                written = write, if writing || flushing => match written {
                    Ok(_) => talk.flush = writing,
                    Err(error) => return End::Broken(error.into()),
                },
                read = read => match read {
                    Ok(0) => return End::Broken(Broken::Closed),
                    Ok(_) => match self.read(&mut talk) {
                        Ok(()) => backoff.reset(),
                        Err(broken) => return End::Broken(broken),
                    },
                    Err(error) => return End::Broken(error.into()),
                },
                Some(new) = self.ends.control.recv(), if room => self.add(new, Some(&mut talk)),
                Some(message) = self.ends.outgoing.recv(), if room => self.send(message, &mut talk),
                () = self.ends.closing.cancelled(), if room => {}
            }
        }
    }

    fn send(&mut self, message: RawMessage, talk: &mut Talk) {
        let RawMessage { topic, payload, retain } = message;
        let topic = Bytes::from(topic);
        let publish =
            Publish { dup: false, qos: QoS::AtMostOnce, retain, topic, pkid: 0, payload, properties: None };
        let counters = &self.ends.common.counters;
        let (bytes, allowed) = (publish.size(), talk.max_packet);
        if bytes > allowed {
            // The broker would close the connection.
            tracing::debug!(bytes, allowed, "A message is larger than the broker takes; it is dropped.");
            Counters::count(&counters.dropped_sending);
            Counters::count(&counters.refused);
            return;
        }
        talk.write_publish(&publish);
        Counters::count(&counters.published);
    }

    /// Adds a subscriber, and subscribes where the broker is there.
    fn add(&mut self, new: NewRaw, talk: Option<&mut Talk>) {
        let NewRaw { filter, messages, done } = new;
        let filter = match filter.parse::<TopicFilter>() {
            Ok(filter) => filter,
            // Those who asked may be gone; so below.
            Err(error) => return drop(done.send(Err(SubscribeError::Refused(error.to_string())))),
        };
        let Some(talk) = talk else {
            self.subscribers.push(Subscriber { filter, messages, asked: None });
            return drop(done.send(Ok(())));
        };
        // The identifier follows.
        self.subscribers.push(Subscriber { filter, messages, asked: Some((0, done)) });
        self.ask(talk, self.subscribers.len() - 1);
    }

    fn ask(&mut self, talk: &mut Talk, at: usize) {
        self.next_pkid = self.next_pkid.checked_add(1).unwrap_or(1);
        let pkid = self.next_pkid;
        let Some(subscriber) = self.subscribers.get_mut(at) else { return };
        if let Some((asked, _)) = &mut subscriber.asked {
            *asked = pkid;
        }
        let filter =
            Filter { nolocal: !self.ends.echo, ..Filter::new(subscriber.filter.as_str(), QoS::AtMostOnce) };
        talk.write(&Packet::Subscribe(Subscribe { pkid, ..Subscribe::new(filter, None) }));
    }

    /// Forgets subscribers that are gone.
    fn sweep(&mut self, talk: &mut Talk) {
        let (stay, gone): (Vec<_>, Vec<_>) =
            self.subscribers.drain(..).partition(|subscriber| !subscriber.messages.is_closed());
        self.subscribers = stay;
        for Subscriber { filter, .. } in gone {
            if !self.subscribers.iter().any(|other| other.filter == filter) {
                self.next_pkid = self.next_pkid.checked_add(1).unwrap_or(1);
                let unsubscribe = Unsubscribe::new(filter.as_str(), None);
                talk.write(&Packet::Unsubscribe(Unsubscribe { pkid: self.next_pkid, ..unsubscribe }));
            }
        }
    }

    /// Reads all whole packets that came.
    fn read(&mut self, talk: &mut Talk) -> Result<(), Broken> {
        talk.heard = true;
        while let Some(incoming) = packets::next(&mut talk.socket.inbox, self.ends.common.max_message)? {
            match incoming {
                Incoming::Disconnect { reason } => return Err(Broken::Ended(reason)),
                Incoming::Packet(Packet::Publish(publish)) => self.arrived(publish)?,
                Incoming::Packet(Packet::SubAck(answer)) => self.subscribed(&answer),
                Incoming::Packet(Packet::PingResp(_) | Packet::UnsubAck(_)) | Incoming::PubAck { .. } => {}
                Incoming::Packet(_) => return Err(Broken::Protocol("a packet that only a client may send")),
            }
        }
        Ok(())
    }

    fn arrived(&mut self, publish: Publish) -> Result<(), Broken> {
        let Publish { qos, retain, topic, payload, .. } = publish;
        if qos != QoS::AtMostOnce {
            return Err(Broken::Protocol("a message of a QoS that we did not subscribe to"));
        }
        let topic = String::from_utf8_lossy(&topic).into_owned();
        Counters::count(&self.ends.common.counters.received);
        for subscriber in self.subscribers.iter().filter(|subscriber| subscriber.filter.matches(&topic)) {
            let message = RawMessage { topic: topic.clone(), payload: payload.clone(), retain };
            NewRaw::hand(&subscriber.messages, message, &self.ends.common.counters);
        }
        Ok(())
    }

    fn subscribed(&mut self, answer: &SubAck) {
        let asked =
            |subscriber: &Subscriber| matches!(subscriber.asked, Some((pkid, _)) if pkid == answer.pkid);
        let Some(at) = self.subscribers.iter().position(asked) else { return };
        let refused =
            answer.return_codes.iter().find(|code| !matches!(code, SubscribeReasonCode::Success(_)));
        let result = refused.map_or(Ok(()), |code| Err(SubscribeError::Refused(format!("{code:?}"))));
        let is_refused = result.is_err();
        if let Some((_, done)) = self.subscribers.get_mut(at).and_then(|subscriber| subscriber.asked.take()) {
            drop(done.send(result));
        }
        if is_refused {
            self.subscribers.remove(at);
        }
    }

    /// The line broke.
    fn broken(&mut self, broken: &Broken) {
        self.ends.common.disconnected(broken.to_string());
        for subscriber in &mut self.subscribers {
            if let Some((_, done)) = subscriber.asked.take() {
                // It is made when the broker is there again.
                drop(done.send(Ok(())));
            }
        }
        // Fast messages do not wait for a broker.
        while self.ends.outgoing.try_recv().is_ok() {
            Counters::count(&self.ends.common.counters.dropped_sending);
        }
    }
}
