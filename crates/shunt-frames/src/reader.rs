//! A reader of rings.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::OFlags;
use shunt_wire::{Name, events::FrameRef};

use crate::{
    FrameError, PixelBuffer,
    layout::{HEADER_LEN, Measures},
    ring_path,
    slot::Slot,
};

/// Most rings held open. Another one closes the one that was opened first.
const MAX_RINGS: usize = 32;

/// A reader of the rings of a folder; any number, in any process, read-only.
#[derive(Debug)]
pub struct FrameReader {
    folder: PathBuf,
    rings: Vec<OpenRing>,
}

#[derive(Debug)]
struct OpenRing {
    ring: Name,
    measures: Measures,
    file: File,
    map: MmapRaw,
}

// === impl FrameReader ===

impl FrameReader {
    /// A reader for the rings of this folder; opens each ring when a reference first names it, and again when
    /// its writer has replaced it.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), rings: Vec::new() }
    }

    /// Copies the frame out into the buffer (its memory is used again). After an error the buffer's pixels are
    /// of no use.
    pub fn read(&mut self, reference: &FrameRef, buffer: &mut PixelBuffer) -> Result<(), FrameError> {
        let path = ring_path(&self.folder, &reference.ring);
        let position = self.rings.iter().position(|open| open.ring == reference.ring);
        if let Some(open) = position.and_then(|position| self.rings.get(position)) {
            match open.read(reference, buffer) {
                Err(FrameError::Gone) if open.is_replaced(&path) => {}
                result => return result,
            }
        }
        if let Some(position) = position {
            self.rings.remove(position);
        } else if self.rings.len() >= MAX_RINGS {
            self.rings.remove(0);
        }
        let open = OpenRing::open(&reference.ring, &path)?;
        let result = open.read(reference, buffer);
        self.rings.push(open);
        result
    }
}

// === impl OpenRing ===

impl OpenRing {
    fn open(ring: &Name, path: &Path) -> Result<Self, FrameError> {
        let mut options = OpenOptions::new();
        // Without NONBLOCK a pipe in the ring's place would hold the reader for ever.
        options.read(true).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32);
        let file = options.open(path).map_err(FrameError::file(path))?;
        let measures = read_measures(&file, path)?;
        let map = MmapOptions::new()
            .len(measures.file_len())
            .map_raw_read_only(&file)
            .map_err(FrameError::file(path))?;
        Ok(Self { ring: ring.clone(), measures, file, map })
    }

    fn read(&self, reference: &FrameRef, buffer: &mut PixelBuffer) -> Result<(), FrameError> {
        // Reading behind the end of a file that was cut short would kill the process.
        let whole = self.file.metadata().is_ok_and(|file| file.len() == self.measures.file_len() as u64);
        if !whole {
            return Err(FrameError::Gone);
        }
        let slot = Slot::new(&self.map, self.measures, reference.slot).ok_or(FrameError::Gone)?;
        slot.read(reference.generation, buffer)
    }

    /// Is another file under the ring's name now, or none, or is ours not whole any more?
    fn is_replaced(&self, path: &Path) -> bool {
        let (Ok(ours), Ok(named)) = (self.file.metadata(), std::fs::symlink_metadata(path)) else {
            return true;
        };
        (ours.dev(), ours.ino()) != (named.dev(), named.ino())
            || ours.len() != self.measures.file_len() as u64
    }
}

/// The measures of the ring in this file. Nothing is mapped yet: whatever the file is, it does no harm.
pub(crate) fn read_measures(file: &File, path: &Path) -> Result<Measures, FrameError> {
    let wrong = |reason| FrameError::NotARing { path: path.to_owned(), reason };
    let metadata = file.metadata().map_err(FrameError::file(path))?;
    if !metadata.is_file() {
        return Err(wrong("it is not a plain file"));
    }
    let mut header = [0; HEADER_LEN];
    match file.read_exact_at(&mut header, 0) {
        Ok(()) => Measures::parse(&header, metadata.len()).map_err(wrong),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(wrong("it is too short")),
        Err(source) => Err(FrameError::File { path: path.to_owned(), source }),
    }
}
