//! Redis: pub/sub for fast events, streams with consumer groups for assured ones.
//!
//! A topic is a channel with `:` in place of `/`; assured events are told on the channel `assured:<that>`, so that who
//! has them from its stream does not hear them twice. Each client with assured subscriptions has one stream
//! `shunt:queue:<client>` with one group of its name: what is published for it goes in, what it acknowledges goes out.
//! What takes more than one step at the server is a script (`redis/*.lua`), so that nobody sees half of it. The design
//! and its reasons: `docs/decisions/0008-redis-back-end.md`.

pub(crate) mod names;
pub(crate) mod raw;
mod resp;
mod scripts;
mod session;
mod socket;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use shunt_wire::{Envelope, TopicFilter};
use tokio::{sync::oneshot, time::sleep};

use crate::{
    PublishError, SubscribeError,
    inbox::Inbox,
    link::{Answer, Common, Link},
    message::Message,
    mqtt::Tls,
};

use self::session::Session;

pub(crate) use self::socket::{Place, Server};

/// How long to wait before an event is offered again to a subscriber whose stream is full.
const FULL_PAUSE: Duration = Duration::from_millis(50);

/// The handle on the session's task.
#[derive(Debug)]
struct RedisLink(Handle);

type Handle = crate::handle::Handle<Outgoing, AssuredPublish>;

/// An event as it is on the wire.
#[derive(Debug, Clone)]
struct Outgoing {
    topic: String,
    /// `CloudEvents` structured mode.
    event: Bytes,
    retain: bool,
}

/// An assured event, and who waits for the broker's answer.
#[derive(Debug)]
struct AssuredPublish {
    message: Outgoing,
    done: oneshot::Sender<Published>,
}

/// What became of an assured event.
#[derive(Debug)]
enum Published {
    /// The broker has it.
    Done,
    /// This subscriber is there, but its stream is full.
    Full(String),
    Failed(PublishError),
}

/// Starts a session with this server.
pub(crate) fn open(
    server: Server,
    tls: Option<Tls>,
    common: &Arc<Common>,
    runtime: &tokio::runtime::Handle,
) -> impl Link + use<> {
    let (handle, queues) = Handle::new(common);
    runtime.spawn(Session::new(server, tls, &handle, queues).run());
    RedisLink(handle)
}

/// The longest string that Redis may send us where an event may have so many bytes: data that is not JSON grows by a
/// third in base64.
fn longest(max_message: usize) -> usize {
    max_message / 3 * 4 + (64 << 10)
}

// === impl Outgoing ===

impl Outgoing {
    /// The structured form. Refused where it has none: attributes that no reader would take, or JSON that is none.
    fn new(message: Message) -> Result<Self, PublishError> {
        let Message { topic, retain, content } = message;
        let content_type = content.content_type.as_deref();
        let event = Envelope::from_binary(content_type, &content.attributes, content.body)
            .and_then(|envelope| envelope.to_structured());
        let event = event.map_err(|error| PublishError::Attribute {
            attribute: error.to_string(),
            rule: "it must be an event in the JSON format of CloudEvents",
        })?;
        Ok(Self { topic, event: Bytes::from(event), retain })
    }
}

// === impl RedisLink ===

impl Link for RedisLink {
    fn send_fast(&self, message: Message) -> Result<(), PublishError> {
        self.0.send_fast(|| Outgoing::new(message))
    }

    fn send_assured(&self, message: Message) -> Answer<'_, Result<(), PublishError>> {
        Box::pin(async move {
            let message = Outgoing::new(message)?;
            loop {
                let (done, answer) = oneshot::channel();
                let publish = AssuredPublish { message: message.clone(), done };
                self.0.send_assured(publish).await?;
                match answer.await {
                    Ok(Published::Done) => return Ok(()),
                    Ok(Published::Failed(error)) => return Err(error),
                    Err(_) => return Err(PublishError::Closed),
                    Ok(Published::Full(subscriber)) => {
                        tracing::debug!(
                            subscriber,
                            "A subscriber is slow and its stream full; publishing waits."
                        );
                    }
                }
                tokio::select! {
                    () = sleep(FULL_PAUSE) => {}
                    () = self.0.gone.cancelled() => return Err(PublishError::Closed),
                }
            }
        })
    }

    fn subscribe(&self, filter: TopicFilter, inbox: Arc<Inbox>) -> Answer<'_, Result<(), SubscribeError>> {
        self.0.subscribe(filter, inbox)
    }

    fn look(&self) {
        self.0.look();
    }

    fn close(&self, limit: Duration) -> Answer<'_, ()> {
        self.0.close(limit)
    }
}
