//! Messages as edgeHub reads them from a topic and writes them to one, and as the hub keeps them.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{identity::ClientId, token};

/// Bytes of body and properties together that edgeHub takes.
pub(crate) const MAX_MESSAGE: usize = 262_144;

/// System properties: on the wire, and as routes and records name them.
const SYSTEM: [(&str, &str); 14] = [
    ("$.on", "outputName"),
    ("$.mid", "messageId"),
    ("$.cid", "correlationId"),
    ("$.uid", "userId"),
    ("$.to", "to"),
    ("$.ct", "contentType"),
    ("$.ce", "contentEncoding"),
    ("$.exp", "absoluteExpiryTime"),
    ("$.ctime", "creationTime"),
    ("$.sub", "componentName"),
    ("$.schema", "messageSchema"),
    ("$.ifid", "interfaceId"),
    ("$.cdid", "connectionDeviceId"),
    ("$.cmid", "connectionModuleId"),
];

/// Why a telemetry message is taken, acknowledged and lost, as edgeHub does it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MessageError {
    #[error("the topic {0:?} matches no template")]
    Topic(String),
    #[error("the property {0:?} is there twice")]
    Clash(String),
    #[error("the property {0:?} is not percent-encoded UTF-8")]
    Encoding(String),
    #[error("body and properties have {0} bytes, allowed are {MAX_MESSAGE}")]
    TooLarge(usize),
}

impl MessageError {
    /// The reason in the counters.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Topic(_) => "bad_topic",
            Self::Clash(_) | Self::Encoding(_) => "bad_properties",
            Self::TooLarge(_) => "too_large",
        }
    }
}

/// A message on its way through edgeHub.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Message {
    pub(crate) from: ClientId,
    pub(crate) output: Option<String>,
    pub(crate) properties: BTreeMap<String, String>,
    pub(crate) system: BTreeMap<String, String>,
    pub(crate) body: Bytes,
    pub(crate) is_twin_change: bool,
    pub(crate) enqueued: OffsetDateTime,
    pub(crate) received_mono_ns: u64,
}

/// Whose telemetry topic this is, and its property bag.
pub(crate) fn telemetry_topic(topic: &str) -> Result<(ClientId, &str), MessageError> {
    let bad = || MessageError::Topic(topic.to_owned());
    let rest = topic.strip_prefix("devices/").ok_or_else(bad)?;
    let (device, rest) = rest.split_once('/').ok_or_else(bad)?;
    let (client, rest) = match rest.strip_prefix("modules/") {
        Some(rest) => {
            let (module, rest) = rest.split_once('/').ok_or_else(bad)?;
            (ClientId::module(device, module), rest)
        }
        None => (ClientId::device(device), rest),
    };
    let rest = rest.strip_prefix("messages/events").ok_or_else(bad)?;
    if rest.is_empty() {
        return Ok((client, ""));
    }
    let bag = rest.strip_prefix('/').ok_or_else(bad)?;
    let bag = bag.strip_suffix('/').unwrap_or(bag);
    // A slash inside a bag must be encoded; anything else is another topic.
    if bag.contains('/') { Err(bad()) } else { Ok((client, bag)) }
}

/// Reads `k=v&k=v`. Keys are decoded too; `+` is no blank.
pub(crate) fn parse_bag(bag: &str) -> Result<BTreeMap<String, String>, MessageError> {
    let mut properties = BTreeMap::new();
    for pair in bag.strip_prefix('?').unwrap_or(bag).split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let bad = || MessageError::Encoding(pair.to_owned());
        let name = token::decode(name).ok_or_else(bad)?;
        let value = token::decode(value).ok_or_else(bad)?;
        if properties.contains_key(&name) {
            return Err(MessageError::Clash(name));
        }
        properties.insert(name, value);
    }
    Ok(properties)
}

// === impl Message ===

