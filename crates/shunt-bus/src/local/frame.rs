//! What travels on the sockets: the length in four bytes (little endian, as all numbers here), then the content.
//!
//! From subscriber to publisher: [`Wants`]. From publisher to subscriber: events, and [`GAP`]. The end of a socket's name says
//! which version of this it speaks ([`super::folder::VERSION`]).

use bytes::{Buf, BufMut, Bytes, BytesMut, TryGetError};
use shunt_wire::{Mono, TopicFilter};

use crate::message::{Arrived, Message};

/// Bytes of the length.
const HEAD: usize = 4;
/// In the place of events that were dropped: no content.
pub(super) const GAP: Bytes = Bytes::from_static(&[0; HEAD]);
/// The largest [`Wants`] in bytes.
pub(super) const MAX_WANTS: usize = 64 << 10;
/// So much larger than the same message over MQTT an event may be, in bytes.
const SLACK: usize = 64;

/// What a subscriber tells a publisher: at first, and after each change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wants {
    /// The name of the subscriber's own socket.
    pub(super) socket: String,
    /// The largest event that it takes, in bytes.
    pub(super) max: u32,
    /// Only what one of these matches.
    pub(super) filters: Vec<TopicFilter>,
}

/// Why what came is none of these.
#[derive(Debug, thiserror::Error)]
pub(super) enum Bad {
    #[error("it has {size} bytes, {max} are allowed")]
    TooLarge { size: usize, max: usize },
    #[error("it ends in the middle")]
    Short(#[from] TryGetError),
    #[error("it holds bytes that are no text")]
    Text,
    #[error("it holds bytes after its end")]
    Long,
    #[error("it holds a filter that is none")]
    Filter,
}

/// Takes the next whole one from what was read.
pub(super) fn take(buffer: &mut BytesMut, max: usize) -> Result<Option<Bytes>, Bad> {
    let Some(head) = buffer.first_chunk::<HEAD>() else { return Ok(None) };
    let size = u32::from_le_bytes(*head) as usize;
    if size > max {
        return Err(Bad::TooLarge { size, max });
    }
    if buffer.len() - HEAD < size {
        return Ok(None);
    }
    buffer.advance(HEAD);
    Ok(Some(buffer.split_to(size).freeze()))
}

/// The largest event of a module whose messages may have this size.
pub(super) fn max_event(max_message: usize) -> usize {
    max_message.saturating_add(SLACK).min(u32::MAX as usize)
}

/// The event, ready to be written.
pub(super) fn event(message: &Message) -> Bytes {
    let mut out = BytesMut::with_capacity(message.size() + SLACK);
    out.put_bytes(0, HEAD);
    put_text(&mut out, &message.topic);
    let content_type = message.content.content_type.as_deref();
    out.put_u8(content_type.is_some().into());
    put_text(&mut out, content_type.unwrap_or_default());
    out.put_u16_le(message.content.attributes.len() as u16);
    for (name, value) in &message.content.attributes {
        put_text(&mut out, name);
        put_text(&mut out, value);
    }
    out.put_slice(&message.content.body);
    finish(out)
}

/// Reads an event.
pub(super) fn read_event(mut frame: Bytes, received_at: Mono) -> Result<Arrived, Bad> {
    let topic = text(&mut frame)?;
    let has_type = frame.try_get_u8()? != 0;
    let content_type = text(&mut frame)?;
    let count = frame.try_get_u16_le()?;
    let attributes = (0..count).map(|_| Ok((text(&mut frame)?, text(&mut frame)?)));
    let attributes = attributes.collect::<Result<Vec<_>, Bad>>()?;
    Ok(Arrived {
        topic,
        content_type: has_type.then_some(content_type),
        attributes,
        payload: frame,
        received_at,
    })
}

/// Sets the length.
fn finish(mut out: BytesMut) -> Bytes {
    let length = (out.len() - HEAD) as u32;
    if let Some(head) = out.first_chunk_mut::<HEAD>() {
        *head = length.to_le_bytes();
    }
    out.freeze()
}

/// Texts are no longer than this allows: [`Message::new`] has seen to it.
fn put_text(out: &mut BytesMut, text: &str) {
    let length = text.floor_char_boundary(usize::from(u16::MAX));
    out.put_u16_le(length as u16);
    out.put_slice(text.get(..length).unwrap_or_default().as_bytes());
}

fn text(frame: &mut Bytes) -> Result<String, Bad> {
    let length = usize::from(frame.try_get_u16_le()?);
    let available = frame.len();
    if available < length {
        return Err(TryGetError { requested: length, available }.into());
    }
    String::from_utf8(frame.split_to(length).into()).map_err(|_| Bad::Text)
}

// === impl Wants ===

impl Wants {
    /// Ready to be written.
    pub(super) fn write(&self) -> Bytes {
        let frame = self.write_all();
        if frame.len() <= MAX_WANTS + HEAD {
            return frame;
        }
        // More filters than fit: everything, of which the subscriber takes what it wants.
        let filters = "#".parse().into_iter().collect();
        Self { filters, socket: self.socket.clone(), max: self.max }.write_all()
    }

