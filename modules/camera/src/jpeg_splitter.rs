//! Finds the JPEG pictures in a stream of bytes: Motion JPEG files, and multipart streams, whose boundaries and
//! headers it passes over. Many cameras write these wrongly; the pictures themselves are sound.
//!
//! A picture's segments are walked by their lengths, so that a preview inside of it is not taken for its end
//! (ITU-T T.81, annex B).

use bytes::{Buf, Bytes, BytesMut};

/// The largest picture, in bytes. A larger one is dropped and reported; the stream goes on behind it.
pub(crate) const MAX_PICTURE: usize = 16 << 20;

/// Finds the JPEG pictures in a stream of bytes.
#[derive(Debug)]
pub(crate) struct JpegSplitter {
    /// From the beginning of the current picture on; at most [`MAX_PICTURE`] and one push.
    buffer: BytesMut,
    part: Part,
    /// Where in the buffer the search goes on; may lie behind its end, inside a segment that is still to come.
    position: usize,
    max_picture: usize,
}

/// In what part of a picture the search is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Before the start of a picture.
    Outside,
    /// At a marker.
    Segments,
    /// In compressed data.
    Scan,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A picture from its first to its last marker.
    Picture(Bytes),
    /// Something that began like a picture.
    Damaged(&'static str),
}

// === impl JpegSplitter ===

impl JpegSplitter {
    pub(crate) fn new() -> Self {
        Self { buffer: BytesMut::new(), part: Part::Outside, position: 0, max_picture: MAX_PICTURE }
    }

    /// Takes further bytes. Call [`JpegSplitter::piece`] until it has nothing more.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Is a picture begun that has not ended?
    pub(crate) fn is_inside(&self) -> bool {
        self.part != Part::Outside
    }

    /// The next picture that is complete.
    pub(crate) fn piece(&mut self) -> Option<Piece> {
        loop {
            let step = match self.part {
                Part::Outside => self.seek(),
                Part::Segments => self.segment(),
                Part::Scan => self.scan(),
            };
            match step {
                Step::Further => {}
                Step::Found(piece) => return Some(piece),
                Step::Needs if self.buffer.len() > self.max_picture && self.is_inside() => {
                    self.leave(2);
                    return Some(Piece::Damaged("a picture has more than 16 MiB"));
                }
                Step::Needs => return None,
            }
        }
    }

    fn seek(&mut self) -> Step {
        let Some(start) = self.buffer.windows(2).position(|pair| pair == [0xff, 0xd8]) else {
            // The last byte may be the first half of the mark.
            self.buffer.advance(self.buffer.len().saturating_sub(1));
            return Step::Needs;
        };
        self.buffer.advance(start);
        (self.part, self.position) = (Part::Segments, 2);
        Step::Further
    }

    fn segment(&mut self) -> Step {
        let rest = self.buffer.get(self.position..).unwrap_or_default();
        match *rest {
            [0xff, 0xff, ..] => self.position += 1,
            [0xff, 0xd8, ..] => return self.begins_inside(),
            [0xff, 0xd9, ..] => return self.complete(self.position + 2),
            [0xff, 0x01 | 0xd0..=0xd7, ..] => self.position += 2,
            [0xff, marker, high, low, ..] => {
                let length = usize::from(u16::from_be_bytes([high, low]));
                if length < 2 {
                    self.leave(2);
                    return Step::Found(Piece::Damaged("a picture has a segment of no length"));
                }
                self.position += 2 + length;
                if marker == 0xda {
                    self.part = Part::Scan;
                }
            }
            [0xff, ..] | [] => return Step::Needs,
            _ => {
                self.leave(2);
                return Step::Found(Piece::Damaged("a picture has no marker where one must be"));
            }
        }
        Step::Further
    }

    fn scan(&mut self) -> Step {
        let rest = self.buffer.get(self.position..).unwrap_or_default();
        let Some(marker) = rest.iter().position(|&byte| byte == 0xff) else {
            self.position = self.position.max(self.buffer.len());
            return Step::Needs;
        };
        self.position += marker;
        match self.buffer.get(self.position + 1) {
            None => return Step::Needs,
            // A value of the data, or a restart mark.
            Some(0x00 | 0xd0..=0xd7) => self.position += 2,
            Some(0xff) => self.position += 1,
            Some(0xd8) => return self.begins_inside(),
            // The end, or tables before a further scan.
            Some(_) => self.part = Part::Segments,
        }
        Step::Further
    }

