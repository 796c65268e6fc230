//! An event as it lies on disk.
//!
//! Layout: one byte version (1); length of the head, 4 bytes little-endian; the head, JSON; the event's data as it came.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shunt_wire::{Envelope, EnvelopeError};

const VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
struct Head {
    content_type: Option<String>,
    attributes: Vec<(String, String)>,
}

/// Why bytes on disk are no event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("the record is of version {0}, version {VERSION} is understood")]
    Version(u8),
    #[error("the record is cut off")]
    CutOff,
    #[error("the record's head is not readable: {0}")]
    Head(#[from] serde_json::Error),
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
}

/// The event as bytes.
pub(crate) fn encode(envelope: &Envelope) -> Result<Bytes, RecordError> {
    let message = envelope.to_binary();
    let head =
        serde_json::to_vec(&Head { content_type: message.content_type, attributes: message.attributes })?;
    let mut bytes = Vec::with_capacity(5 + head.len() + message.body.len());
    bytes.push(VERSION);
    bytes.extend_from_slice(&(head.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(&message.body);
    Ok(bytes.into())
}

/// The event of these bytes.
pub(crate) fn decode(bytes: &Bytes) -> Result<Envelope, RecordError> {
    let version = *bytes.first().ok_or(RecordError::CutOff)?;
    if version != VERSION {
        return Err(RecordError::Version(version));
    }
    let length = bytes.get(1..5).and_then(|length| length.try_into().ok()).ok_or(RecordError::CutOff)?;
    let end = 5 + u32::from_le_bytes(length) as usize;
    let head: Head = serde_json::from_slice(bytes.get(5..end).ok_or(RecordError::CutOff)?)?;
    Ok(Envelope::from_binary(head.content_type.as_deref(), &head.attributes, bytes.slice(end..))?)
}

#[cfg(test)]
mod tests {
    use shunt_wire::{Kind, Name};

    use super::*;

    #[test]
    fn an_event_survives_the_disk_byte_for_byte() {
        let event = Envelope::new("a-1", Kind::TEXT, Name::from_static("shop"), "2026-11-21T09:00:00Z")
            .with_extension("zone", "north")
            .with_body("application/json", r#"{"n":0.1000}"#);
        let bytes = encode(&event).unwrap();
        assert_eq!(decode(&bytes).unwrap(), event);
        assert!(matches!(decode(&bytes.slice(..20)), Err(RecordError::CutOff)));
        assert!(matches!(decode(&Bytes::new()), Err(RecordError::CutOff)));
        assert!(matches!(decode(&Bytes::from_static(&[9, 0, 0, 0, 0])), Err(RecordError::Version(9))));
    }
}
