//! What the processes of the bench send each other.

use anyhow::Context;
use bytes::{Bytes, BytesMut};

/// Bytes of an answer, and of what goes round a chain.
pub(super) const ANSWER: usize = 256;

/// The shortest content: the quotes and the head.
pub(super) const SHORTEST: usize = 2 + HEAD;

/// Content of this size and more is pixels, which no bus carries as JSON.
const PIXELS: usize = 500_000;

/// Kind, lap, nanoseconds, slot, generation.
const HEAD: usize = 1 + 10 + 20 + 10 + 20;

/// What a message says, at the head of its content. The content is a JSON string, as events are JSON; the rest of it
/// is padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) kind: Kind,
    /// Which question it is, or is the answer to: fast events may come twice, or late.
    pub(super) lap: u32,
    /// A question about a frame: when its hand-over began. The answer: how long that took. Else 0.
    pub(super) nanos: u64,
    /// A question about a frame: where it is.
    pub(super) slot: u32,
    pub(super) generation: u64,
}

/// What is to be done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Answer it, which in a chain is to pass the answer on.
    Ask,
    /// An answer.
    Answer,
    /// Count it; answer now and then.
    Flood,
}

/// Makes the content of messages. Of the same size again, only the head is written.
#[derive(Debug, Default)]
pub(super) struct Writer {
    last: Bytes,
}

// === impl Note ===

impl Note {
    pub(super) const fn new(kind: Kind) -> Self {
        Self { kind, lap: 0, nanos: 0, slot: 0, generation: 0 }
    }

    /// Reads the head of a content.
    pub(super) fn read(content: &[u8]) -> anyhow::Result<Self> {
        let text = content.get(1..=HEAD).and_then(|head| std::str::from_utf8(head).ok());
        let text = text.context("a message came that is not of this bench")?;
        let number =
            |from: usize, to: usize| text.get(from..to).and_then(|digits| digits.parse::<u64>().ok());
        let kind = match text.as_bytes().first() {
            Some(b'A') => Kind::Ask,
            Some(b'B') => Kind::Answer,
            Some(b'F') => Kind::Flood,
            _ => anyhow::bail!("a message came whose kind is unknown"),
        };
        let short = |number: Option<u64>| number.and_then(|number| u32::try_from(number).ok());
        let (lap, nanos, slot) = (short(number(1, 11)), number(11, 31), short(number(31, 41)));
        match (lap, nanos, slot, number(41, HEAD)) {
            (Some(lap), Some(nanos), Some(slot), Some(generation)) => {
                Ok(Self { kind, lap, nanos, slot, generation })
            }
            _ => anyhow::bail!("a message came whose numbers cannot be read"),
        }
    }
}

// === impl Writer ===

impl Writer {
    /// The content of this note, of so many bytes.
    pub(super) fn write(&mut self, note: Note, size: usize) -> Bytes {
        let kind = match note.kind {
            Kind::Ask => 'A',
            Kind::Answer => 'B',
            Kind::Flood => 'F',
        };
        let Note { lap, nanos, slot, generation, .. } = note;
        let head = format!("\"{kind}{lap:010}{nanos:020}{slot:010}{generation:020}");
        // What is still on its way is not written over.
        let last = std::mem::take(&mut self.last);
        let mut content = last.try_into_mut().unwrap_or_default();
        if content.len() != size {
            content = BytesMut::zeroed(size);
            content.fill(b'x');
            if let Some(end) = content.last_mut() {
                *end = b'"';
            }
        }
        if let Some(place) = content.get_mut(..head.len()) {
            place.copy_from_slice(head.as_bytes());
        }
        self.last = content.freeze();
        self.last.clone()
    }
}

/// The content type of a content of this size.
pub(super) fn content_type(size: usize) -> &'static str {
    if size < PIXELS { "application/json" } else { "application/octet-stream" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_json_of_the_size_asked_for_and_comes_back() {
        let mut writer = Writer::default();
        let note = Note { kind: Kind::Ask, lap: u32::MAX, nanos: u64::MAX, slot: u32::MAX, generation: 7 };
        for size in [SHORTEST, ANSWER, 10_000] {
            let content = writer.write(note, size);
            assert_eq!(content.len(), size);
            assert!(serde_json::from_slice::<String>(&content).is_ok());
            assert_eq!(Note::read(&content).unwrap(), note);
        }
        for kind in [Kind::Answer, Kind::Flood] {
            assert_eq!(Note::read(&writer.write(Note::new(kind), ANSWER)).unwrap(), Note::new(kind));
        }
    }

    #[test]
    fn what_is_on_its_way_is_not_written_over() {
        let mut writer = Writer::default();
        let note = |lap| Note { lap, ..Note::new(Kind::Ask) };
        let first = writer.write(note(1), ANSWER);
        let second = writer.write(note(2), ANSWER);
        assert_eq!(Note::read(&first).unwrap(), note(1));
        let place = second.as_ptr();
        drop((first, second));
        let third = writer.write(note(3), ANSWER);
        assert_eq!((Note::read(&third).unwrap(), third.as_ptr()), (note(3), place));
    }

    #[test]
    fn what_is_no_note_is_refused() {
        let long = "x".repeat(100);
        let letters = format!("\"A{long}\"");
        for content in ["", "\"A", long.as_str(), letters.as_str()] {
            assert!(Note::read(content.as_bytes()).is_err(), "{content}");
        }
    }
}
