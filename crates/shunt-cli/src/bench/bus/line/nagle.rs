//! The trap: a client with its own defaults, which leave Nagle's algorithm on, at a broker with its own.

use std::time::Duration;

use anyhow::Context;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use tokio::sync::mpsc;

use super::{
    super::note::{Note, Writer},
    Place,
};

/// Messages read and not yet taken: more than are ever on their way here. Full: the reader waits.
const QUEUE: usize = 256;

#[derive(Debug)]
pub(in super::super) struct NagleLine {
    client: AsyncClient,
    notes: mpsc::Receiver<anyhow::Result<Note>>,
    next: String,
    writer: Writer,
}

// === impl NagleLine ===

impl NagleLine {
    pub(super) async fn open(port: u16, place: Place) -> anyhow::Result<Self> {
        let topic = |index: usize| format!("bench/{index}");
        let mut options = MqttOptions::new(format!("bench-{}", place.index), "127.0.0.1", port);
        options.set_keep_alive(Duration::from_secs(30));
        let (client, mut events) = AsyncClient::new(options, QUEUE);
        client.subscribe(topic(place.index), QoS::AtLeastOnce).await?;
        while !matches!(events.poll().await?, Event::Incoming(Packet::SubAck(_))) {}
        let (sender, notes) = mpsc::channel(QUEUE);
        tokio::spawn(read(events, sender));
        Ok(Self { client, notes, next: topic(place.next()), writer: Writer::default() })
    }

    pub(super) async fn send(&mut self, note: Note, size: usize) -> anyhow::Result<()> {
        let content = self.writer.write(note, size);
        Ok(self.client.publish_bytes(&self.next, QoS::AtLeastOnce, false, content).await?)
    }

    pub(super) async fn receive(&mut self) -> anyhow::Result<Note> {
        self.notes.recv().await.context("the connection broke")?
    }
}

/// Until the connection breaks, or nobody listens any more.
async fn read(mut events: EventLoop, notes: mpsc::Sender<anyhow::Result<Note>>) {
    loop {
        let note = match events.poll().await {
            Ok(Event::Incoming(Packet::Publish(publish))) => Note::read(&publish.payload),
            Ok(_) => continue,
            Err(error) => Err(error.into()),
        };
        let broken = note.is_err();
        if notes.send(note).await.is_err() || broken {
            return;
        }
    }
}
