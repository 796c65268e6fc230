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
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    PublishError, SubscribeError,
    inbox::Inbox,
    link::{Answer, Common, Link},
    message::Message,
};

use self::{packets::publish_packet, session::Session, socket::Target};

pub(crate) use self::socket::Tls;

/// Subscriptions on their way to the session: a handful at the start of a module. Full: the caller waits.
const CONTROL_QUEUE: usize = 16;

/// The handle on the session's task.
#[derive(Debug)]
struct MqttLink {
    common: Arc<Common>,
    /// Bounded by the options' `queue`. Full: the event is refused, and counted as dropped.
    fast: mpsc::Sender<Publish>,
    /// Bounded by the options' `queue`. Full: the publisher waits.
    assured: mpsc::Sender<AssuredPublish>,
    control: mpsc::Sender<NewSubscriber>,
    /// Acknowledgements are ready, or a subscriber's wish has changed.
    wake: Arc<Notify>,
    /// Cancelled: send what is queued, then say goodbye.
    closing: CancellationToken,
    /// Cancelled: stop at once.
    end: CancellationToken,
    /// Cancelled by the session when it is gone.
    gone: CancellationToken,
}

/// An assured event, and who waits for the broker's answer.
#[derive(Debug)]
struct AssuredPublish {
    publish: Publish,
    done: oneshot::Sender<Result<(), PublishError>>,
}

/// A subscriber, and who waits for the broker's answer.
#[derive(Debug)]
struct NewSubscriber {
    filter: TopicFilter,
    inbox: Arc<Inbox>,
    done: oneshot::Sender<Result<(), SubscribeError>>,
}

/// Starts a session with this broker.
pub(crate) fn open(
    host: String,
    port: u16,
    tls: Option<Tls>,
    common: &Arc<Common>,
    runtime: &Handle,
) -> impl Link + use<> {
    let (fast, fast_queue) = mpsc::channel(common.queue);
    let (assured, assured_queue) = mpsc::channel(common.queue);
    let (control, control_queue) = mpsc::channel(CONTROL_QUEUE);
    let link = MqttLink {
        common: Arc::clone(common),
        fast,
        assured,
        control,
        wake: Arc::default(),
        closing: CancellationToken::new(),
        end: CancellationToken::new(),
        gone: CancellationToken::new(),
    };
    let session = Session::new(
        Target { host, port, tls },
        &link,
        session::Queues { fast: fast_queue, assured: assured_queue, control: control_queue },
    );
    runtime.spawn(session.run());
    link
}

// === impl MqttLink ===

impl Link for MqttLink {
    fn send_fast(&self, message: Message) -> Result<(), PublishError> {
        if !self.common.is_connected() {
            return Err(PublishError::Unavailable("the broker is not there"));
        }
        self.fast.try_send(publish_packet(message, false)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => PublishError::Unavailable("its queue is full"),
            mpsc::error::TrySendError::Closed(_) => PublishError::Closed,
        })
    }

    fn send_assured(&self, message: Message) -> Answer<'_, Result<(), PublishError>> {
        Box::pin(async move {
            let (done, answer) = oneshot::channel();
            let publish = publish_packet(message, true);
            let sent = self.assured.send(AssuredPublish { publish, done }).await;
            sent.map_err(|_| PublishError::Closed)?;
            answer.await.unwrap_or(Err(PublishError::Closed))
        })
    }

    fn subscribe(&self, filter: TopicFilter, inbox: Arc<Inbox>) -> Answer<'_, Result<(), SubscribeError>> {
        Box::pin(async move {
            let (done, answer) = oneshot::channel();
            let sent = self.control.send(NewSubscriber { filter, inbox, done }).await;
            sent.map_err(|_| SubscribeError::Closed)?;
            answer.await.unwrap_or(Err(SubscribeError::Closed))
        })
    }

    fn look(&self) {
        self.wake.notify_one();
    }

    fn close(&self, limit: Duration) -> Answer<'_, ()> {
        Box::pin(async move {
            self.closing.cancel();
            if timeout(limit, self.gone.cancelled()).await.is_err() {
                tracing::warn!(?limit, "The bus could not send everything in time; it is closed now.");
                self.end.cancel();
                self.gone.cancelled().await;
            }
        })
    }
}

impl Drop for MqttLink {
    fn drop(&mut self) {
        self.end.cancel();
    }
}
