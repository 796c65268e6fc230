//! The one writer of a ring.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use memmap2::{MmapOptions, MmapRaw};
use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
};
use shunt_wire::{
    Name,
    events::{FrameRef, PixelFormat},
};

use crate::{
    FrameError, frame_len,
    layout::Measures,
    reader::read_measures,
    ring_path,
    slot::{FrameHeader, Slot},
};

/// The owner writes; the same user in another container reads, and so does the group, for containers that run
/// as different users of one group. Nobody else sees the pixels.
const MODE: u32 = 0o640;

/// The one writer of a ring. Never waits for a reader. A second writer on the same ring is refused while the
/// first lives; a killed writer's ring is taken over.
#[derive(Debug)]
pub struct FrameWriter {
    ring: Name,
    path: PathBuf,
    measures: Measures,
    file: File,
    map: MmapRaw,
    next_slot: u32,
    /// Of the next frame. One number for the whole ring, so that a later frame has a higher one. It begins at
    /// the time of day in microseconds: generations of a ring and of the one that replaces it never meet, and
    /// stay below 2^53, the largest whole number that every JSON reader keeps.
    next_generation: u64,
    _lock: Lock,
}

/// The lock that keeps other writers away; the kernel opens it when this process ends, however it does.
#[derive(Debug)]
struct Lock(File);

// === impl FrameWriter ===

impl FrameWriter {
    /// Makes the ring `<folder>/<ring>.frames` with this many slots for frames of up to `max_frame` bytes, and
    /// the folder where it is missing. The ring of a writer that ended is taken over if its measures are the
    /// same, and replaced otherwise; its readers notice and open the new one.
    pub fn create(folder: &Path, ring: &Name, slots: u32, max_frame: usize) -> Result<Self, FrameError> {
        let measures = Measures::new(slots, max_frame).ok_or(FrameError::Measures { slots, max_frame })?;
        let path = ring_path(folder, ring);
        std::fs::create_dir_all(folder).map_err(FrameError::file(folder))?;
        let lock = lock(folder, ring, &path)?;
        let (file, map) = match take_over(&path, measures) {
            Some(ring) => ring,
            None => make(&path, measures).map_err(FrameError::file(&path))?,
        };
        let mut writer = Self {
            ring: ring.clone(),
            path,
            measures,
            file,
            map,
            next_slot: 0,
            next_generation: micros_now(),
            _lock: lock,
        };
        writer.continue_after_predecessor();
        Ok(writer)
    }

    /// Writes a frame over the oldest one; `fill` gets exactly `width * height * bytes_per_pixel` bytes to fill,
    /// which hold an older frame's pixels before.
    ///
    /// Where somebody has deleted the ring or cut it short, a new one is made first.
    pub fn write(
        &mut self,
        width: u32,
        height: u32,
        format: PixelFormat,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<FrameRef, FrameError> {
        let (size, max) = (frame_len(width, height, format), self.measures.max_frame());
        if size > max {
            return Err(FrameError::TooLarge { size, max });
        }
        if !self.is_whole() {
            tracing::warn!(path = %self.path.display(), "The frame ring was deleted or cut short: a new one is made.");
            (self.file, self.map) = make(&self.path, self.measures).map_err(FrameError::file(&self.path))?;
            self.next_slot = 0;
        }
        let (slot, generation) = (self.next_slot, self.next_generation);
        self.next_slot = (slot + 1) % self.measures.slots();
        self.next_generation += 1;
        let mut target = Slot::new(&self.map, self.measures, slot).ok_or(FrameError::NotARing {
            path: self.path.clone(),
            reason: "its mapping is shorter than its measures",
        })?;
        target.write(FrameHeader { generation, width, height, format }, fill);
        Ok(FrameRef { ring: self.ring.clone(), slot, generation })
    }

    /// Has the file still its name and its length? Touching pages behind its end would kill the process.
    fn is_whole(&self) -> bool {
        self.file
            .metadata()
            .is_ok_and(|file| file.nlink() > 0 && file.len() == self.measures.file_len() as u64)
    }

    /// Goes on behind the newest frame of the writer before us.
    fn continue_after_predecessor(&mut self) {
        for number in 0..self.measures.slots() {
            let Some(slot) = Slot::new(&self.map, self.measures, number) else { continue };
            let generation = slot.generation();
            if generation >= self.next_generation {
                // The clock was set back since. A damaged number at the end of the range starts anew.
                self.next_generation = generation.checked_add(1).unwrap_or_else(micros_now);
                self.next_slot = (number + 1) % self.measures.slots();
            }
        }
    }
}

// === impl Lock ===

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file alone is not enough while a process that is being started holds a copy of it.
        if let Err(error) = rustix::fs::flock(&self.0, FlockOperation::Unlock) {
            tracing::debug!(%error, "The lock of a frame ring was not opened before it was closed.");
        }
    }
}

/// Takes the writers' lock of the ring. It is a file of its own, which keeps its name when the ring is replaced.
fn lock(folder: &Path, ring: &Name, ring_path: &Path) -> Result<Lock, FrameError> {
    let path = folder.join(format!("{ring}.lock"));
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(MODE))
        .map_err(|errno| FrameError::File { path: path.clone(), source: errno.into() })?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock(file.into())),
        Err(Errno::WOULDBLOCK) => Err(FrameError::Busy { path: ring_path.to_owned() }),
        Err(errno) => Err(FrameError::File { path, source: errno.into() }),
    }
}

/// Opens the ring that a former writer left; nothing if there is none, or none of these measures.
fn take_over(path: &Path, measures: Measures) -> Option<(File, MmapRaw)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(OFlags::NOFOLLOW.bits() as i32);
    let file = options.open(path).ok()?;
    match read_measures(&file, path) {
        Ok(found) if found == measures => {}
        Ok(_) => {
            tracing::info!(path = %path.display(), "The frame ring has other measures and is replaced.");
            return None;
        }
        Err(error) => {
            tracing::warn!(%error, "A file in the place of the frame ring is replaced.");
            return None;
        }
    }
    let map = MmapOptions::new().len(measures.file_len()).populate().map_raw(&file).ok()?;
    Some((file, map))
}

/// Makes a new ring beside the old one and gives it the ring's name when it is whole.
fn make(path: &Path, measures: Measures) -> io::Result<(File, MmapRaw)> {
    let draft = path.with_extension("frames.new");
    // Left by a writer that was killed here; the lock is ours, so nobody else uses it.
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let made = make_draft(&draft, measures).and_then(|ring| {
        std::fs::rename(&draft, path)?;
        Ok(ring)
    });
    if made.is_err() {
        // Of no use, and it may hold the last free memory.
        drop(std::fs::remove_file(&draft));
    }
    made
}

fn make_draft(draft: &Path, measures: Measures) -> io::Result<(File, MmapRaw)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(MODE);
    let mut file = options.open(draft)?;
    // Whatever the process's mask was.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(MODE))?;
    file.write_all(&measures.header())?;
    // Zeros are written, not skipped, so that every page has its memory now: where there is none, this is an
    // error, while a first touch of the mapping would kill the process.
    let zeros = vec![0; 1 << 16];
    let mut left = measures.file_len() - measures.header().len();
    while left > 0 {
        let (part, _) = zeros.split_at(left.min(zeros.len()));
        file.write_all(part)?;
        left -= part.len();
    }
    let map = MmapOptions::new().len(measures.file_len()).populate().map_raw(&file)?;
    Ok((file, map))
}

fn micros_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_micros() as u64)
}
