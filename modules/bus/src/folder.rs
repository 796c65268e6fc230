//! The private folder with the broker's configuration and key.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use tempfile::TempDir;

/// A folder that only we can look into; in a container it is in memory (`/tmp`). It goes with this value.
#[derive(Debug)]
pub(crate) struct Folder(TempDir);

/// A file that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}: {source}")]
pub(crate) struct FolderError {
    path: PathBuf,
    source: io::Error,
}

// === impl Folder ===

impl Folder {
    pub(crate) fn new() -> Result<Self, FolderError> {
        let private = fs::Permissions::from_mode(0o700);
        let made = tempfile::Builder::new().prefix("shunt-bus-").permissions(private).tempdir();
        made.map(Self).map_err(|source| FolderError { path: std::env::temp_dir(), source })
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file, whole or not at all; only we can read it.
    pub(crate) fn write(&self, name: &str, content: &str) -> Result<(), FolderError> {
        let path = self.path().join(name);
        let fresh = self.path().join(format!("{name}.new"));
        let write = || {
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            file.write_all(content.as_bytes())?;
            fs::rename(&fresh, &path)
        };
        write().map_err(|source| FolderError { path: path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_we_can_read_what_is_written() {
        let folder = Folder::new().unwrap();
        folder.write("key.pem", "one").unwrap();
        folder.write("key.pem", "two").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.path().join("key.pem")), 0o600);
        assert_eq!(mode(folder.path()), 0o700);
        assert_eq!(fs::read_to_string(folder.path().join("key.pem")).unwrap(), "two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = folder.write("no/where", "x").unwrap_err().to_string();
        assert!(error.contains("no/where: No such file"), "{error}");
    }
}
