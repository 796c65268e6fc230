//! MQTT v5.
//!
//! The packets are those of `rumqttc`; the session is our own, because `rumqttc`'s event loop tells neither which
//! publish a PUBACK belongs to nor keeps what is in flight when the broker lost the session
//! (`docs/decisions/0002-mqtt-client.md`).

mod packets;
pub(crate) mod raw;
mod session;
mod socket;

use std::{sync::Arc, time::Duration};

use rumqttc::v5::mqttbytes::v5::Publish;
use shunt_wire::TopicFilter;
use tokio::sync::oneshot;

use crate::{
    PublishError, SubscribeError,
    inbox::Inbox,
    link::{Answer, Common, Link},
    message::Message,
};

use self::{packets::publish_packet, session::Session, socket::Target};

pub(crate) use self::socket::Tls;

/// The handle on the session's task.
#[derive(Debug)]
struct MqttLink(Handle);

type Handle = crate::handle::Handle<Publish, AssuredPublish>;

/// An assured event, and who waits for the broker's answer.
#[derive(Debug)]
struct AssuredPublish {
    publish: Publish,
    done: oneshot::Sender<Result<(), PublishError>>,
}

/// Starts a session with this broker.
pub(crate) fn open(
    host: String,
    port: u16,
    tls: Option<Tls>,
    common: &Arc<Common>,
    runtime: &tokio::runtime::Handle,
) -> impl Link + use<> {
    let (handle, queues) = Handle::new(common);
    runtime.spawn(Session::new(Target { host, port, tls }, &handle, queues).run());
    MqttLink(handle)
}

// === impl MqttLink ===

impl Link for MqttLink {
    fn send_fast(&self, message: Message) -> Result<(), PublishError> {
        self.0.send_fast(|| Ok(publish_packet(message, false)))
    }

    fn send_assured(&self, message: Message) -> Answer<'_, Result<(), PublishError>> {
        Box::pin(async move {
            let (done, answer) = oneshot::channel();
            let publish = publish_packet(message, true);
            self.0.send_assured(AssuredPublish { publish, done }).await?;
            answer.await.unwrap_or(Err(PublishError::Closed))
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
