//! The windows on disk: whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

/// The largest file that is read, in bytes.
const MOST: u64 = 1024 * 1024 * 1024;

/// The file of the windows. All of it does file work: not for the async threads. Clones are the same file.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    path: PathBuf,
    /// The number of the state that was written last. One writing at a time.
    written: Arc<Mutex<u64>>,
}

// === impl Store ===

impl Store {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { path: data_dir.join("rules").join("windows.json"), written: Arc::default() }
    }

    /// What was saved last; nothing if there is nothing.
    pub(crate) fn load(&self) -> io::Result<Option<Vec<u8>>> {
        match fs::metadata(&self.path) {
            Ok(file) if file.len() > MOST => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "it is too large"))
            }
            Ok(_) => fs::read(&self.path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Saves, whole or not at all, also through a loss of power. States are numbered from 1: an older one than that
    /// which was written last is left out.
    pub(crate) fn save(&self, number: u64, bytes: &[u8]) -> io::Result<()> {
        let mut written = self.written.lock();
        if number <= *written {
            return Ok(());
        }
        self.write(bytes)?;
        *written = number;
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let new = self.path.with_extension("json.new");
        // Groups may be named after people: for the module's user only.
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(folder)?.sync_all()
    }

    /// Moves a file that cannot be used out of the way.
    pub(crate) fn move_aside(&self) -> io::Result<PathBuf> {
        let aside = self.path.with_extension("json.bad");
        fs::rename(&self.path, &aside)?;
        Ok(aside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_state_does_not_replace_a_newer_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        store.save(2, b"two").unwrap();
        store.clone().save(1, b"one").unwrap();
        assert_eq!(store.load().unwrap().unwrap(), b"two");
        store.save(3, b"three").unwrap();
        assert_eq!(store.load().unwrap().unwrap(), b"three");
    }
}
