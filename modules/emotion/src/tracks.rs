//! Track numbers that are not given twice, not even by the next run of the module.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use shunt_vision::{FaceTracker, Rect, TrackerOptions};
use shunt_wire::Name;

/// Numbers are reserved on disk by so many, so that the file is written rarely.
const BLOCK: u64 = 1_000;

/// Most sources followed. Another one takes the place of the one that was not seen for longest.
const MAX_SOURCES: usize = 64;

/// One tracker a source.
#[derive(Debug)]
pub(crate) struct Tracks {
    /// The first number that is not reserved on disk; the next run begins there.
    file: PathBuf,
    reserved: u64,
    /// The first number that no tracker has given.
    next: u64,
    trackers: BTreeMap<Name, (FaceTracker, u64)>,
    clock: u64,
}

// === impl Tracks ===

impl Tracks {
    /// Goes on where the last run ended. A folder that cannot be used is reported; numbers begin with the seconds
    /// since 1970 then, which no earlier run has reached.
    pub(crate) fn open(folder: &Path) -> Self {
        let file = folder.join("tracks");
        let mut tracks = Self { file, reserved: 1, next: 1, trackers: BTreeMap::new(), clock: 0 };
        match tracks.last() {
            Ok(last) => {
                tracks.next = last;
                tracks.reserve();
            }
            Err(error) => tracks.without_disk(&error),
        }
        tracks
    }

    fn last(&self) -> io::Result<u64> {
        match fs::read_to_string(&self.file) {
            Ok(text) => text.trim().parse().map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(1),
            Err(error) => Err(error),
        }
    }

    /// Reserves the next block: written beside and renamed, so that the file is whole at any moment.
    fn reserve(&mut self) {
        let reserved = self.next.saturating_add(BLOCK);
        let written = self.file.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| {
            let beside = self.file.with_extension("new");
            fs::write(&beside, reserved.to_string())?;
            fs::rename(beside, &self.file)
        });
        match written {
            Ok(()) => self.reserved = reserved,
            Err(error) => self.without_disk(&error),
        }
    }

    fn without_disk(&mut self, error: &io::Error) {
        let file = self.file.display();
        tracing::warn!(%error, "Track numbers cannot be kept in {file}; they go on from the time.");
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.next = self.next.max(seconds);
        self.reserved = u64::MAX;
    }

    /// The numbers of the faces in a source's next frame, in their order.
    pub(crate) fn update(&mut self, source: &Name, faces: &[Rect]) -> Vec<u64> {
        self.clock += 1;
        if !self.trackers.contains_key(source) {
            if self.trackers.len() >= MAX_SOURCES {
                let oldest = self.trackers.iter().min_by_key(|(_, (_, seen))| *seen);
                if let Some(oldest) = oldest.map(|(source, _)| source.clone()) {
                    self.trackers.remove(&oldest);
                }
            }
            let tracker = FaceTracker::new(TrackerOptions { first: self.next, ..TrackerOptions::default() });
            self.trackers.insert(source.clone(), (tracker, self.clock));
        }
        let Some((tracker, seen)) = self.trackers.get_mut(source) else { return Vec::new() };
        *seen = self.clock;
        let numbers = tracker.update(faces);
        self.next = self.next.max(tracker.next_number());
        if self.next.saturating_add(BLOCK / 10) > self.reserved {
            self.reserve();
        }
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn face(x: f32) -> Rect {
        Rect { x, y: 0.0, width: 10.0, height: 10.0 }
    }

    #[test]
    fn the_next_run_gives_other_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let door: Name = "door".parse().unwrap();
        let mut first = Tracks::open(folder.path());
        assert_eq!(first.update(&door, &[face(0.0), face(50.0)]), [1, 2]);
        let mut second = Tracks::open(folder.path());
        assert_eq!(second.update(&door, &[face(0.0)]), [1_001]);
    }

    #[test]
    fn numbers_are_reserved_before_they_are_given() {
        let folder = tempfile::tempdir().unwrap();
        let door: Name = "door".parse().unwrap();
        let mut tracks = Tracks::open(folder.path());
        let mut last = 0;
        for round in 0..1_500_u16 {
            last = tracks.update(&door, &[face(f32::from(round) * 100.0)])[0];
            assert!(last < tracks.reserved);
        }
        assert!(Tracks::open(folder.path()).update(&door, &[face(0.0)])[0] > last);
    }

    #[test]
    fn a_folder_that_cannot_be_used_does_not_stop_the_numbers() {
        let mut tracks = Tracks::open(Path::new("/dev/null/not-a-folder"));
        let door: Name = "door".parse().unwrap();
        let first = tracks.update(&door, &[face(0.0)])[0];
        assert!(first > 1_700_000_000);
        assert_eq!(tracks.update(&door, &[face(1.0)]), [first]);
    }

    #[test]
    fn each_source_has_its_own_faces() {
        let folder = tempfile::tempdir().unwrap();
        let mut tracks = Tracks::open(folder.path());
        let (door, gate): (Name, Name) = ("door".parse().unwrap(), "gate".parse().unwrap());
        assert_eq!(tracks.update(&door, &[face(0.0)]), [1]);
        assert_eq!(tracks.update(&gate, &[face(0.0)]), [2]);
        assert_eq!(tracks.update(&door, &[face(1.0)]), [1]);
        for source in 0..100 {
            tracks.update(&format!("s-{source}").parse().unwrap(), &[face(0.0)]);
        }
        assert_eq!(tracks.trackers.len(), MAX_SOURCES);
        assert!(tracks.update(&door, &[face(0.0)])[0] > 100);
    }
}
