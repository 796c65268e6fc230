//! Events over the bus, through the same library as in the modules.

use anyhow::Context;
use shunt_bus::{Bus, BusOptions, BusState, BusTls, Delivery, PublishError, Subscription, TlsFrom};
use shunt_wire::{Envelope, Kind, Name, Topic, TopicFilter};
use tokio::task::JoinSet;

use super::{
    super::note::{Note, Writer, content_type},
    EventWay, Place, Proof,
};

/// Most assured events without the broker's answer. Full: the sender waits.
const AHEAD: usize = 128;

#[derive(Debug)]
pub(in super::super) struct EventLine {
    bus: Bus,
    events: Subscription,
    delivery: Delivery,
    /// What all our events have in common; its topic is that of the next process.
    event: Envelope,
    writer: Writer,
    flying: JoinSet<Result<(), PublishError>>,
    /// Events of ours so far: each has an id of its own.
    count: u64,
    index: usize,
    /// They should go past the broker.
    locally: bool,
}

// === impl EventLine ===

impl EventLine {
    pub(super) async fn open(way: &EventWay, place: Place) -> anyhow::Result<Self> {
        let name = |index: usize| format!("bench-{index}").parse::<Name>();
        let options = BusOptions {
            shared: way.shared.clone(),
            tls: way.proofs.get(place.index).map(tls),
            ..BusOptions::new(way.url.clone(), name(place.index)?)
        };
        let bus = Bus::open(options)?;
        bus.state().wait_for(|state| *state == BusState::Connected).await.context("the bus was closed")?;
        let delivery = if way.assured { Delivery::Assured } else { Delivery::Fast };
        let own = Topic::new(Kind::TEXT, name(place.index)?);
        let events = bus.subscribe(&TopicFilter::from(&own), delivery).await?;
        let event = Envelope::new("1", Kind::TEXT, name(place.next())?, "2026-11-21T09:00:00Z");
        Ok(Self {
            bus,
            events,
            delivery,
            event,
            writer: Writer::default(),
            flying: JoinSet::new(),
            count: 0,
            index: place.index,
            locally: way.shared.is_some(),
        })
    }

    fn event(&mut self, note: Note, size: usize) -> Envelope {
        self.count += 1;
        self.event.id = format!("{}-{}", self.index, self.count);
        self.event.clone().with_body(content_type(size), self.writer.write(note, size))
    }

    pub(super) async fn send(&mut self, note: Note, size: usize) -> anyhow::Result<()> {
        let event = self.event(note, size);
        Ok(self.bus.publish(event, self.delivery).await?)
    }

    pub(super) async fn send_ahead(&mut self, note: Note, size: usize) -> anyhow::Result<()> {
        if self.delivery == Delivery::Fast {
            return self.send(note, size).await;
        }
        while let Some(done) = self.flying.try_join_next() {
            done??;
        }
        while self.flying.len() >= AHEAD
            && let Some(done) = self.flying.join_next().await
        {
            done??;
        }
        let (bus, event) = (self.bus.clone(), self.event(note, size));
        self.flying.spawn(async move { bus.publish(event, Delivery::Assured).await });
        Ok(())
    }

    pub(super) async fn receive(&mut self) -> anyhow::Result<Note> {
        let received = self.events.next().await.context("the bus was closed")?;
        received.ack.ack();
        // A module reads the envelope, so we do.
        let event = received.envelope?;
        Note::read(&event.body.context("an event without data came")?.bytes)
    }

    /// An assured publish resolves at the broker's answer, which comes about with the other side's answer: the round
    /// trip is the latter's.
    pub(super) async fn exchange(&mut self, note: Note, size: usize) -> anyhow::Result<Note> {
        let (bus, event, delivery) = (self.bus.clone(), self.event(note, size), self.delivery);
        let (sent, answer) = tokio::join!(bus.publish(event, delivery), self.receive());
        sent?;
        answer
    }

    /// Where events should go past the broker: did one already, in each direction?
    pub(super) fn is_ready(&self) -> bool {
        let counters = self.bus.counters();
        !self.locally || (counters.sent_locally > 0 && counters.received_locally > 0)
    }
}

fn tls(proof: &Proof) -> TlsFrom {
    let Proof { trust, identity } = proof.clone();
    TlsFrom::Fixed(BusTls { trust, identity })
}
