//! Telemetry, and messages that routes bring to our inputs.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use rumqttc::mqttbytes::{QoS, v4::Publish};

use crate::{
    ack::AckQueue,
    topic::{Identity, encode_bag},
};

/// What edgeHub and IoT Hub take: of the whole packet, and of the parsed message with what edgeHub adds to it.
pub(crate) const MAX_PACKET: usize = 262_144;
/// What fits into the length field of a topic.
const MAX_TOPIC: usize = 65_535;

/// A message to the hub.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HubMessage {
    /// The output name (`$.on`).
    pub output: Option<String>,
    /// The message id (`$.mid`).
    pub message_id: Option<String>,
    /// The content type (`$.ct`), for example `application/json`.
    pub content_type: Option<String>,
    /// The content encoding (`$.ce`), for example `utf-8`. Routes read a body only where this and the type are set.
    pub content_encoding: Option<String>,
    /// Creation time (`$.ctime`), RFC 3339.
    pub creation_time: Option<String>,
    /// Application properties. Names with `$` are refused. Routes can name only those of letters, digits and `_`.
    pub properties: BTreeMap<String, String>,
    /// The body.
    pub body: Bytes,
}

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The message is larger than the hub takes: it would close the connection, or acknowledge the message and
    /// throw it away. Never sent.
    #[error("the message makes a packet of {size} bytes, the hub takes {max}")]
    TooLarge {
        /// Bytes of the packet, or of the message with the properties that edgeHub adds, whichever is larger.
        size: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The properties do not fit into a topic. Never sent.
    #[error("the properties make a topic of {size} bytes, MQTT takes {max}")]
    TopicTooLong {
        /// Bytes of the topic.
        size: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A property name is reserved or empty. Never sent.
    #[error(
        "the property {0:?} is not allowed: names that are empty or start with '$', 'ack' and 'iothub-operation' are reserved"
    )]
    Property(String),
    /// The client was closed.
    #[error("the hub client is closed")]
    Closed,
}

/// A message that a route of edgeHub brought to one of our inputs.
///
/// The hub waits 30 s for [`InputMessage::acknowledge`], then sends the message again. It takes
/// acknowledgements only in the order of the messages; the client keeps that order, whatever the order of the calls.
/// A message that is dropped without acknowledgement was not taken: the client then connects anew, so that the
/// hub brings it again. So the receiver sees every message at least once.
#[derive(Debug)]
pub struct InputMessage {
    /// The input's name.
    pub input: String,
    /// Application properties.
    pub properties: BTreeMap<String, String>,
    /// System properties by their name on the wire: `$.cdid` and `$.cmid` (sender), `$.mid`, `$.ct`, ...
    pub system: BTreeMap<String, String>,
    /// The body.
    pub body: Bytes,
    pub(crate) ack: InputAck,
}

/// The right to acknowledge one message of one connection.
pub(crate) struct InputAck {
    queue: Option<Arc<AckQueue>>,
    packet_id: u16,
}

/// Telemetry in the form of the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encoded {
    pub(crate) topic: String,
    pub(crate) body: Bytes,
}

// === impl HubMessage ===

impl HubMessage {
    fn system(&self) -> impl Iterator<Item = (&'static str, &'static str, &str)> {
        [
            ("$.on", "outputName", &self.output),
            ("$.mid", "messageId", &self.message_id),
            ("$.ct", "contentType", &self.content_type),
            ("$.ce", "contentEncoding", &self.content_encoding),
            ("$.ctime", "creationTime", &self.creation_time),
        ]
        .into_iter()
        .filter_map(|(wire, name, value)| value.as_deref().map(|value| (wire, name, value)))
    }

    /// Checks what the hub would punish by closing the connection, or by losing the message without a word.
    pub(crate) fn encode(self, identity: &Identity, model_id: Option<&str>) -> Result<Encoded, SendError> {
        let reserved = |name: &str| {
            name.is_empty() || name.starts_with('$') || matches!(name, "ack" | "iothub-operation")
        };
        if let Some(name) = self.properties.keys().find(|name| reserved(name)) {
            return Err(SendError::Property(name.clone()));
        }
        let application = self.properties.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let bag = encode_bag(self.system().map(|(wire, _, value)| (wire, value)).chain(application.clone()));
        let topic = identity.telemetry(&bag);
        if topic.len() > MAX_TOPIC {
            return Err(SendError::TopicTooLong { size: topic.len(), max: MAX_TOPIC });
        }
        // edgeHub weighs the message a second time, decoded and with what it adds itself. What is too large
        // then is acknowledged and thrown away, so the limit has to be held here.
        let parsed: usize = self.body.len()
            + application.map(|(name, value)| name.len() + value.len()).sum::<usize>()
            + self.system().map(|(_, name, value)| name.len() + value.len()).sum::<usize>()
            + added_by_edge_hub(identity, model_id);
        let mut publish = Publish::from_bytes(topic, QoS::AtLeastOnce, self.body);
        publish.pkid = 1;
        let size = publish.size().max(parsed);
        if size > MAX_PACKET {
            return Err(SendError::TooLarge { size, max: MAX_PACKET });
        }
        Ok(Encoded { topic: publish.topic, body: publish.payload })
    }
}

