//! An event as it lies on disk, with what its keeper notes beside it.
//!
//! Layout: one byte version (1); length of the head, 4 bytes little-endian; the head, JSON; the event's data as it came.
//! The database checks its pages; here only the form is checked.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Envelope, EnvelopeError};

const VERSION: u8 = 1;

/// The keeper's own fields stand beside those of the event.
#[derive(Serialize, Deserialize)]
struct Head<N> {
    #[serde(flatten)]
    notes: N,
    content_type: Option<String>,
    attributes: Vec<(String, String)>,
}

/// Why bytes on disk are no event.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Written by another version.
    #[error("the record is of version {0}, version {VERSION} is understood")]
    Version(u8),
    /// Not all of it is there.
    #[error("the record is cut off")]
    CutOff,
    /// The head is no JSON, or lacks a field.
    #[error("the record's head is not readable: {0}")]
    Head(#[from] serde_json::Error),
    /// The record holds no event.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
}

/// The event and the notes (a struct with named fields, none of them `content_type` or `attributes`) as bytes.
pub fn encode<N: Serialize>(notes: &N, envelope: &Envelope) -> Result<Vec<u8>, RecordError> {
    let message = envelope.to_binary();
    let (content_type, attributes) = (message.content_type, message.attributes);
    let head = serde_json::to_vec(&Head { notes, content_type, attributes })?;
    let mut bytes = Vec::with_capacity(5 + head.len() + message.body.len());
    bytes.push(VERSION);
    bytes.extend_from_slice(&(head.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(&message.body);
    Ok(bytes)
}

/// The notes and the event of these bytes.
pub fn decode<N: DeserializeOwned>(bytes: &Bytes) -> Result<(N, Envelope), RecordError> {
    let version = *bytes.first().ok_or(RecordError::CutOff)?;
    if version != VERSION {
        return Err(RecordError::Version(version));
    }
    let length = bytes.get(1..5).and_then(|length| length.try_into().ok()).ok_or(RecordError::CutOff)?;
    let end = 5 + u32::from_le_bytes(length) as usize;
    let Head { notes, content_type, attributes } =
        serde_json::from_slice(bytes.get(5..end).ok_or(RecordError::CutOff)?)?;
    Ok((notes, Envelope::from_binary(content_type.as_deref(), &attributes, bytes.slice(end..))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, Name};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Notes {
        received: u64,
        boot: String,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct NoNotes {}

    fn event() -> Envelope {
        Envelope::new("a-1", Kind::TEXT, Name::from_static("shop"), "2026-11-21T09:00:00Z")
            .with_extension("zone", "north")
            .with_body("application/json", r#"{"n":0.1000}"#)
    }

    #[test]
    fn a_record_survives_the_disk_byte_for_byte() {
        let notes = Notes { received: u64::MAX, boot: "b".to_owned() };
        let bytes = Bytes::from(encode(&notes, &event()).unwrap());
        assert_eq!(decode::<Notes>(&bytes).unwrap(), (notes, event()));
        let bytes = Bytes::from(encode(&NoNotes {}, &event()).unwrap());
        assert_eq!(decode::<NoNotes>(&bytes).unwrap(), (NoNotes {}, event()));
        assert!(matches!(decode::<NoNotes>(&bytes.slice(..20)), Err(RecordError::CutOff)));
    }

    /// Files of earlier versions are read by later ones.
    #[test]
    fn the_layout_stays_as_it_is() {
        let bytes = encode(&Notes { received: 7, boot: "b".to_owned() }, &event()).unwrap();
        let head = br#"{"received":7,"boot":"b","content_type":"application/json","attributes":[["#;
        assert_eq!(bytes[0], 1);
        assert_eq!(bytes[5..5 + head.len()], head[..]);
        let end = 5 + u32::from_le_bytes(bytes[1..5].try_into().unwrap()) as usize;
        assert_eq!(bytes[end - 3..], *br#"]]}{"n":0.1000}"#);
    }
}
