//! What the processes of the bench send each other.

use anyhow::Context;
use bytes::Bytes;

/// Bytes of an answer, and of what goes round a chain.
pub(super) const ANSWER: usize = 256;

/// The shortest content: the quotes and the head.
pub(super) const SHORTEST: usize = 2 + HEAD;

/// Content of this size and more is pixels, which no bus carries as JSON.
const PIXELS: usize = 500_000;

/// Kind, nanoseconds, slot, generation.
const HEAD: usize = 1 + 20 + 10 + 20;

/// What a message says, at the head of its content. The content is a JSON string, as events are JSON; the rest of it
/// is padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) kind: Kind,
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

/// Makes the content of messages; the same one again costs nothing.
#[derive(Debug, Default)]
pub(super) struct Writer {
    last: Option<(Note, usize, Bytes)>,
}

// === impl Note ===

impl Note {
    pub(super) const fn new(kind: Kind) -> Self {
        Self { kind, nanos: 0, slot: 0, generation: 0 }
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
        let (nanos, slot, generation) = (number(1, 21), number(21, 31), number(31, HEAD));
        match (nanos, slot.and_then(|slot| u32::try_from(slot).ok()), generation) {
            (Some(nanos), Some(slot), Some(generation)) => Ok(Self { kind, nanos, slot, generation }),
            _ => anyhow::bail!("a message came whose numbers cannot be read"),
        }
    }
}

// === impl Writer ===

impl Writer {
    /// The content of this note, of so many bytes.
    pub(super) fn write(&mut self, note: Note, size: usize) -> Bytes {
        if let Some((last, length, content)) = &self.last
            && (*last, *length) == (note, size)
        {
            return content.clone();
        }
        let kind = match note.kind {
            Kind::Ask => 'A',
            Kind::Answer => 'B',
            Kind::Flood => 'F',
        };
        let mut text = format!("\"{kind}{:020}{:010}{:020}", note.nanos, note.slot, note.generation);
        text.reserve_exact(size.saturating_sub(text.len()));
        text.extend(std::iter::repeat_n('x', size.saturating_sub(text.len() + 1)));
        text.push('"');
        let content = Bytes::from(text);
        self.last = Some((note, size, content.clone()));
        content
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
        let note = Note { kind: Kind::Ask, nanos: u64::MAX, slot: u32::MAX, generation: 7 };
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
    fn what_is_no_note_is_refused() {
        let long = "x".repeat(100);
        let letters = format!("\"A{long}\"");
        for content in ["", "\"A", long.as_str(), letters.as_str()] {
            assert!(Note::read(content.as_bytes()).is_err(), "{content}");
        }
    }
}