/// Bytes of the system properties that edgeHub adds: `connectionDeviceId`, `connectionModuleId`,
/// `edgeMessageId` (a GUID), `edgeHubOriginInterface` (`downstream` at most), `enqueuedTime`, `modelId`.
fn added_by_edge_hub(identity: &Identity, model_id: Option<&str>) -> usize {
    let ids = 18 + identity.device.len() + identity.module.as_ref().map_or(0, |module| 18 + module.len());
    ids + (13 + 36) + (22 + 10) + (12 + 33) + model_id.map_or(0, |model_id| 7 + model_id.len())
}

// === impl InputMessage ===

impl InputMessage {
    /// The message is taken: the hub may forget it. Waits for nothing; the acknowledgement leaves after those
    /// of all messages before.
    pub fn acknowledge(self) {
        self.ack.accept();
    }
}

// === impl InputAck ===

impl InputAck {
    /// For a message that needs no acknowledgement, `queue` is `None`.
    pub(crate) fn new(queue: Option<Arc<AckQueue>>, packet_id: u16) -> Self {
        Self { queue, packet_id }
    }

    fn accept(mut self) {
        if let Some(queue) = self.queue.take() {
            queue.done(self.packet_id);
        }
    }
}

impl Drop for InputAck {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.abandon();
        }
    }
}

impl fmt::Debug for InputAck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InputAck").field("packet_id", &self.packet_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { hub: "h".into(), device: "d".into(), module: Some("m".into()) }
    }

    #[test]
    fn telemetry_topic_is_encoded_as_the_hub_reads_it() {
        let message = HubMessage {
            output: Some("telemetry".into()),
            message_id: Some("ID 1".into()),
            content_type: Some("application/json".into()),
            content_encoding: Some("utf-8".into()),
            creation_time: Some("2026-11-21T10:00:00Z".into()),
            properties: [("key one", "a+b=c&d"), ("kind", "Zürich #1")]
                .map(|(k, v)| (k.into(), v.into()))
                .into(),
            body: Bytes::from_static(b"{}"),
        };
        assert_eq!(
            message.encode(&identity(), None).unwrap().topic,
            "devices/d/modules/m/messages/events/%24.on=telemetry&%24.mid=ID%201&%24.ct=application%2Fjson\
             &%24.ce=utf-8&%24.ctime=2026-11-21T10%3A00%3A00Z&key%20one=a%2Bb%3Dc%26d&kind=Z%C3%BCrich%20%231"
        );
    }

    #[test]
    fn reserved_property_names_are_refused() {
        for name in ["$.on", "$x", "", "ack", "iothub-operation"] {
            let message =
                HubMessage { properties: [(name.into(), "1".into())].into(), ..HubMessage::default() };
            match message.encode(&identity(), None) {
                Err(SendError::Property(refused)) => assert_eq!(refused, name),
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_message_over_the_limit_is_refused_with_its_size() {
        let message = |bytes: usize| HubMessage { body: vec![b'x'; bytes].into(), ..HubMessage::default() };
        // What the parsed form adds is more than the header and the topic here.
        let largest = MAX_PACKET - added_by_edge_hub(&identity(), None);
        assert!(message(largest).encode(&identity(), None).is_ok());
        match message(largest + 1).encode(&identity(), None) {
            Err(SendError::TooLarge { size: 262_145, max: 262_144 }) => {}
            other => panic!("{:?}", other.map(|encoded| encoded.topic)),
        }
        match message(largest).encode(&identity(), Some("dtmi:a;1")) {
            Err(SendError::TooLarge { .. }) => {}
            other => panic!("{:?}", other.map(|encoded| encoded.topic)),
        }
    }

    #[test]
    fn the_whole_packet_counts_with_its_encoded_properties() {
        // Each ü is two bytes when decoded and six in the topic.
        let properties: BTreeMap<_, _> = [("k".to_owned(), "ü".repeat(10_000))].into();
        let message = |bytes: usize| HubMessage {
            body: vec![0; bytes].into(),
            properties: properties.clone(),
            ..HubMessage::default()
        };
        let header = 1 + 3 + 2 + "devices/d/modules/m/messages/events/k=".len() + 60_000 + 2;
        let largest = MAX_PACKET - header;
        assert!(message(largest).encode(&identity(), None).is_ok());
        match message(largest + 1).encode(&identity(), None) {
            Err(SendError::TooLarge { size: 262_145, .. }) => {}
            other => panic!("{:?}", other.map(|encoded| encoded.topic)),
        }
    }

    #[test]
    fn properties_that_do_not_fit_into_a_topic_are_refused() {
        let message =
            HubMessage { properties: [("k".to_owned(), "v".repeat(66_000))].into(), ..HubMessage::default() };
        assert!(matches!(
            message.encode(&identity(), None),
            Err(SendError::TopicTooLong { max: 65_535, .. })
        ));
    }
}
