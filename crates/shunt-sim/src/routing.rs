//! The configuration of edgeHub as it is in force: routes, priorities, times to live; and the queues behind them.

use std::{
    collections::{BTreeMap, btree_map},
    sync::Arc,
    time::Duration,
};

use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::{
    message::Message,
    routes::{Route, RouteMessage, Sink},
};

/// Last in line; what a route without a priority has.
const DEFAULT_PRIORITY: u32 = 2_000_000_000;
/// Most messages that wait for one endpoint. The newest is dropped and counted when it is full, as on a full disk.
const MAX_WAITING: usize = 10_000;
/// Most bytes that wait for one endpoint; the newest is dropped and counted.
const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;
/// The schema versions that edgeHub knows.
const SCHEMA_VERSIONS: [&str; 4] = ["1.0", "1.1", "1.2", "1.3"];

/// Routes in force.
pub(crate) struct Routing {
    routes: Vec<Deployed>,
    /// `storeAndForwardConfiguration.timeToLiveSecs`; none is for ever.
    time_to_live: Option<Duration>,
}

struct Deployed {
    route: Route,
    priority: u32,
    time_to_live: Option<Duration>,
}

/// Where one message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) sink: Sink,
    pub(crate) priority: u32,
    pub(crate) time_to_live: Option<Duration>,
}

// === impl Routing ===

impl Routing {
    /// Before a manifest came: everything goes to the hub.
    pub(crate) fn upstream() -> Self {
        let routes = Route::parse("FROM /messages/* INTO $upstream")
            .map(|route| vec![Deployed { route, priority: DEFAULT_PRIORITY, time_to_live: None }])
            .unwrap_or_default();
        Self { routes, time_to_live: None }
    }

    /// Reads edgeHub's desired properties. One bad route refuses the whole; all mistakes are named.
    pub(crate) fn read(desired: &Map<String, Value>) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        match desired.get("schemaVersion").and_then(Value::as_str) {
            Some(version) if SCHEMA_VERSIONS.contains(&version) => {}
            other => mistakes.push(format!(
                "schemaVersion is {}, known are {}",
                other.unwrap_or("missing"),
                SCHEMA_VERSIONS.join(", ")
            )),
        }
        let seconds =
            desired.get("storeAndForwardConfiguration").and_then(|section| section.get("timeToLiveSecs"));
        // Negative is for ever.
        let time_to_live = seconds
            .and_then(Value::as_i64)
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map(Duration::from_secs);
        if let Some(value) = seconds.filter(|value| !value.is_null() && value.as_i64().is_none()) {
            mistakes
                .push(format!("storeAndForwardConfiguration.timeToLiveSecs is {value}, it must be a number"));
        }
        let mut routes = Vec::new();
        match desired.get("routes") {
            None | Some(Value::Null) => {}
            Some(Value::Object(entries)) => {
                for (name, entry) in entries {
                    match read_route(entry) {
                        Ok(route) => routes.push(route),
                        Err(mistake) => mistakes.push(format!("route {name:?}: {mistake}")),
                    }
                }
            }
            Some(other) => mistakes.push(format!("routes is {other}, it must be an object")),
        }
        if mistakes.is_empty() { Ok(Self { routes, time_to_live }) } else { Err(mistakes) }
    }

    /// Where a message goes: once to each endpoint, by the best priority of the routes that lead there.
    pub(crate) fn deliveries(&self, message: &Message) -> Vec<Delivery> {
        let seen = RouteMessage {
            module: message.from.module.clone(),
            device: message.from.device.clone(),
            output: message.output.clone(),
            properties: message.properties.clone(),
            system: message.system.clone(),
            body: message.body.clone(),
            is_twin_change: message.is_twin_change,
        };
        let mut deliveries: Vec<Delivery> = Vec::new();
        for deployed in self.routes.iter().filter(|deployed| deployed.route.matches(&seen)) {
            let delivery = Delivery {
                sink: deployed.route.sink(),
                priority: deployed.priority,
                time_to_live: deployed.time_to_live.or(self.time_to_live),
            };
            match deliveries.iter_mut().find(|known| known.sink == delivery.sink) {
                Some(known) if known.priority <= delivery.priority => {}
                Some(known) => *known = delivery,
                None => deliveries.push(delivery),
            }
        }
        deliveries
    }
}

fn read_route(entry: &Value) -> Result<Deployed, String> {
    let (text, priority, seconds) = match entry {
        Value::String(text) => (text.as_str(), None, None),
        Value::Object(object) => {
            let text = object.get("route").and_then(Value::as_str).ok_or("the field route is missing")?;
            (text, object.get("priority"), object.get("timeToLiveSecs"))
        }
        _ => return Err("it must be a text or an object".to_owned()),
    };
    let priority = match priority {
        None | Some(Value::Null) => DEFAULT_PRIORITY,
        Some(value) => value
            .as_u64()
            .filter(|priority| *priority <= 9 || *priority == u64::from(DEFAULT_PRIORITY))
            .ok_or_else(|| format!("the priority is {value}, allowed are 0 to 9"))?
            as u32,
    };
    let time_to_live = match seconds {
        None | Some(Value::Null) => None,
        Some(value) => {
            let seconds =
                value.as_u64().ok_or_else(|| format!("timeToLiveSecs is {value}, it must be 0 or more"))?;
            (seconds > 0).then(|| Duration::from_secs(seconds))
        }
    };
    let route = Route::parse(text).map_err(|error| error.to_string())?;
    Ok(Deployed { route, priority, time_to_live })
}

/// A message that waits for its endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) message: Arc<Message>,
    /// The input of the module; none for a message from the cloud to a device, and for the hub.
    pub(crate) input: Option<String>,
    deadline: Option<Instant>,
}

/// Messages for one endpoint, by priority and then by age.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: BTreeMap<(u32, u64), Waiting>,
    bytes: usize,
}

// === impl Queue ===

impl Queue {
    /// False if there is no room.
    pub(crate) fn push(
        &mut self,
        number: u64,
        message: Arc<Message>,
        input: Option<String>,
        priority: u32,
        time_to_live: Option<Duration>,
    ) -> bool {
        let size = message.size();
        if self.waiting.len() >= MAX_WAITING || self.bytes + size > MAX_WAITING_BYTES {
            return false;
        }
        self.bytes += size;
        let deadline = time_to_live.map(|time| Instant::now() + time);
        self.waiting.insert((priority, number), Waiting { message, input, deadline });
        true
    }

    pub(crate) fn first(&self) -> Option<((u32, u64), &Waiting)> {
        self.waiting.first_key_value().map(|(key, waiting)| (*key, waiting))
    }

    pub(crate) fn remove(&mut self, key: (u32, u64)) -> Option<Waiting> {
        let waiting = self.waiting.remove(&key)?;
        self.bytes -= waiting.message.size();
        Some(waiting)
    }

    pub(crate) fn holds(&self, key: (u32, u64)) -> bool {
        self.waiting.contains_key(&key)
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Takes out what is past its time to live; how many.
    pub(crate) fn expire(&mut self, now: Instant) -> u64 {
        let mut expired = Vec::new();
        for (key, waiting) in &self.waiting {
            if waiting.deadline.is_some_and(|deadline| deadline <= now) {
                expired.push(*key);
            }
        }
        for key in &expired {
            self.remove(*key);
        }
        expired.len() as u64
    }

    pub(crate) fn drain(&mut self) -> btree_map::IntoValues<(u32, u64), Waiting> {
        self.bytes = 0;
        std::mem::take(&mut self.waiting).into_values()
    }
}
