//! A relay with a bus and a hub.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, time::Duration};

use relay::RelaySettings;
use serde_json::{Value, json};
use shunt_bus::{Bus, BusOptions, Delivery};
use shunt_module::{Context, Events};
use shunt_sim::{HubRecord, Sim, SimOptions};
use shunt_testkit::{Ledger, eventually, found};
use shunt_wire::{Kind, Name};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

/// Every wait ends here.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A relay in this process.
pub(crate) struct Relay {
    pub(crate) http: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    exit: JoinHandle<u8>,
}

/// The stand-in of the hub, with the module `relay`.
pub(crate) async fn sim(folder: &Path) -> Sim {
    let sim = Sim::start(SimOptions { folder: folder.join("sim"), ..SimOptions::default() }).await.unwrap();
    sim.add_module("relay").unwrap();
    sim
}

/// The environment of a relay: its data in this folder, and what more is given.
pub(crate) fn environment(
    folder: &Path,
    bus: &str,
    sim: Option<&Sim>,
    more: &[(&str, &str)],
) -> BTreeMap<String, String> {
    let mut variables = sim.map(|sim| sim.module_environment("relay")).unwrap_or_default();
    let folder = folder.display().to_string();
    let own =
        [("SHUNT_BUS_URL", bus), ("SHUNT_HTTP_LISTEN", "127.0.0.1:0"), ("SHUNT_DATA_DIR", folder.as_str())];
    variables.extend(own.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    variables
}

/// A bus of this test alone, in this process.
pub(crate) fn memory(folder: &Path) -> String {
    format!("memory:{}", folder.display().to_string().replace('/', "-"))
}

/// A client on the bus.
pub(crate) fn client(url: &str, name: &'static str) -> Bus {
    Bus::open(BusOptions {
        queue: 1024,
        max_message: 4 * 1024 * 1024,
        ..BusOptions::new(url, Name::from_static(name))
    })
    .unwrap()
}

/// Publishes emotion events with these numbers in their data, assured.
pub(crate) async fn publish(bus: &Bus, numbers: std::ops::RangeInclusive<u64>) {
    let events = Events::new();
    for number in numbers {
        let data = json!({"number": number, "even": number % 2 == 0});
        let event = events.event(Kind::EMOTION, Name::from_static("front-door")).with_json(&data).unwrap();
        timeout(PATIENCE, bus.publish(event, Delivery::Assured)).await.unwrap().unwrap();
    }
}

/// The numbers that the hub has, in the order they came; each came with one message id only. 0 is left out: those are
/// the events of [`subscribed`].
pub(crate) async fn at_hub(sim: &Sim) -> (Vec<u64>, Ledger) {
    let mut records = sim.messages_from(1, Duration::ZERO).await;
    records.retain(|record| number(record) > 0);
    let numbers: Vec<u64> = records.iter().map(number).collect();
    let (mut ledger, mut ids) = (Ledger::default(), BTreeMap::new());
    for (record, number) in records.iter().zip(&numbers) {
        ledger.note(*number);
        let id = record.system["messageId"].clone();
        assert_eq!(ids.entry(*number).or_insert(id.clone()), &id, "event {number} came with two message ids");
    }
    (numbers, ledger)
}

pub(crate) fn number(record: &HubRecord) -> u64 {
    record.body["number"].as_u64().unwrap_or_default()
}

/// Waits until the hub has all these numbers.
pub(crate) async fn all_at_hub(sim: &Sim, numbers: std::ops::RangeInclusive<u64>) {
    let all = async {
        let (mut ledger, mut next) = (Ledger::default(), 1);
        while !ledger.missing(numbers.clone()).is_empty() {
            for record in sim.messages_from(next, PATIENCE).await {
                next = record.sequence + 1;
                ledger.note(number(&record));
            }
        }
    };
    let in_time = timeout(PATIENCE, all).await.is_ok();
    assert!(in_time, "the hub misses {:?}", at_hub(sim).await.1.missing(numbers));
}

impl Relay {
    pub(crate) async fn start(environment: BTreeMap<String, String>) -> Self {
        let (started_sender, started) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let exit = tokio::spawn(async move {
            let stop = async {
                stopped.await.ok();
                "the test"
            };
            shunt_module::live(&environment, stop, |context: Context<RelaySettings>| {
                started_sender.send(context.listener.local_addr().unwrap()).unwrap();
                relay::run(context)
            })
            .await
        });
        let http = timeout(PATIENCE, started).await.unwrap().unwrap();
        Self { http, stop: Some(stop), exit }
    }

    /// Stops it in order, well within the drain limit of 8 s.
    pub(crate) async fn stop(mut self) {
        self.stop.take().unwrap().send(()).ok();
        assert_eq!(timeout(Duration::from_secs(6), self.exit).await.unwrap().unwrap(), 0);
    }

    pub(crate) async fn status(&self) -> Value {
        status(self.http).await
    }

    pub(crate) async fn dropped(&self, reason: &str) -> u64 {
        self.status().await["dropped"][reason].as_u64().unwrap()
    }

    /// Waits until `/status` says so.
    pub(crate) async fn until(&self, told: impl Fn(&Value) -> bool) -> Value {
        let told_so = found(PATIENCE, || async { Some(self.status().await).filter(&told) });
        match told_so.await {
            Some(status) => status,
            None => panic!("the status stays {:#}", self.status().await),
        }
    }
}

/// The sum of a counter by label.
pub(crate) fn total(counts: &Value) -> u64 {
    counts.as_object().unwrap().values().filter_map(Value::as_u64).sum()
}

/// Asks a page of a module; gives the body.
pub(crate) async fn page(http: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(http).await.ok()?;
    // HTTP/1.0, so that the body comes in one piece.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: relay\r\n\r\n").as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.to_owned())
}

pub(crate) async fn status(http: SocketAddr) -> Value {
    let page = timeout(PATIENCE, page(http, "/status")).await.unwrap().unwrap();
    serde_json::from_str(&page).unwrap()
}

/// Waits until the relay has subscribed: an event sent before would reach nobody.
pub(crate) async fn subscribed(bus: &Bus, relay: &Relay) {
    let probe = Events::new();
    eventually(PATIENCE, || async {
        let event = probe
            .event(Kind::EMOTION, Name::from_static("probe"))
            .with_json(&json!({"number": 0, "even": true}))
            .unwrap();
        bus.publish(event, Delivery::Assured).await.ok();
        total(&relay.status().await["accepted"]) > 0
    })
    .await;
}