    fn write_all(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_bytes(0, HEAD);
        out.put_u32_le(self.max);
        put_text(&mut out, &self.socket);
        out.put_u16_le(u16::try_from(self.filters.len()).unwrap_or(u16::MAX));
        for filter in &self.filters {
            put_text(&mut out, filter.as_str());
        }
        finish(out)
    }

    pub(super) fn read(mut frame: Bytes) -> Result<Self, Bad> {
        let max = frame.try_get_u32_le()?;
        let socket = text(&mut frame)?;
        let count = frame.try_get_u16_le()?;
        let filters = (0..count).map(|_| text(&mut frame)?.parse().map_err(|_| Bad::Filter));
        let filters = filters.collect::<Result<Vec<_>, Bad>>()?;
        if !frame.is_empty() {
            return Err(Bad::Long);
        }
        Ok(Self { socket, max, filters })
    }
}

#[cfg(test)]
mod tests {
    use shunt_wire::{Envelope, Kind, Name};

    use super::*;

    fn wants(filters: usize) -> Wants {
        let filters = (0..filters).map(|number| format!("shunt/face/door-{number}").parse().unwrap());
        Wants { socket: "emotion-1.1".to_owned(), max: 1000, filters: filters.collect() }
    }

    fn frame(bytes: &Bytes) -> Bytes {
        let mut buffer = BytesMut::from(&bytes[..]);
        let frame = take(&mut buffer, usize::MAX).unwrap().unwrap();
        assert!(buffer.is_empty());
        frame
    }

    #[test]
    fn an_event_is_read_as_it_was_written() {
        for body in [None, Some(vec![0xFF; 1000]), Some(Vec::new())] {
            let mut event_ =
                Envelope::new("1", Kind::FACE, Name::from_static("door"), "2026-11-21T09:00:00Z")
                    .with_subject("Grüße");
            if let Some(body) = body {
                event_ = event_.with_body("image/jpeg", body);
            }
            let message = Message::new(&event_, false, 10_000).unwrap();
            let written = event(&message);
            assert!(written.len() <= max_event(message.size()));
            let came = read_event(frame(&written), Mono::from_nanos(7)).unwrap();
            assert_eq!(came.topic, "shunt/face/door");
            assert_eq!(came.received_at, Mono::from_nanos(7));
            let came = Envelope::from_binary(came.content_type.as_deref(), &came.attributes, came.payload);
            assert_eq!(came.unwrap(), event_);
        }
    }

    #[test]
    fn every_cut_is_refused_and_none_is_read_too_early() {
        let message = Envelope::new("1", Kind::FACE, Name::from_static("door"), "2026-11-21T09:00:00Z");
        let written = event(&Message::new(&message, false, 10_000).unwrap());
        for length in 0..written.len() {
            let mut buffer = BytesMut::from(&written[..length]);
            assert!(take(&mut buffer, usize::MAX).unwrap().is_none());
        }
        let whole = frame(&written);
        for length in 0..whole.len() {
            assert!(read_event(whole.slice(..length), Mono::from_nanos(0)).is_err(), "{length}");
        }
        let whole = frame(&wants(3).write());
        for length in 0..whole.len() {
            assert!(Wants::read(whole.slice(..length)).is_err(), "{length}");
        }
    }

    #[test]
    fn what_is_too_large_is_refused_before_it_came() {
        let mut buffer = BytesMut::from(&1001_u32.to_le_bytes()[..]);
        assert!(matches!(take(&mut buffer, 1000), Err(Bad::TooLarge { size: 1001, max: 1000 })));
    }

    #[test]
    fn wants_are_read_as_they_were_written() {
        for count in [0, 1, 100] {
            assert_eq!(Wants::read(frame(&wants(count).write())).unwrap(), wants(count));
        }
        let many = Wants::read(frame(&wants(10_000).write())).unwrap();
        assert_eq!(many.filters, ["#".parse().unwrap()]);
        let mut longer = BytesMut::from(&frame(&wants(1).write())[..]);
        longer.put_u8(0);
        assert!(matches!(Wants::read(longer.freeze()), Err(Bad::Long)));
        let bad = Bytes::from_static(b"\0\0\0\0\x01\0\xFF\0\0");
        assert!(matches!(Wants::read(bad), Err(Bad::Text)));
        let bad = Bytes::from_static(b"\0\0\0\0\0\0\x01\0\x03\0#/a");
        assert!(matches!(Wants::read(bad), Err(Bad::Filter)));
    }
}
