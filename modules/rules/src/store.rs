//! The windows on disk: whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// The largest file that is read, in bytes.
const MOST: u64 = 1024 * 1024 * 1024;

/// The file of the windows. All of it does file work: not for the async threads.
#[derive(Debug, Clone)]
pub(crate) struct Store(PathBuf);

// === impl Store ===

impl Store {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self(data_dir.join("rules").join("windows.json"))
    }

    /// What was saved last; nothing if there is nothing.
    pub(crate) fn load(&self) -> io::Result<Option<Vec<u8>>> {
        match fs::metadata(&self.0) {
            Ok(file) if file.len() > MOST => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "it is too large"))
            }
            Ok(_) => fs::read(&self.0).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Saves, whole or not at all, also through a loss of power.
    pub(crate) fn save(&self, bytes: &[u8]) -> io::Result<()> {
        let folder = self.0.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let new = self.0.with_extension("json.new");
        // Groups may be named after people: for the module's user only.
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, &self.0)?;
        File::open(folder)?.sync_all()
    }

    /// Moves a file that cannot be used out of the way.
    pub(crate) fn move_aside(&self) -> io::Result<PathBuf> {
        let aside = self.0.with_extension("json.bad");
        fs::rename(&self.0, &aside)?;
        Ok(aside)
    }
}
