//! What the back ends carry.

use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use shunt_wire::{BinaryMessage, Envelope, Mono};

use crate::PublishError;

/// The longest text of an attribute in bytes: MQTT writes its length in two bytes.
const MAX_TEXT: usize = u16::MAX as usize;

/// An event on its way out.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) retain: bool,
    pub(crate) content: BinaryMessage,
}

/// A message that came.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    pub(crate) topic: String,
    pub(crate) content_type: Option<String>,
    pub(crate) attributes: Vec<(String, String)>,
    pub(crate) payload: Bytes,
    pub(crate) received_at: Mono,
}

// === impl Message ===

impl Message {
    /// The message of this event; refused where no broker would take it.
    pub(crate) fn new(envelope: &Envelope, retain: bool, max: usize) -> Result<Self, PublishError> {
        let message = Self { topic: envelope.topic().to_string(), retain, content: envelope.to_binary() };
        let size = message.size();
        if size > max {
            return Err(PublishError::TooLarge { size, max });
        }
        let type_name = "datacontenttype".to_owned();
        let content_type = message.content.content_type.iter().map(|value| (&type_name, value));
        let attributes = message.content.attributes.iter().map(|(name, value)| (name, value));
        for (name, value) in attributes.chain(content_type) {
            // A broker answers these by closing the connection, and again each time they are sent again.
            let rule = if name.len() > MAX_TEXT || value.len() > MAX_TEXT {
                "it may have 65535 bytes at most"
            } else if name.chars().chain(value.chars()).any(is_forbidden) {
                "it may not hold control characters"
            } else {
                continue;
            };
            return Err(PublishError::Attribute { attribute: name.chars().take(80).collect(), rule });
        }
        Ok(message)
    }

    /// The most bytes that it takes as an MQTT v5 packet.
    pub(crate) fn size(&self) -> usize {
        const FIXED: usize = 5 + 2 + 2 + 4;
        let content_type = self.content.content_type.as_ref().map_or(0, |text| 3 + text.len());
        let attributes = self.content.attributes.iter().map(|(name, value)| 5 + name.len() + value.len());
        FIXED + self.topic.len() + content_type + attributes.sum::<usize>() + self.content.body.len()
    }
}

/// `CloudEvents` 1.0.2, section 3.2, forbids these in attributes, and so does MQTT.
pub(crate) fn is_forbidden(character: char) -> bool {
    character.is_control()
        || matches!(u32::from(character) & 0xFFFF, 0xFFFE | 0xFFFF)
        || ('\u{FDD0}'..='\u{FDEF}').contains(&character)
}

// === impl Arrived ===

impl Arrived {
    /// Tells this message from others; nothing for one without attributes (no event), which may have a twin.
    pub(crate) fn digest(&self) -> Option<u64> {
        if self.attributes.is_empty() {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        (&self.topic, &self.attributes, &self.payload).hash(&mut hasher);
        Some(hasher.finish())
    }
}
