//! Redis by its own client, with that client's defaults: what our back end is beside.

use std::pin::Pin;

use anyhow::Context;
use redis::{
    AsyncCommands, Client,
    aio::{MultiplexedConnection, PubSubStream},
};

use super::{
    super::note::{Note, Writer},
    Place,
};

pub(in super::super) struct PlainRedisLine {
    connection: MultiplexedConnection,
    messages: Pin<Box<PubSubStream>>,
    next: String,
    writer: Writer,
}

// === impl PlainRedisLine ===

impl PlainRedisLine {
    pub(super) async fn open(port: u16, place: Place) -> anyhow::Result<Self> {
        let channel = |index: usize| format!("bench:{index}");
        let client = Client::open(format!("redis://127.0.0.1:{port}"))?;
        let mut subscriber = client.get_async_pubsub().await?;
        subscriber.subscribe(channel(place.index)).await?;
        Ok(Self {
            connection: client.get_multiplexed_async_connection().await?,
            messages: Box::pin(subscriber.into_on_message()),
            next: channel(place.next()),
            writer: Writer::default(),
        })
    }

    pub(super) async fn send(&mut self, note: Note, size: usize) -> anyhow::Result<()> {
        let content = self.writer.write(note, size);
        let _heard: u64 = self.connection.publish(&self.next, content.as_ref()).await?;
        Ok(())
    }

    pub(super) async fn receive(&mut self) -> anyhow::Result<Note> {
        let next =
            std::future::poll_fn(|context| futures_core::Stream::poll_next(self.messages.as_mut(), context));
        Note::read(next.await.context("the connection broke")?.get_payload_bytes())
    }
}

impl std::fmt::Debug for PlainRedisLine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PlainRedisLine").field("next", &self.next).finish_non_exhaustive()
    }
}
