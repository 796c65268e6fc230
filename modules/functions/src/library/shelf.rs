//! What is installed, on disk: the files by their digest, and the list that names them.
//!
//! Each is written beside, brought to the disk, and put in place by a rename, so that whoever is killed at any moment
//! leaves the old or the new.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{grants::Grants, host::Kind, name::FunctionName, settings::Asked};

/// The largest list that is read: more than any that is written.
const LIST_LIMIT: u64 = 16 * 1024 * 1024;

/// What is known of an installed function, besides its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) name: FunctionName,
    /// Hex sha256 of the file.
    pub(crate) digest: String,
    pub(crate) kind: Kind,
    /// The name of the file as it came.
    pub(crate) file: String,
    /// Bytes of the file.
    pub(crate) size: u64,
    /// What the install request granted.
    pub(crate) grants: Grants,
    /// The limits that the install request asked for.
    #[serde(default)]
    pub(crate) asked: Asked,
    pub(crate) source: Source,
    /// RFC 3339 in UTC.
    pub(crate) installed_at: String,
}

/// Who installed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Source {
    /// A request over HTTP.
    Http,
    /// The module twin.
    Twin,
    /// It is always there.
    BuiltIn,
}

/// The functions by name.
pub(crate) type Records = BTreeMap<FunctionName, Record>;

#[derive(Serialize, Deserialize)]
struct List {
    functions: Vec<Record>,
}

/// The folder `<data folder>/functions`.
#[derive(Debug, Clone)]
pub(crate) struct Shelf {
    folder: PathBuf,
}

/// Hex sha256.
pub(crate) fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

// === impl Source ===

impl Source {
    /// As the listing tells it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Twin => "twin",
            Self::BuiltIn => "built-in",
        }
    }
}

// === impl Shelf ===

impl Shelf {
    /// Opens the folder, and makes it where it is not there.
    pub(crate) fn open(data_dir: &Path) -> io::Result<Self> {
        let shelf = Self { folder: data_dir.join("functions") };
        fs::create_dir_all(shelf.contents())?;
        Ok(shelf)
    }

    /// Where the host keeps compiled code.
    pub(crate) fn compiled(&self) -> PathBuf {
        self.folder.join("compiled")
    }

    /// Where state is kept.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.join("state.redb")
    }

    /// What is installed. Files that nothing names are removed: an install was cut off. A list that cannot be read is
    /// moved aside and nothing is removed, so that a person can put it right.
    pub(crate) fn load(&self) -> Records {
        match self.read_list() {
            Ok(records) => {
                self.sweep(&records);
                records
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.sweep(&Records::new());
                Records::new()
            }
            Err(error) => {
                let aside = self.list().with_extension("json.bad");
                let moved = fs::rename(self.list(), &aside).is_ok();
                tracing::error!(
                    file = %self.list().display(), %error, moved,
                    "The list of installed functions is not readable; there are none now."
                );
                Records::new()
            }
        }
    }

    /// The file of a function, if it is still what was installed.
    pub(crate) fn read(&self, digest: &str) -> io::Result<Bytes> {
        let bytes = fs::read(self.content(digest))?;
        if self::digest(&bytes) != digest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file on disk is damaged"));
        }
        Ok(bytes.into())
    }

    /// Keeps a file; when this returns, it survives a loss of power.
    pub(crate) fn keep(&self, digest: &str, bytes: &[u8]) -> io::Result<()> {
        let file = self.content(digest);
        // One that is there may be damaged: then it is the time to put it right.
        if fs::read(&file).is_ok_and(|there| there == bytes) {
            return Ok(());
        }
        write_whole(&file, bytes)
    }

    /// From now on these are installed; when this returns, that survives a loss of power.
    pub(crate) fn save(&self, records: &Records) -> io::Result<()> {
        let list = List { functions: records.values().cloned().collect() };
        write_whole(&self.list(), &serde_json::to_vec_pretty(&list)?)
    }

    /// Removes the files that nothing names any more; their names.
    pub(crate) fn sweep(&self, records: &Records) -> Vec<String> {
        let named: BTreeSet<_> = records.values().map(|record| record.digest.as_str()).collect();
        let files = fs::read_dir(self.contents()).into_iter().flatten().flatten();
        let mut removed = Vec::new();
        for file in files.filter(|file| !file.file_name().to_str().is_some_and(|name| named.contains(name))) {
            if let Err(error) = fs::remove_file(file.path()) {
                tracing::warn!(file = %file.path().display(), %error, "A file that is not used cannot be removed.");
            } else {
                removed.extend(file.file_name().into_string());
            }
        }
        removed
    }

    fn read_list(&self) -> io::Result<Records> {
        if fs::metadata(self.list())?.len() > LIST_LIMIT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too large"));
        }
        let list: List = serde_json::from_slice(&fs::read(self.list())?)?;
        Ok(list.functions.into_iter().map(|record| (record.name.clone(), record)).collect())
    }

    fn list(&self) -> PathBuf {
        self.folder.join("installed.json")
    }

    fn contents(&self) -> PathBuf {
        self.folder.join("content")
    }

    fn content(&self, digest: &str) -> PathBuf {
        self.contents().join(digest)
    }
}

/// Writes a file whole or not at all, also through a loss of power.
fn write_whole(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = file.with_extension("new");
    let written = (|| {
        let mut opened = File::create(&new)?;
        opened.write_all(bytes)?;
        opened.sync_all()?;
        fs::rename(&new, file)
    })();
    if written.is_err() {
        // A disk that is full must not stay so.
        fs::remove_file(&new).ok();
    }
    written?;
    File::open(file.parent().unwrap_or(Path::new(".")))?.sync_all()
}