impl Message {
    pub(crate) fn read(from: ClientId, bag: &str, retain: bool, body: Bytes) -> Result<Self, MessageError> {
        let all = parse_bag(bag)?;
        let size = body.len() + all.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if size > MAX_MESSAGE {
            return Err(MessageError::TooLarge(size));
        }
        let (mut properties, mut system) = (BTreeMap::new(), BTreeMap::new());
        for (name, value) in all {
            match SYSTEM.iter().find(|(wire, _)| *wire == name) {
                Some((_, known)) => system.insert((*known).to_owned(), value),
                None if name.starts_with("$.") => system.insert(name, value),
                None => properties.insert(name, value),
            };
        }
        if retain {
            properties.insert("mqtt-retain".to_owned(), "true".to_owned());
        }
        let output = system.get("outputName").cloned();
        system.insert("connectionDeviceId".to_owned(), from.device.clone());
        match &from.module {
            Some(module) => system.insert("connectionModuleId".to_owned(), module.clone()),
            None => system.remove("connectionModuleId"),
        };
        Ok(Self {
            from,
            output,
            properties,
            system,
            body,
            is_twin_change: false,
            enqueued: OffsetDateTime::now_utc(),
            received_mono_ns: mono_now(),
        })
    }

    /// Bytes that the message takes in a queue.
    pub(crate) fn size(&self) -> usize {
        let maps = self.properties.iter().chain(&self.system);
        self.body.len() + maps.map(|(name, value)| name.len() + value.len()).sum::<usize>()
    }

    /// The topic on which a module gets it. The sender comes first, percent-encoded (`%24.cdid`): the C client knows
    /// it in that form only.
    pub(crate) fn input_topic(&self, to: &ClientId, input: &str) -> String {
        let module = to.module.as_deref().unwrap_or_default();
        format!("devices/{}/modules/{module}/inputs/{input}/{}", to.device, self.bag())
    }

    /// The property bag of a delivered message. The output name goes to the hub only.
    pub(crate) fn bag(&self) -> String {
        let first = ["connectionDeviceId", "connectionModuleId"];
        let known = |name: &String| first.contains(&name.as_str());
        let wire = |name: &str| {
            SYSTEM
                .iter()
                .find(|(_, known)| *known == name)
                .map_or_else(|| name.to_owned(), |(wire, _)| (*wire).to_owned())
        };
        let ahead = self.system.iter().filter(|(name, _)| known(name));
        let rest = self.system.iter().filter(|(name, _)| !known(name) && *name != "outputName");
        let system = ahead.chain(rest).map(|(name, value)| (wire(name), value));
        let application = self.properties.iter().map(|(name, value)| (name.clone(), value));
        let pairs: Vec<String> = system
            .chain(application)
            .map(|(name, value)| {
                // Azure's writers leave the dot alone and encode the dollar sign.
                format!("{}={}", token::encode(&name), token::encode(value))
            })
            .collect();
        pairs.join("&")
    }

    pub(crate) fn record(&self, sequence: u64) -> HubRecord {
        let json = self
            .system
            .get("contentType")
            .filter(|kind| kind.to_ascii_lowercase().starts_with("application/json"))
            .and_then(|_| serde_json::from_slice::<Value>(&self.body).ok());
        let body_is_base64 = json.is_none();
        HubRecord {
            sequence,
            device: self.from.device.clone(),
            module: self.from.module.clone(),
            output: self.output.clone(),
            properties: self.properties.clone(),
            system: self.system.clone(),
            body: json.unwrap_or_else(|| Value::String(BASE64.encode(&self.body))),
            body_is_base64,
            enqueued: self.enqueued.format(&Rfc3339).unwrap_or_default(),
            received_mono_ns: self.received_mono_ns,
        }
    }
}

/// The machine's monotonic clock in nanoseconds, the one that events carry.
pub(crate) fn mono_now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A message that reached the hub.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HubRecord {
    /// Counts from 1, without gaps.
    pub sequence: u64,
    /// The sending device.
    pub device: String,
    /// The sending module; none for a leaf device.
    pub module: Option<String>,
    /// The output it was sent on (`$.on`).
    pub output: Option<String>,
    /// Application properties.
    pub properties: BTreeMap<String, String>,
    /// System properties by the names that routes use: `messageId`, `contentType`, `outputName`, ...
    pub system: BTreeMap<String, String>,
    /// The body: JSON where the content type says `application/json` and it is, else base64 text.
    pub body: Value,
    /// Is `body` base64 text?
    pub body_is_base64: bool,
    /// When edgeHub took it, RFC 3339.
    pub enqueued: String,
    /// When edgeHub took it, in nanoseconds on the machine's monotonic clock.
    pub received_mono_ns: u64,
}
