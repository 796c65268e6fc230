//! What the way past the broker saves: events from process to process by raw Unix sockets, by the bus past the
//! broker, and by the bus through Mosquitto.
//!
//! ```text
//! cargo run -p shunt-bus --example local_path [COUNT [BYTES]]
//! ```
//!
//! It starts processes of itself. A lap goes through all of them and back to the first: two processes make a round
//! trip (2 hops), six a chain (6 hops). It prints microseconds a lap, and the processor time of all processes (Mosquitto
//! not among them) a lap.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::Context;
use hdrhistogram::Histogram;
use shunt_bus::{Bus, BusOptions, BusState, Delivery, Subscription};
use shunt_testkit::Mosquitto;
use shunt_wire::{Envelope, IdSequence, Kind, Name, Topic, TopicFilter};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::timeout,
};

/// Before the count begins.
const WARM_UP: u64 = 500;
/// A lap that takes longer is lost.
const LOST: Duration = Duration::from_secs(1);
/// How long the processes may take to find each other.
const START: Duration = Duration::from_secs(30);

/// One process of a ring.
struct Place {
    number: usize,
    of: usize,
    folder: PathBuf,
    /// The bus's address; none: raw sockets.
    url: Option<String>,
    shared: bool,
}

/// The processes that hand on. They end with this.
struct Ring(Vec<Child>);

#[expect(clippy::print_stdout, reason = "it prints its result")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "hand-on") {
        return Place::read(&arguments)?.hand_on().await;
    }
    let count = arguments.first().map_or(Ok(10_000), |count| count.parse())?;
    let bytes: usize = arguments.get(1).map_or(Ok(256), |bytes| bytes.parse())?;
    let broker = Mosquitto::start().await?;
    println!("{bytes} bytes of data, {count} laps, microseconds: p50, p99, processor time");
    for of in [2, 6] {
        for (name, url, shared) in [
            ("raw Unix sockets", None, false),
            ("past the broker alone", Some("memory:none".to_owned()), true),
            ("past the broker, which gets a copy", Some(broker.url()), true),
            ("through Mosquitto, QoS 0", Some(broker.url()), false),
        ] {
            let folder = tempfile::tempdir()?;
            let place = Place { number: 0, of, folder: folder.path().to_owned(), url, shared };
            let ring = place.start()?;
            let (times, work) = match place.url {
                None => place.measure_raw(&ring, bytes, count).await?,
                Some(_) => place.measure(&ring, bytes, count).await?,
            };
            let at = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
            let work = work.as_secs_f64() * 1e6 / count as f64;
            println!("{of} processes, {name}: {:.0}, {:.0}, {work:.0}", at(0.5), at(0.99));
        }
    }
    Ok(())
}

// === impl Place ===

impl Place {
    fn read(arguments: &[String]) -> anyhow::Result<Self> {
        let [_, number, of, folder, url, shared] = arguments else { anyhow::bail!("wrong arguments") };
        Ok(Self {
            number: number.parse()?,
            of: of.parse()?,
            folder: folder.into(),
            url: Some(url.clone()).filter(|url| !url.is_empty()),
            shared: shared == "true",
        })
    }

