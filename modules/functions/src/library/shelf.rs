//! What is installed, on disk: the files by their digest, and the list that names them.
//!
//! Each is written beside, brought to the disk, and put in place by a rename, so that whoever is killed at any moment
//! leaves the old or the new.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    grants::Grants,
    host::Kind,
    name::FunctionName,
    settings::{Asked, is_digest},
};

/// The largest list that is read, and that is written.
const LIST_LIMIT: u64 = 16 * 1024 * 1024;
/// How the names of damaged lists begin.
const ASIDE: &str = "installed.json.bad";

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
    /// Each a [`Record`], or what another version or a damage made of one.
    functions: Vec<Value>,
}

/// The folder `<data folder>/functions`; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Shelf {
    folder: PathBuf,
    /// Entries of the list that could not be read: they stay in it word for word, and so do their files.
    unreadable: Arc<Mutex<Vec<Value>>>,
}

/// What a list on disk says.
#[derive(Debug, Default)]
struct Read {
    records: Records,
    unreadable: Vec<Value>,
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
        let shelf = Self { folder: data_dir.join("functions"), unreadable: Arc::default() };
        fs::create_dir_all(shelf.contents())?;
        Ok(shelf)
    }

    /// Where the host keeps compiled code.
    pub(crate) fn compiled(&self) -> PathBuf {
        self.folder.join("compiled")
    }

    /// What is installed. Files that nothing names are removed: an install was cut off. A list that is damaged is moved
    /// aside, and as long as it lies there no file is removed, so that a person can put it right.
    ///
    /// # Errors
    /// Where the disk does not give the list: the next install would overwrite it.
    pub(crate) fn load(&self) -> io::Result<Records> {
        let read = match self.read_list() {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Read::default(),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let aside = self.free_name_aside();
                fs::rename(self.list(), &aside)?;
                tracing::error!(
                    file = %aside.display(), %error,
                    "The list of installed functions is damaged and was moved aside; there are none now. No file is removed before a person has moved it away."
                );
                return Ok(Records::new());
            }
            Err(error) => return Err(error),
        };
        for entry in &read.unreadable {
            let name = entry.get("name").and_then(Value::as_str).unwrap_or_default();
            tracing::error!(name, "An installed function's entry cannot be read; it is kept and not called.");
        }
        *self.unreadable.lock() = read.unreadable;
        self.sweep(&read.records);
        Ok(read.records)
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
        // Whoever installs a function of that name anew, decides.
        let replaced = |entry: &Value| {
            let name = entry.get("name").and_then(Value::as_str).and_then(|name| name.parse().ok());
            name.is_some_and(|name: FunctionName| records.contains_key(&name))
        };
        let kept: Vec<_> = self.unreadable.lock().iter().filter(|entry| !replaced(entry)).cloned().collect();
        let mut functions = kept.clone();
        for record in records.values() {
            functions.push(serde_json::to_value(record)?);
        }
        let list = serde_json::to_vec_pretty(&List { functions })?;
        if list.len() as u64 > LIST_LIMIT {
            let problem = format!("the list of functions would have more than {LIST_LIMIT} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        write_whole(&self.list(), &list)?;
        *self.unreadable.lock() = kept;
        Ok(())
    }

    /// Removes the files that nothing names any more; their names.
    pub(crate) fn sweep(&self, records: &Records) -> Vec<String> {
        let Some(named) = self.named(records) else { return Vec::new() };
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

    /// The digests of the files that are in use; nothing where a damaged list was moved aside, which may name any.
    pub(crate) fn named(&self, records: &Records) -> Option<BTreeSet<String>> {
        let aside =
            |file: &fs::DirEntry| file.file_name().to_str().is_some_and(|name| name.starts_with(ASIDE));
        if fs::read_dir(&self.folder).into_iter().flatten().flatten().any(|file| aside(&file)) {
            return None;
        }
        let mut named: BTreeSet<_> = records.values().map(|record| record.digest.clone()).collect();
        let unreadable = self.unreadable.lock();
        named.extend(unreadable.iter().filter_map(|entry| Some(entry.get("digest")?.as_str()?.to_owned())));
        Some(named)
    }

    fn read_list(&self) -> io::Result<Read> {
        let damaged = |problem: String| io::Error::new(io::ErrorKind::InvalidData, problem);
        if fs::metadata(self.list())?.len() > LIST_LIMIT {
            return Err(damaged("it is too large".to_owned()));
        }
        let list: List =
            serde_json::from_slice(&fs::read(self.list())?).map_err(|error| damaged(error.to_string()))?;
        let mut read = Read::default();
        for entry in list.functions {
            match Record::deserialize(&entry) {
                Ok(record) if is_digest(&record.digest) => {
                    read.records.insert(record.name.clone(), record);
                }
                Ok(_) | Err(_) => read.unreadable.push(entry),
            }
        }
        Ok(read)
    }

    /// Where a damaged list goes; one that lies there already stays.
    fn free_name_aside(&self) -> PathBuf {
        let mut aside = self.folder.join(ASIDE);
        let mut number = 1_u32;
        while aside.exists() {
            number += 1;
            aside = self.folder.join(format!("{ASIDE}.{number}"));
        }
        aside
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

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, bytes: &[u8]) -> Record {
        Record {
            name: name.parse().unwrap(),
            digest: digest(bytes),
            kind: Kind::Function,
            file: format!("{name}.wasm"),
            size: bytes.len() as u64,
            grants: Grants::default(),
            asked: Asked::default(),
            source: Source::Http,
            installed_at: "2026-01-01T00:00:00Z".to_owned(),
        }
    }

    /// A folder with these functions, each with its file.
    fn shelf_of(folder: &Path, names: &[&str]) -> (Shelf, Records) {
        let shelf = Shelf::open(folder).unwrap();
        let mut records = Records::new();
        for name in names {
            let record = record(name, name.as_bytes());
            shelf.keep(&record.digest, name.as_bytes()).unwrap();
            records.insert(record.name.clone(), record);
        }
        shelf.save(&records).unwrap();
        (shelf, records)
    }

    #[test]
    fn an_entry_that_cannot_be_read_stays_with_its_file_through_installs_and_starts() {
        let folder = tempfile::tempdir().unwrap();
        let (shelf, _) = shelf_of(folder.path(), &["one", "two"]);
        let mut list: Value = serde_json::from_slice(&fs::read(shelf.list()).unwrap()).unwrap();
        list["functions"][0]["kind"] = "of-tomorrow".into();
        let kept = list["functions"][0].clone();
        fs::write(shelf.list(), list.to_string()).unwrap();
        for _ in 0..2 {
            let shelf = Shelf::open(folder.path()).unwrap();
            let mut records = shelf.load().unwrap();
            assert!(!records.contains_key(&"one".parse::<FunctionName>().unwrap()));
            let three = record("three", b"three");
            shelf.keep(&three.digest, b"three").unwrap();
            records.insert(three.name.clone(), three);
            shelf.save(&records).unwrap();
            shelf.sweep(&records);
            let list: Value = serde_json::from_slice(&fs::read(shelf.list()).unwrap()).unwrap();
            assert_eq!((&list["functions"][0], list["functions"].as_array().unwrap().len()), (&kept, 3));
            assert_eq!(shelf.read(&digest(b"one")).unwrap(), "one");
        }
        // Whoever installs it anew puts it right.
        let mut records = shelf.load().unwrap();
        let one = record("one", b"new");
        shelf.keep(&one.digest, b"new").unwrap();
        records.insert(one.name.clone(), one);
        shelf.save(&records).unwrap();
        assert_eq!(shelf.sweep(&records), [digest(b"one")]);
        assert_eq!(Shelf::open(folder.path()).unwrap().load().unwrap(), records);
    }

    #[test]
    fn no_file_is_removed_while_a_damaged_list_lies_aside() {
        let folder = tempfile::tempdir().unwrap();
        let (shelf, _) = shelf_of(folder.path(), &["one"]);
        for round in 0..3 {
            fs::write(shelf.list(), b"{").unwrap();
            let shelf = Shelf::open(folder.path()).unwrap();
            assert!(shelf.load().unwrap().is_empty(), "{round}");
            // The next start finds no list, and the next install writes one.
            assert!(shelf.load().unwrap().is_empty(), "{round}");
            shelf.save(&Records::new()).unwrap();
            assert!(shelf.sweep(&Records::new()).is_empty());
            assert_eq!(shelf.read(&digest(b"one")).unwrap(), "one");
            // So the host keeps what it compiled, too.
            assert_eq!(shelf.named(&Records::new()), None);
        }
        for aside in ["installed.json.bad", "installed.json.bad.2", "installed.json.bad.3"] {
            fs::remove_file(shelf.folder.join(aside)).unwrap();
        }
        shelf.load().unwrap();
        assert!(shelf.read(&digest(b"one")).is_err());
        assert_eq!(shelf.named(&Records::new()), Some(BTreeSet::new()));
    }

    #[test]
    fn a_digest_that_is_none_leads_to_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let (shelf, _) = shelf_of(folder.path(), &["one"]);
        let mut list: Value = serde_json::from_slice(&fs::read(shelf.list()).unwrap()).unwrap();
        list["functions"][0]["digest"] = "../installed.json".into();
        fs::write(shelf.list(), list.to_string()).unwrap();
        assert!(shelf.load().unwrap().is_empty());
    }

    #[test]
    fn a_list_that_the_disk_does_not_give_is_left_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let (shelf, _) = shelf_of(folder.path(), &["one"]);
        fs::remove_file(shelf.list()).unwrap();
        // A folder cannot be read as a file.
        fs::create_dir(shelf.list()).unwrap();
        assert!(shelf.load().is_err());
        assert!(shelf.list().exists() && shelf.read(&digest(b"one")).is_ok());
    }

    #[test]
    fn a_list_that_could_not_be_read_again_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let (shelf, mut records) = shelf_of(folder.path(), &["one"]);
        let before = records.clone();
        let mut large = record("large", b"large");
        large.file = "x".repeat(LIST_LIMIT as usize);
        records.insert(large.name.clone(), large);
        assert!(shelf.save(&records).is_err());
        assert_eq!(shelf.load().unwrap(), before);
    }
}
