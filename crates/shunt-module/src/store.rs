//! The last good desired properties on disk, so that a module starts with them when the cloud is away.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What is kept of the twin.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// `$version` of the desired properties.
    pub(crate) version: u64,
    /// The desired properties that are in force.
    pub(crate) desired: Map<String, Value>,
    /// What was reported last: a key that is there and not in the next report must be deleted by name.
    #[serde(default)]
    pub(crate) reported: Map<String, Value>,
}

/// The file `<data folder>/<module>/settings.json`.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    file: PathBuf,
}

/// The largest file that is read: a twin's desired properties are 32 KiB at most.
const MAX_BYTES: u64 = 1024 * 1024;
/// For this user only: a setting may be an address with a password.
const MODE: u32 = 0o600;

// === impl Store ===

impl Store {
    pub(crate) fn new(data_dir: &Path, module: &str) -> Self {
        Self { file: data_dir.join(module).join("settings.json") }
    }

    /// What was kept; nothing if nothing is there. An unreadable file is moved aside, never a reason to stop.
    pub(crate) fn load(&self) -> Option<Kept> {
        let read = || -> io::Result<Kept> {
            if fs::metadata(&self.file)?.len() > MAX_BYTES {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too large"));
            }
            Ok(serde_json::from_slice(&fs::read(&self.file)?)?)
        };
        match read() {
            Ok(kept) => Some(kept),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                let aside = self.file.with_extension("json.bad");
                let moved = fs::rename(&self.file, &aside).is_ok();
                tracing::warn!(file = %self.file.display(), %error, moved, "The kept settings are not readable.");
                None
            }
        }
    }

    /// Keeps this, whole or not at all, also through a loss of power.
    pub(crate) fn save(&self, kept: &Kept) -> io::Result<()> {
        let folder = self.file.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let new = self.file.with_extension("json.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&new)?;
        // The mode above is not that of a file left behind.
        file.set_permissions(Permissions::from_mode(MODE))?;
        file.write_all(&serde_json::to_vec_pretty(kept)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.file)?;
        File::open(folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_kept_comes_back_and_a_broken_file_is_moved_aside() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path(), "lamp");
        assert_eq!(store.load(), None);
        let kept = Kept {
            version: 3,
            desired: serde_json::from_value(json!({"watts": 9})).unwrap(),
            reported: Map::new(),
        };
        fs::create_dir_all(folder.path().join("lamp")).unwrap();
        fs::write(store.file.with_extension("json.new"), "left behind").unwrap();
        store.save(&kept).unwrap();
        assert_eq!(fs::metadata(&store.file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(store.load(), Some(kept.clone()));
        fs::write(&store.file, "{\"version\": 3, \"desi").unwrap();
        assert_eq!(store.load(), None);
        assert!(folder.path().join("lamp/settings.json.bad").exists());
        store.save(&kept).unwrap();
        assert_eq!(store.load(), Some(kept));
    }
}
