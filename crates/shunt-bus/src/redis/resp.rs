//! Redis's protocol, version 2 (`https://redis.io/docs/latest/develop/reference/protocol-spec/`), with bounds.

use bytes::{BufMut, Bytes, BytesMut};

/// Lists in lists: a reply of `XREADGROUP` has five floors.
const MAX_DEPTH: usize = 8;
/// The longest list: far above what we ask for.
const MAX_LIST: usize = 1 << 20;
/// The longest line: an error's text.
const MAX_LINE: usize = 64 << 10;

/// What Redis answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Nil,
    Int(i64),
    /// A short or a long string.
    Text(Bytes),
    /// An error: its code is the first word.
    Error(String),
    List(Vec<Self>),
}

/// Why what came is no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("a reply begins with the byte 0x{0:02x}")]
    Kind(u8),
    #[error("a length or number is {0:?}")]
    Number(String),
    #[error("a string has {0} bytes, more than we take")]
    Long(usize),
    #[error("a list has {0} members, more than we take")]
    Wide(usize),
    #[error("a line has no end")]
    Endless,
    #[error("a string does not end where it says")]
    End,
    #[error("lists are nested too deep")]
    Deep,
}

// === impl Reply ===

impl Reply {
    /// The bytes of a string.
    pub(super) fn text(&self) -> Option<&Bytes> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The members of a list; nothing counts as empty.
    pub(super) fn into_list(self) -> Option<Vec<Self>> {
        match self {
            Self::List(list) => Some(list),
            Self::Nil => Some(Vec::new()),
            _ => None,
        }
    }
}

/// Writes a command.
pub(super) fn write(out: &mut BytesMut, parts: &[&[u8]]) {
    let size: usize = parts.iter().map(|part| part.len() + 16).sum();
    out.reserve(size + 16);
    out.put_slice(format!("*{}\r\n", parts.len()).as_bytes());
    for part in parts {
        out.put_slice(format!("${}\r\n", part.len()).as_bytes());
        out.put_slice(part);
        out.put_slice(b"\r\n");
    }
}

/// Takes the next whole reply from what came, if there is one. `max`: the longest string.
pub(super) fn next(buffer: &mut BytesMut, max: usize) -> Result<Option<Reply>, Malformed> {
    let Some(length) = measure(buffer, 0, max, 0)? else { return Ok(None) };
    let whole = buffer.split_to(length).freeze();
    let mut at = 0;
    build(&whole, &mut at).map(Some)
}

/// Where the reply that begins at `at` ends, if it is all there.
fn measure(buffer: &[u8], at: usize, max: usize, depth: usize) -> Result<Option<usize>, Malformed> {
    let Some((kind, line, mut at)) = header(buffer, at)? else { return Ok(None) };
    match kind {
        b'+' | b'-' => Ok(Some(at)),
        b':' => number(line).map(|_| Some(at)),
        b'$' => {
            let Some(length) = length(line)? else { return Ok(Some(at)) };
            if length > max {
                return Err(Malformed::Long(length));
            }
            match buffer.get(at + length..at + length + 2) {
                Some(b"\r\n") => Ok(Some(at + length + 2)),
                Some(_) => Err(Malformed::End),
                None => Ok(None),
            }
        }
        b'*' => {
            let Some(count) = length(line)? else { return Ok(Some(at)) };
            if count > MAX_LIST {
                return Err(Malformed::Wide(count));
            }
            if depth >= MAX_DEPTH {
                return Err(Malformed::Deep);
            }
            for _ in 0..count {
                match measure(buffer, at, max, depth + 1)? {
                    Some(end) => at = end,
                    None => return Ok(None),
                }
            }
            Ok(Some(at))
        }
        other => Err(Malformed::Kind(other)),
    }
}

/// Makes the reply that begins at `at`, which was measured before.
fn build(whole: &Bytes, at: &mut usize) -> Result<Reply, Malformed> {
    let Some((kind, line, end)) = header(whole, *at)? else { return Err(Malformed::End) };
    *at = end;
    Ok(match kind {
        b'+' => Reply::Text(whole.slice_ref(line)),
        b'-' => Reply::Error(String::from_utf8_lossy(line).into_owned()),
        b':' => Reply::Int(number(line)?),
        b'$' => match length(line)? {
            None => Reply::Nil,
            Some(length) => {
                let text = whole.get(end..end + length).ok_or(Malformed::End)?;
                *at = end + length + 2;
                Reply::Text(whole.slice_ref(text))
            }
        },
        _ => match length(line)? {
            None => Reply::Nil,
            Some(count) => Reply::List((0..count).map(|_| build(whole, at)).collect::<Result<_, _>>()?),
        },
    })
}