    /// A picture begins where the one before has not ended.
    fn begins_inside(&mut self) -> Step {
        self.leave(self.position);
        Step::Found(Piece::Damaged("a picture is cut off"))
    }

    fn complete(&mut self, end: usize) -> Step {
        let picture = self.buffer.split_to(end).freeze();
        self.leave(0);
        Step::Found(Piece::Picture(picture))
    }

    /// Drops that many bytes and seeks the next picture behind them.
    fn leave(&mut self, bytes: usize) {
        self.buffer.advance(bytes.min(self.buffer.len()));
        (self.part, self.position) = (Part::Outside, 0);
    }
}

/// How the search goes on.
enum Step {
    Further,
    Found(Piece),
    /// More bytes must come.
    Needs,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not a real picture, but with all marks: a preview in a segment, a scan with stuffed and restart marks,
    /// tables and a second scan.
    fn picture(number: u8) -> Vec<u8> {
        let mut bytes = vec![0xff, 0xd8];
        bytes.extend([0xff, 0xe1, 0, 8, 0xff, 0xd8, 1, 2, 0xff, 0xd9]);
        bytes.extend([0xff, 0xff, 0xdb, 0, 3, number]);
        bytes.extend([0xff, 0xda, 0, 4, 0xff, 0xd9, 7, 0xff, 0x00, 9, 0xff, 0xd3, number]);
        bytes.extend([0xff, 0xc4, 0, 4, 1, 2, 0xff, 0xda, 0, 2, 5, 5, 5, 0xff, 0xd9]);
        bytes
    }

    fn pieces(stream: &[u8], chunk: usize) -> Vec<Piece> {
        let mut splitter = JpegSplitter::new();
        let mut pieces = Vec::new();
        for bytes in stream.chunks(chunk) {
            splitter.push(bytes);
            while let Some(piece) = splitter.piece() {
                pieces.push(piece);
            }
        }
        pieces
    }

    #[test]
    fn pictures_are_found_whatever_the_bytes_come_in() {
        let mut stream = b"--boundary\r\nContent-Type: image/jpeg\r\n\r\n".to_vec();
        for number in 0..3 {
            stream.extend(picture(number));
            stream.extend(b"\r\n--boundary\r\nContent-Length: 99999\r\n\r\n");
        }
        for chunk in 1..stream.len() {
            let expected: Vec<_> = (0..3).map(|number| Piece::Picture(picture(number).into())).collect();
            assert_eq!(pieces(&stream, chunk), expected, "in pieces of {chunk}");
        }
    }

    #[test]
    fn a_picture_cut_off_is_reported_and_the_next_one_found() {
        for cut in 3..picture(1).len() {
            let mut stream = picture(1);
            stream.truncate(cut);
            // Enough to be sure that a segment's length, cut off too, does not reach over all that follows.
            for _ in 0..2000 {
                stream.extend(picture(2));
            }
            let found = pieces(&stream, 1000);
            assert_eq!(found.last(), Some(&Piece::Picture(picture(2).into())), "cut at {cut}");
        }
        let mut stream = picture(1);
        stream.truncate(30);
        stream.extend(picture(2));
        let expected = [Piece::Damaged("a picture is cut off"), Piece::Picture(picture(2).into())];
        assert_eq!(pieces(&stream, 1000), expected);
    }

    #[test]
    fn noise_is_passed_over_without_being_kept() {
        let mut splitter = JpegSplitter::new();
        for _ in 0..1000 {
            splitter.push(&[0xff; 1000]);
            assert_eq!(splitter.piece(), None);
            assert!(splitter.buffer.len() < 2);
        }
        splitter.push(&picture(4));
        assert_eq!(splitter.piece(), Some(Piece::Picture(picture(4).into())));
    }

    #[test]
    fn a_picture_without_end_is_dropped_at_the_limit() {
        let mut splitter = JpegSplitter::new();
        splitter.max_picture = 5000;
        splitter.push(&[0xff, 0xd8, 0xff, 0xda, 0, 2]);
        let mut damaged = 0;
        for _ in 0..100 {
            splitter.push(&[1; 1000]);
            while let Some(piece) = splitter.piece() {
                assert_eq!(piece, Piece::Damaged("a picture has more than 16 MiB"));
                damaged += 1;
            }
            assert!(splitter.buffer.len() <= 6000);
        }
        assert_eq!(damaged, 1);
        splitter.push(&picture(4));
        assert_eq!(splitter.piece(), Some(Piece::Picture(picture(4).into())));
    }
}
