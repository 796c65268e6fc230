//! Compiled code on disk: `compiled/<engine>/<digest>`.
//!
//! Code that was compiled for other settings or by another version is in another folder and is removed at start. Before
//! each file stands the digest of what follows, so that a damaged one is compiled anew and never run.

use std::{
    fs::{self, File},
    hash::{Hash, Hasher},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use sha2::{Digest, Sha256};
use wasmtime::Engine;

/// Bytes of a digest.
const DIGEST: usize = 32;

/// The folder of one engine.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    /// Numbers the files that are being written.
    written: AtomicU64,
}

struct Key(Sha256);

// === impl Cache ===

impl Cache {
    /// The folder of this engine below `compiled`. What other engines left there is removed.
    pub(super) fn open(compiled: &Path, engine: &Engine) -> Self {
        let key = engine_key(engine);
        let folder = compiled.join(&key);
        if let Err(error) = fs::create_dir_all(&folder) {
            tracing::warn!(%error, folder = %folder.display(), "Compiled functions cannot be kept.");
        }
        for entry in fs::read_dir(compiled).into_iter().flatten().flatten() {
            if entry.file_name() != *key
                && let Err(error) = fs::remove_dir_all(entry.path())
            {
                tracing::warn!(%error, path = %entry.path().display(), "Old compiled code cannot be removed.");
            }
        }
        let cache = Self { folder, written: AtomicU64::new(0) };
        cache.remove_unfinished();
        cache
    }

    /// The code that was compiled of the bytes with this digest, whole as it was written.
    pub(super) fn get(&self, digest: &str) -> Option<Vec<u8>> {
        let path = self.path(digest)?;
        let mut bytes = fs::read(&path).ok()?;
        let whole =
            bytes.split_at_checked(DIGEST).is_some_and(|(sum, code)| Sha256::digest(code).as_slice() == sum);
        if whole {
            bytes.drain(..DIGEST);
            return Some(bytes);
        }
        tracing::warn!(path = %path.display(), "Compiled code is damaged; it is compiled anew.");
        None
    }

    /// Keeps the code, all of it or nothing. That it cannot be kept costs time at the next start, and nothing else.
    pub(super) fn put(&self, digest: &str, code: &[u8]) {
        let Some(path) = self.path(digest) else { return };
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.folder.join(format!("{digest}.{}.{number}.new", std::process::id()));
        if let Err(error) = write(&unfinished, code).and_then(|()| fs::rename(&unfinished, &path)) {
            tracing::warn!(%error, path = %path.display(), "Compiled code cannot be kept; it is compiled at each start.");
            fs::remove_file(&unfinished).ok();
        }
    }

    /// Forgets the code of these bytes.
    pub(super) fn remove(&self, digest: &str) {
        if let Some(path) = self.path(digest) {
            fs::remove_file(path).ok();
        }
    }

    /// Forgets the code of all other bytes.
    pub(super) fn keep_only(&self, named: &dyn Fn(&str) -> bool) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if let Some(digest) = name.to_str().filter(|digest| self.path(digest).is_some() && !named(digest))
            {
                self.remove(digest);
            }
        }
    }

    /// Digests are hexadecimal: nothing else becomes a path.
    fn path(&self, digest: &str) -> Option<PathBuf> {
        let hexadecimal = digest.len() == 2 * DIGEST && digest.bytes().all(|sign| sign.is_ascii_hexdigit());
        hexadecimal.then(|| self.folder.join(digest))
    }

    fn remove_unfinished(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "new") {
                fs::remove_file(entry.path()).ok();
            }
        }
    }
}

fn write(path: &Path, code: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&Sha256::digest(code))?;
    file.write_all(code)?;
    file.sync_all()
}

/// Settings and version of an engine in a name: code of one runs in another of the same name only.
pub(super) fn engine_key(engine: &Engine) -> String {
    let mut key = Key(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut key);
    key.0.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

// === impl Key ===

impl Hasher for Key {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}
