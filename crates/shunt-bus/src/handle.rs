//! The handle on the task that talks to a broker: what a back end with such a task sends through, and how it ends.

use std::{sync::Arc, time::Duration};

use shunt_wire::TopicFilter;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    PublishError, SubscribeError,
    inbox::Inbox,
    link::{Answer, Common},
};

/// Subscriptions on their way to the session: a handful at the start of a module. Full: the caller waits.
const CONTROL_QUEUE: usize = 16;

/// The handle on a session's task: `F` is a fast event on its way, `A` an assured one. Dropping it ends the task.
#[derive(Debug)]
pub(crate) struct Handle<F, A> {
    pub(crate) common: Arc<Common>,
    /// Bounded by the options' `queue`. Full: the event is refused, and counted as dropped.
    fast: mpsc::Sender<F>,
    /// Bounded by the options' `queue`. Full: the publisher waits.
    assured: mpsc::Sender<A>,
    control: mpsc::Sender<NewSubscriber>,
    /// Acknowledgements are ready, or a subscriber's wish has changed.
    pub(crate) wake: Arc<Notify>,
    /// Cancelled: send what is queued, then say goodbye.
    pub(crate) closing: CancellationToken,
    /// Cancelled: stop at once.
    pub(crate) end: CancellationToken,
    /// Cancelled by the session when it is gone.
    pub(crate) gone: CancellationToken,
}

/// The other ends of the handle's queues.
#[derive(Debug)]
pub(crate) struct Queues<F, A> {
    pub(crate) fast: mpsc::Receiver<F>,
    pub(crate) assured: mpsc::Receiver<A>,
    pub(crate) control: mpsc::Receiver<NewSubscriber>,
}

/// A subscriber, and who waits for the broker's answer.
#[derive(Debug)]
pub(crate) struct NewSubscriber {
    pub(crate) filter: TopicFilter,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) done: oneshot::Sender<Result<(), SubscribeError>>,
}

// === impl Handle ===

impl<F: Send, A: Send> Handle<F, A> {
    pub(crate) fn new(common: &Arc<Common>) -> (Self, Queues<F, A>) {
        let (fast, fast_queue) = mpsc::channel(common.queue);
        let (assured, assured_queue) = mpsc::channel(common.queue);
        let (control, control_queue) = mpsc::channel(CONTROL_QUEUE);
        let handle = Self {
            common: Arc::clone(common),
            fast,
            assured,
            control,
            wake: Arc::default(),
            closing: CancellationToken::new(),
            end: CancellationToken::new(),
            gone: CancellationToken::new(),
        };
        (handle, Queues { fast: fast_queue, assured: assured_queue, control: control_queue })
    }

    /// Queues a fast event, which is only made where the broker is there; or refuses it at once.
    pub(crate) fn send_fast(
        &self,
        make: impl FnOnce() -> Result<F, PublishError>,
    ) -> Result<(), PublishError> {
        if !self.common.is_connected() {
            return Err(PublishError::Unavailable("the broker is not there"));
        }
        self.fast.try_send(make()?).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => PublishError::Unavailable("its queue is full"),
            mpsc::error::TrySendError::Closed(_) => PublishError::Closed,
        })
    }

    /// Queues an assured event; waits while the queue is full.
    pub(crate) async fn send_assured(&self, publish: A) -> Result<(), PublishError> {
        self.assured.send(publish).await.map_err(|_| PublishError::Closed)
    }

    pub(crate) fn subscribe(
        &self,
        filter: TopicFilter,
        inbox: Arc<Inbox>,
    ) -> Answer<'_, Result<(), SubscribeError>> {
        Box::pin(async move {
            let (done, answer) = oneshot::channel();
            let sent = self.control.send(NewSubscriber { filter, inbox, done }).await;
            sent.map_err(|_| SubscribeError::Closed)?;
            answer.await.unwrap_or(Err(SubscribeError::Closed))
        })
    }

    pub(crate) fn look(&self) {
        self.wake.notify_one();
    }

    pub(crate) fn close(&self, limit: Duration) -> Answer<'_, ()> {
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

impl<F, A> Drop for Handle<F, A> {
    fn drop(&mut self) {
        self.end.cancel();
    }
}
