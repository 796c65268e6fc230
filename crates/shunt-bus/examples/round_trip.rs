//! Round trips over the bus: one client sends, another answers, both through the broker.
//!
//! ```text
//! cargo run -p shunt-bus --example round_trip [ADDRESS|mosquitto|redis [BYTES [COUNT]]]
//! ```
//!
//! Without an address it starts a Mosquitto of its own, or a Redis. It prints microseconds.

use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use shunt_bus::{Bus, BusOptions, BusState, Delivery};
use shunt_testkit::{Mosquitto, Redis};
use shunt_wire::{Envelope, Kind, Name, TopicFilter};
use tokio::time::timeout;

/// Before the count begins.
const WARM_UP: u64 = 500;
/// How long the first answer may take before it is asked again.
const PATIENCE: Duration = Duration::from_secs(1);

#[expect(clippy::print_stdout, reason = "it prints its result")]
fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next();
    let bytes = arguments.next().map_or(Ok(256), |bytes| bytes.parse())?;
    let count = arguments.next().map_or(Ok(10_000), |count| count.parse())?;
    // The answering side has a runtime and a thread of its own, as a module in its own process has.
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    let here = runtime()?;
    let (mut mosquitto, mut redis) = (None, None);
    let url = match address.as_deref() {
        None | Some("mosquitto") => mosquitto.insert(here.block_on(Mosquitto::start())?).url(),
        Some("redis") => redis.insert(here.block_on(Redis::start())?).url(),
        Some(address) => address.to_owned(),
    };
    let there = runtime()?;
    let answering = {
        let url = url.clone();
        std::thread::spawn(move || there.block_on(answer(url)))
    };
    println!("{url}, {bytes} bytes of data, {count} round trips, microseconds");
    for delivery in [Delivery::Fast, Delivery::Assured] {
        let times = here.block_on(ask(url.clone(), delivery, bytes, count))?;
        let at = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
        println!("{delivery:?}: p50 {:.0}, p99 {:.0}", at(0.5), at(0.99));
    }
    answering.join().ok().context("the answering side broke")?
}

async fn open(url: String, name: &'static str) -> anyhow::Result<Bus> {
    let bus = Bus::open(BusOptions::new(url, Name::from_static(name)))?;
    bus.state().wait_for(|state| *state == BusState::Connected).await?;
    Ok(bus)
}

/// Sends each text back as sentiment until a text without data comes.
async fn answer(url: String) -> anyhow::Result<()> {
    let bus = open(url, "answer").await?;
    let mut fast = bus.subscribe(&TopicFilter::kind(&Kind::TEXT), Delivery::Fast).await?;
    let mut assured = bus.subscribe(&TopicFilter::kind(&Kind::LABEL), Delivery::Assured).await?;
    loop {
        let (received, delivery, kind) = tokio::select! {
            received = fast.next() => (received, Delivery::Fast, Kind::SENTIMENT),
            received = assured.next() => (received, Delivery::Assured, Kind::WINDOW),
        };
        let received = received.context("the bus was closed")?;
        received.ack.ack();
        let mut event = received.envelope?;
        if event.body.is_none() {
            return Ok(());
        }
        event.kind = kind;
        bus.publish(event, delivery).await?;
    }
}

async fn ask(url: String, delivery: Delivery, bytes: usize, count: u64) -> anyhow::Result<Histogram<u64>> {
    let bus = open(url, "ask").await?;
    let (kind, answers) = match delivery {
        Delivery::Fast => (Kind::TEXT, Kind::SENTIMENT),
        Delivery::Assured => (Kind::LABEL, Kind::WINDOW),
    };
    let mut answers = bus.subscribe(&TopicFilter::kind(&answers), delivery).await?;
    let source = Name::from_static("bench");
    let event =
        Envelope::new("1", kind, source, "2026-11-21T09:00:00Z").with_body("text/plain", vec![b'x'; bytes]);
    // A fast event goes to those who have subscribed: the answering side may not have yet.
    loop {
        bus.publish(event.clone(), delivery).await?;
        if let Ok(answer) = timeout(PATIENCE, answers.next()).await {
            answer.context("the bus was closed")?.ack.ack();
            break;
        }
    }
    let mut times = Histogram::new(3)?;
    for number in 0..WARM_UP + count {
        let start = Instant::now();
        // An assured publish resolves at PUBACK, which comes about with the answer; the round trip is the answer's.
        let (published, answer) = tokio::join!(bus.publish(event.clone(), delivery), answers.next());
        published?;
        answer.context("the bus was closed")?.ack.ack();
        if number >= WARM_UP {
            times.record(start.elapsed().as_nanos() as u64)?;
        }
    }
    if delivery == Delivery::Assured {
        let end = Envelope { body: None, ..event };
        bus.publish(end, delivery).await?;
    }
    Ok(times)
}