/// The kind and the line of a reply, and where the next line begins.
type Header<'a> = (u8, &'a [u8], usize);

/// How the reply at `at` begins, if its first line is all there.
fn header(buffer: &[u8], at: usize) -> Result<Option<Header<'_>>, Malformed> {
    let rest = buffer.get(at..).unwrap_or_default();
    let Some((&kind, rest)) = rest.split_first() else { return Ok(None) };
    if !b"+-:$*".contains(&kind) {
        return Err(Malformed::Kind(kind));
    }
    let window = rest.get(..MAX_LINE.min(rest.len())).unwrap_or_default();
    let Some(length) = window.iter().position(|byte| *byte == b'\r') else {
        return if rest.len() > MAX_LINE { Err(Malformed::Endless) } else { Ok(None) };
    };
    match rest.get(length + 1) {
        Some(b'\n') => Ok(Some((kind, rest.get(..length).unwrap_or_default(), at + 1 + length + 2))),
        Some(_) => Err(Malformed::Endless),
        None => Ok(None),
    }
}

fn number(line: &[u8]) -> Result<i64, Malformed> {
    let text = String::from_utf8_lossy(line);
    text.parse().map_err(|_| Malformed::Number(text.chars().take(40).collect()))
}

/// A length; nothing for -1, which says that there is nothing.
fn length(line: &[u8]) -> Result<Option<usize>, Malformed> {
    match number(line)? {
        -1 => Ok(None),
        length => {
            let length = usize::try_from(length);
            length.map(Some).map_err(|_| Malformed::Number(String::from_utf8_lossy(line).into_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &'static str) -> Reply {
        Reply::Text(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn replies_are_read_however_they_are_cut_into_pieces() {
        let wire = b"+OK\r\n:-7\r\n$5\r\na\r\nbc\r\n$-1\r\n*-1\r\n-ERR no\r\n*2\r\n*1\r\n$0\r\n\r\n:1\r\n";
        let expected = [
            text("OK"),
            Reply::Int(-7),
            text("a\r\nbc"),
            Reply::Nil,
            Reply::Nil,
            Reply::Error("ERR no".to_owned()),
            Reply::List(vec![Reply::List(vec![text("")]), Reply::Int(1)]),
        ];
        for piece in [1, 2, 3, 7, wire.len()] {
            let (mut buffer, mut replies) = (BytesMut::new(), Vec::new());
            for piece in wire.chunks(piece) {
                buffer.extend_from_slice(piece);
                while let Some(reply) = next(&mut buffer, 100).unwrap() {
                    replies.push(reply);
                }
            }
            assert_eq!(replies, expected);
        }
    }

    #[test]
    fn what_is_no_reply_is_an_error_and_never_a_panic() {
        for wire in [
            "x\r\n",
            "$101\r\n",
            "$-2\r\n",
            "$x\r\n",
            "*99999999\r\n",
            "$1\r\nabc",
            ":1\r1",
            "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
        ] {
            let mut buffer = BytesMut::from(wire);
            assert!(next(&mut buffer, 100).is_err(), "{wire:?}");
        }
        let mut endless = BytesMut::from(&vec![b'+'; MAX_LINE + 2][..]);
        assert_eq!(next(&mut endless, 100), Err(Malformed::Endless));
        for first in 0..=255_u8 {
            for rest in [&b""[..], b"1", b"\r", b"\r\n", b"9\r\n1", b"-1\r\n", b"99999999999999999999\r\n"] {
                let mut buffer = BytesMut::from(&[&[first], rest].concat()[..]);
                drop(next(&mut buffer, 100));
            }
        }
    }

    #[test]
    fn commands_are_written_with_their_lengths() {
        let mut out = BytesMut::new();
        write(&mut out, &[b"PUBLISH", b"a", b"\r\n"]);
        assert_eq!(out, "*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n$2\r\n\r\n\r\n");
    }
}
