//! JPEG pictures one after another in a file. It has no times: the setting `fps` is its rhythm.

use std::{
    collections::VecDeque,
    fs::File,
    io::{Read, Seek},
    path::Path,
};

use bytes::Bytes;

use super::{Source, SourceError, open_file};
use crate::{
    control::{Control, Pace},
    jpeg_splitter::{JpegSplitter, Piece},
    shot::{Content, Shot},
};

/// Bytes read at once.
const CHUNK: usize = 256 << 10;

/// A Motion JPEG file.
#[derive(Debug)]
pub(super) struct MjpegFile {
    file: File,
    splitter: JpegSplitter,
    /// Read and not yet shown: the pictures of one chunk at most.
    ready: VecDeque<Bytes>,
    chunk: Vec<u8>,
    /// Was there a picture since the beginning of the file?
    any: bool,
    pace: Pace,
}

// === impl MjpegFile ===

impl MjpegFile {
    pub(super) fn open(path: &Path) -> Result<Self, SourceError> {
        let (file, _) = open_file(path)?;
        Ok(Self {
            file,
            splitter: JpegSplitter::new(),
            ready: VecDeque::new(),
            chunk: vec![0; CHUNK],
            any: false,
            pace: Pace::default(),
        })
    }
}

impl Source for MjpegFile {
    fn next(&mut self, control: &Control) -> Result<Option<Shot>, SourceError> {
        while self.ready.is_empty() {
            if control.stop.is_cancelled() {
                return Err(SourceError::Stopped);
            }
            let count = self.file.read(&mut self.chunk)?;
            if count == 0 {
                if self.splitter.is_inside() {
                    control.state.damaged(&"the last picture of the file is cut off");
                }
                if !self.any {
                    return Err(SourceError::NoJpeg);
                }
                if !control.settings().r#loop {
                    return Ok(None);
                }
                self.file.rewind()?;
                (self.splitter, self.any) = (JpegSplitter::new(), false);
            }
            self.splitter.push(self.chunk.get(..count).unwrap_or_default());
            while let Some(piece) = self.splitter.piece() {
                match piece {
                    Piece::Picture(jpeg) => self.ready.push_back(jpeg),
                    Piece::Damaged(reason) => control.state.damaged(&reason),
                }
            }
            self.any |= !self.ready.is_empty();
        }
        self.pace.wait(control)?;
        Ok(self.ready.pop_front().map(|jpeg| Shot::now(Content::Jpeg(jpeg))))
    }

    fn keeps_pace(&self) -> bool {
        true
    }
}
