//! The IoT Edge module client: edgeHub's MQTT dialect, the workload API, twins, direct methods, telemetry.
//!
//! SKELETON: signatures are the contract; bodies are to be written.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::sync::watch;

/// A place to read environment variables from; tests pass a map.
pub trait Environment {
    /// The value of the variable, if it is set.
    fn get(&self, name: &str) -> Option<String>;
}

impl Environment for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<String> {
        BTreeMap::get(self, name).cloned()
    }
}

/// Who we are, how we prove it and where the hub is. Made by [`HubOptions::from_environment`] or
/// [`HubOptions::from_connection_string`].
#[derive(Debug, Clone)]
pub struct HubOptions(());

/// Why there is no usable identity in the environment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubOptionsError {
    /// Variables are missing or wrong; all of them.
    #[error("{}", .0.join("; "))]
    Environment(Vec<String>),
}

/// A message to the hub.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HubMessage {
    /// The output name (`$.on`).
    pub output: Option<String>,
    /// The message id (`$.mid`).
    pub message_id: Option<String>,
    /// The content type (`$.ct`), for example `application/json`.
    pub content_type: Option<String>,
    /// The content encoding (`$.ce`), for example `utf-8`.
    pub content_encoding: Option<String>,
    /// Creation time (`$.ctime`), RFC 3339.
    pub creation_time: Option<String>,
    /// Application properties. Names with `$` are refused.
    pub properties: BTreeMap<String, String>,
    /// The body.
    pub body: Bytes,
}

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The whole packet is larger than edgeHub takes; it would close the connection. Never sent.
    #[error("the message makes a packet of {size} bytes, the hub takes {max}")]
    TooLarge {
        /// Bytes of the packet.
        size: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A property name is reserved or given twice. Never sent.
    #[error("the property {0:?} is not allowed: names with '$' are reserved")]
    Property(String),
    /// The client was closed.
    #[error("the hub client is closed")]
    Closed,
}

/// Why a twin could not be read or reported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TwinError {
    /// The hub answered with this status.
    #[error("the hub answered {0}")]
    Status(u16),
    /// No answer in time, or not connected.
    #[error("no answer from the hub: {0}")]
    NoAnswer(&'static str),
    /// The answer is not a twin.
    #[error("the hub's answer is not a twin: {0}")]
    Malformed(String),
    /// The client was closed.
    #[error("the hub client is closed")]
    Closed,
}

/// The desired properties as the client holds them: fetched at each connect, patched since, gaps healed.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// `$version`.
    pub version: u64,
    /// The properties, `$version` taken out.
    pub properties: Map<String, Value>,
}

/// Is the hub there?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HubState {
    /// Not yet, or no more; the reason of the last failure.
    Disconnected(String),
    /// Yes.
    Connected,
}

/// A direct method called by the cloud or by another module.
#[derive(Debug)]
pub struct MethodCall {
    /// The method.
    pub name: String,
    /// Its argument; `null` if none was given.
    pub payload: Value,
    /// Who answers: must be used, else the caller waits for its time limit.
    pub reply: MethodReply,
}

/// The way back to the caller of a direct method.
#[derive(Debug)]
pub struct MethodReply(());

/// A handle on the hub; clones share one connection.
#[derive(Debug, Clone)]
pub struct Hub(());

/// Counters since the start, for `/metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HubCounters {
    /// Messages acknowledged by the hub.
    pub acknowledged: u64,
    /// Times the connection came back after a fault.
    pub reconnects: u64,
    /// Times it was renewed because the token ran out, as planned.
    pub renewals: u64,
}

impl HubOptions {
    /// From the variables of IoT Edge; `Ok(None)` where none of them is set. `EdgeHubConnectionString` first.
    pub fn from_environment(environment: &impl Environment) -> Result<Option<Self>, HubOptionsError> {
        let _ = environment;
        todo!()
    }

    /// From a device's or module's connection string, for running outside IoT Edge.
    pub fn from_connection_string(text: &str) -> Result<Self, HubOptionsError> {
        let _ = text;
        todo!()
    }
}

impl Hub {
    /// Begins to connect, in the background, for as long as it takes.
    pub fn open(options: HubOptions) -> Self {
        let _ = options;
        todo!()
    }

    /// Sends telemetry; resolves when the hub has acknowledged it (PUBACK), through any number of reconnects.
    pub async fn send(&self, message: HubMessage) -> Result<(), SendError> {
        let _ = message;
        todo!()
    }

    /// The desired properties, first when they were fetched, then at each change. `None` until they are known;
    /// an empty twin without `$version` (edgeHub offline, never seen) does not count as known.
    pub fn desired(&self) -> watch::Receiver<Option<Desired>> {
        todo!()
    }

    /// Reports properties: a JSON merge patch on the reported section.
    pub async fn report(&self, patch: &Map<String, Value>) -> Result<(), TwinError> {
        let _ = patch;
        todo!()
    }

    /// The direct methods called from now on. One receiver; calls made while it is full (16) are answered 503.
    pub fn methods(&self) -> tokio::sync::mpsc::Receiver<MethodCall> {
        todo!()
    }

    /// Is the hub there? Changes are seen by `changed()`.
    pub fn state(&self) -> watch::Receiver<HubState> {
        todo!()
    }

    /// Counters since the start.
    pub fn counters(&self) -> HubCounters {
        todo!()
    }

    /// Waits for open acknowledgements, says goodbye and closes; within this time.
    pub async fn close(&self, limit: Duration) {
        let _ = limit;
        todo!()
    }
}

impl MethodReply {
    /// Answers with a status as of HTTP (200, 400, 404, 500) and a payload.
    pub async fn answer(self, status: u16, payload: Value) {
        let _ = (status, payload);
        todo!()
    }
}