    /// Starts the other processes of the ring.
    fn start(&self) -> anyhow::Result<Ring> {
        let mut ring = Ring(Vec::new());
        for number in 1..self.of {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["hand-on", &number.to_string(), &self.of.to_string()]).arg(&self.folder);
            command.arg(self.url.as_deref().unwrap_or_default()).arg(self.shared.to_string());
            ring.0.push(command.spawn()?);
        }
        Ok(ring)
    }

    /// Hands on what comes, to the next one, until the process is ended.
    async fn hand_on(self) -> anyhow::Result<()> {
        if self.url.is_none() {
            let listener = UnixListener::bind(self.socket(self.number))?;
            let mut next = self.connect_next().await?;
            let (mut before, _) = listener.accept().await?;
            let mut buffer = vec![0; 1 << 20];
            loop {
                let count = before.read(&mut buffer).await?;
                if count == 0 {
                    return Ok(());
                }
                next.write_all(buffer.get(..count).unwrap_or_default()).await?;
            }
        }
        let (bus, mut events) = self.open().await?;
        while let Some(received) = events.next().await {
            let event = Envelope { kind: kind((self.number + 1) % self.of)?, ..received.envelope? };
            // Until all have met, nobody may be there.
            drop(bus.publish(event, Delivery::Fast).await);
        }
        Ok(())
    }

    fn socket(&self, number: usize) -> PathBuf {
        self.folder.join(format!("{number}.raw"))
    }

    async fn connect_next(&self) -> anyhow::Result<UnixStream> {
        let next = self.socket((self.number + 1) % self.of);
        let connect = || async { UnixStream::connect(&next).await.ok() };
        shunt_testkit::found(START, connect).await.context("the next process is not there")
    }

    async fn open(&self) -> anyhow::Result<(Bus, Subscription)> {
        let url = self.url.clone().context("no bus")?;
        let shared = self.shared.then(|| self.folder.clone());
        let name: Name = format!("place-{}", self.number).parse()?;
        let bus = Bus::open(BusOptions { shared, ..BusOptions::new(url, name) })?;
        timeout(START, bus.state().wait_for(|state| *state == BusState::Connected)).await??;
        let topic = Topic::new(kind(self.number)?, Name::from_static("bench"));
        let events = bus.subscribe(&TopicFilter::from(&topic), Delivery::Fast).await?;
        Ok((bus, events))
    }

    async fn measure_raw(
        &self,
        ring: &Ring,
        bytes: usize,
        count: u64,
    ) -> anyhow::Result<(Histogram<u64>, Duration)> {
        let listener = UnixListener::bind(self.socket(0))?;
        let mut next = self.connect_next().await?;
        let (mut last, _) = listener.accept().await?;
        let mut buffer = vec![b'x'; bytes];
        let mut times = Histogram::new(3)?;
        let mut before = ring.work()?;
        for number in 0..WARM_UP + count {
            if number == WARM_UP {
                before = ring.work()?;
            }
            let start = Instant::now();
            next.write_all(&buffer).await?;
            last.read_exact(&mut buffer).await?;
            if number >= WARM_UP {
                times.record(start.elapsed().as_nanos() as u64)?;
            }
        }
        Ok((times, ring.work()?.saturating_sub(before)))
    }

    async fn measure(
        &self,
        ring: &Ring,
        bytes: usize,
        count: u64,
    ) -> anyhow::Result<(Histogram<u64>, Duration)> {
        let (bus, mut events) = self.open().await?;
        let ids = IdSequence::new("lap");
        let event = Envelope::new("", kind(1)?, Name::from_static("bench"), "2026-11-21T09:00:00Z")
            .with_body("text/plain", vec![b'x'; bytes]);
        let mut lap = async || -> anyhow::Result<bool> {
            let id = ids.next_id();
            drop(bus.publish(Envelope { id: id.clone(), ..event.clone() }, Delivery::Fast).await);
            let came = async {
                // A late one of an earlier lap is not the answer.
                while events.next().await.context("the bus was closed")?.envelope?.id != id {}
                anyhow::Ok(())
            };
            timeout(LOST, came).await.map_or(Ok(false), |came| came.map(|()| true))
        };
        // All have met when as many laps in a row arrive as there are places, by the way that is measured.
        let begin = Instant::now();
        let mut good = 0;
        while good < 2 * self.of || (self.shared && bus.counters().received_locally < 2 * self.of as u64) {
            anyhow::ensure!(begin.elapsed() < START, "the processes do not find each other");
            good = if lap().await? { good + 1 } else { 0 };
        }
        let mut times = Histogram::new(3)?;
        let mut before = ring.work()?;
        for number in 0..WARM_UP + count {
            if number == WARM_UP {
                before = ring.work()?;
            }
            let start = Instant::now();
            anyhow::ensure!(lap().await?, "an event was lost");
            if number >= WARM_UP {
                times.record(start.elapsed().as_nanos() as u64)?;
            }
        }
        Ok((times, ring.work()?.saturating_sub(before)))
    }
}

fn kind(number: usize) -> anyhow::Result<Kind> {
    Ok(format!("hop{number}").parse()?)
}

// === impl Ring ===

impl Ring {
    /// The processor time of all processes of the ring, this one included.
    fn work(&self) -> anyhow::Result<Duration> {
        let mut sum = Duration::ZERO;
        for pid in self.0.iter().map(Child::id).chain([std::process::id()]) {
            let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))?;
            // Behind the name, which may hold anything, utime and stime are the fields 12 and 13, in hundredths.
            let fields = stat.rsplit_once(')').context("no stat")?.1;
            let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
            sum += Duration::from_millis(10 * ticks.sum::<Result<u64, _>>()?);
        }
        Ok(sum)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended by itself.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
