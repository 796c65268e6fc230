//! How a function comes and goes: looked at, compiled, kept on disk, and put in place in one step.

use std::{io, sync::Arc};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    task::spawn_blocking,
};

use super::{
    Function, Library, Now, Prepared, Readiness, Record, Shelf, Slot, Source, Statistics, digest, now,
    shelf::Records,
};
use crate::{
    api::Room,
    grants::Grants,
    host::{Host, Kind, Progress, Refusal},
    name::FunctionName,
    settings::{Asked, FunctionSettings, FunctionsSettings, Installs},
};

/// The longest name of a file that is listed, in characters.
const FILE_NAME: usize = 255;
/// How lines with the handler of a JavaScript function begin.
const JAVASCRIPT: &[&str] = &[
    "export ",
    "module.exports",
    "exports.",
    "function handle",
    "async function handle",
    "const handle",
    "let handle",
    "var handle",
];

/// A file that is to be a function.
#[derive(Debug, Clone)]
pub(crate) struct Install {
    pub(crate) name: FunctionName,
    pub(crate) bytes: Bytes,
    /// The file's name, or empty: then it is the function's name with the extension of its kind.
    pub(crate) file: String,
    /// `py`, `js`, `wasm`: what the caller says that it is.
    pub(crate) extension: Option<String>,
    /// Hex sha256 that it must have.
    pub(crate) digest: Option<String>,
    pub(crate) grants: Grants,
    pub(crate) asked: Asked,
    pub(crate) source: Source,
    /// The room that the bytes take among those of all requests, as long as they live.
    pub(crate) room: Option<Arc<Room>>,
}

/// Why a function was not installed, or not removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallError {
    /// The function that is always there.
    #[error("echo is built in and can be neither replaced nor removed")]
    Echo,
    /// Of this name.
    #[error("there is no function {0:?}")]
    Unknown(String),
    /// The module twin's word goes before.
    #[error("{0} is installed by the module twin, and only the module twin can replace or remove it")]
    TwinsOwn(FunctionName),
    /// The settings give nobody else the right.
    #[error("functions are installed by the module twin only, as the setting installs says")]
    TwinOnly,
    /// The settings changed while it was fetched or compiled.
    #[error("the module twin does not want it any more")]
    Unwanted,
    /// The file is not the one that was meant.
    #[error("its sha256 is {found}, but should be {expected}")]
    Digest { expected: String, found: String },
    /// More than the settings allow.
    #[error("it has {found} bytes, but the setting {setting} allows {most}")]
    TooLarge { found: usize, setting: &'static str, most: usize },
    /// As many as there may be.
    #[error("there are {0} functions, and the setting max_functions allows no more")]
    TooMany(u32),
    /// Limits or grants that cannot be given.
    #[error("{0}")]
    Asked(String),
    /// It is no function.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// As many installs wait as may.
    #[error("other functions are being installed; try again later")]
    Busy,
    /// It cannot be kept.
    #[error("it cannot be kept on disk: {0}")]
    Disk(#[from] io::Error),
    /// The work did not come to its end.
    #[error("the work ended early: {0}")]
    Ended(String),
}

/// A place among the installs in work: [`Library::place`].
#[derive(Debug)]
pub(crate) struct Place(#[expect(dead_code, reason = "held until it is dropped")] OwnedSemaphorePermit);

/// What is told of progress.
pub(crate) type Told = Arc<dyn Fn(Progress) + Send + Sync>;

/// A file that was looked at.
struct Seen {
    install: Install,
    digest: String,
    kind: Kind,
}

// === impl Install ===

impl Install {
    /// A function of this name, whose file has this name (or none), and nothing more said.
    pub(crate) fn of_file(name: FunctionName, file: String, bytes: Bytes) -> Self {
        let (_, extension) = split_extension(&file);
        Self {
            name,
            bytes,
            extension: extension.map(str::to_owned),
            file: shown(&file),
            digest: None,
            grants: Grants::default(),
            asked: Asked::default(),
            source: Source::Http,
            room: None,
        }
    }
}

// === impl Library ===

impl Library {
    /// Installs a function, or puts it in the place of the one that has the name. When this returns, it is called, and
    /// survives a kill. What has begun goes on also where nobody waits for it.
    pub(crate) async fn install(
        &self,
        place: Place,
        install: Install,
        told: Told,
    ) -> Result<Arc<Function>, InstallError> {
        let library = self.clone();
        let work = self.0.tasks.spawn(async move {
            let installed = library.install_now(install, told).await;
            drop(place);
            installed
        });
        let installed = work.await.unwrap_or_else(|error| Err(InstallError::Ended(error.to_string())));
        self.0.tally.install(match &installed {
            Ok(_) => "installed",
            Err(InstallError::Disk(_) | InstallError::Ended(_) | InstallError::Busy) => "failed",
            Err(_) => "refused",
        });
        installed
    }

    /// Removes a function; calls in flight end.
    pub(crate) async fn remove(&self, name: &FunctionName, by: Source) -> Result<(), InstallError> {
        let (library, name) = (self.clone(), name.clone());
        let work = self.0.tasks.spawn(async move { library.remove_now(&name, by).await });
        work.await.unwrap_or_else(|error| Err(InstallError::Ended(error.to_string())))
    }

    /// A place among the installs, which bounds how many files are in memory; says beforehand what can never be.
    pub(crate) fn place(&self, name: &FunctionName, by: Source) -> Result<Place, InstallError> {
        self.check_owner(name, by)?;
        self.check_count(name, &self.settings())?;
        let places = if by == Source::Twin { &self.0.twins_place } else { &self.0.places };
        Arc::clone(places).try_acquire_owned().map(Place).map_err(|_| InstallError::Busy)
    }

    /// May this function be replaced or removed by this one?
    pub(crate) fn check_owner(&self, name: &FunctionName, by: Source) -> Result<(), InstallError> {
        if name.is_echo() {
            return Err(InstallError::Echo);
        }
        if by == Source::Twin {
            return Ok(());
        }
        let settings = self.settings();
        if settings.installs == Installs::Twin {
            return Err(InstallError::TwinOnly);
        }
        if settings.of(name).is_some_and(|said| said.url.is_some()) {
            return Err(InstallError::TwinsOwn(name.clone()));
        }
        Ok(())
    }

    async fn install_now(&self, install: Install, told: Told) -> Result<Arc<Function>, InstallError> {
        let settings = self.settings();
        if install.source != Source::Twin
            && let Some(problem) = install.asked.problem(&settings)
        {
            return Err(InstallError::Asked(problem));
        }
        if let Some((field, problem)) = install.grants.problems().into_iter().next() {
            return Err(InstallError::Asked(format!("the grant {field}: {problem}")));
        }
        self.check_count(&install.name, &settings)?;
        let by = self.host();
        let seen = heavy(move || {
            let (digest, bytes) = (digest(&install.bytes), &install.bytes);
            if let Some(expected) = install.digest.as_ref().filter(|expected| **expected != digest) {
                return Err(InstallError::Digest { expected: expected.clone(), found: digest });
            }
            let extension = install.extension.as_deref().or_else(|| guess(bytes));
            let kind = by.host.inspect(bytes, extension)?;
            check_size(kind, bytes.len(), &settings)?;
            Ok(Seen { digest, kind, install })
        });
        let seen = seen.await?;
        let digest = seen.digest.clone();
        let (seen, prepared) = self.prepare_seen(seen, told).await?;
        let put = self.put(seen, prepared).await;
        if put.is_err() {
            self.forget_compiled(digest).await;
        }
        put
    }

    /// Compiles, when its turn comes.
    async fn prepare_seen(&self, seen: Seen, told: Told) -> Result<(Seen, Prepared), InstallError> {
        let turn = self.0.turn.acquire().await;
        let _turn = turn.map_err(|_| InstallError::Ended("the module is ending".to_owned()))?;
        let by = self.host();
        let prepared = heavy(move || {
            let guest = by.host.prepare(&seen.install.bytes, &seen.digest, seen.kind, &*told)?;
            Ok((seen, Prepared { by, guest }))
        });
        prepared.await
    }

    /// Keeps it on disk and puts it in its place.
    async fn put(&self, seen: Seen, prepared: Prepared) -> Result<Arc<Function>, InstallError> {
        let _changes = self.0.changes.lock().await;
        let before = Arc::clone(&self.0.now.read());
        let Seen { install, digest, kind } = seen;
        // Meanwhile the settings may have changed, and others may have come.
        self.check_owner(&install.name, install.source)?;
        let wanted =
            |said: &FunctionSettings| said.from_address().is_some_and(|(_, wanted)| wanted == digest);
        if install.source == Source::Twin && !before.settings.of(&install.name).is_some_and(wanted) {
            return Err(InstallError::Unwanted);
        }
        self.check_count(&install.name, &before.settings)?;
        let file = if install.file.is_empty() {
            format!("{}.{}", install.name, kind.extension())
        } else {
            install.file
        };
        let record = Record {
            name: install.name,
            digest,
            kind,
            file,
            size: install.bytes.len() as u64,
            grants: install.grants,
            asked: install.asked,
            source: install.source,
            installed_at: now(),
        };
        let mut records = before.records();
        records.insert(record.name.clone(), record.clone());
        let (shelf, bytes, digest) = (self.0.shelf.clone(), install.bytes, record.digest.clone());
        let (by, room) = (self.host(), install.room);
        let generation = prepared.by.generation;
        let kept = heavy(move || {
            let kept = shelf.keep(&digest, &bytes).and_then(|()| shelf.save(&records));
            drop((bytes, room));
            kept?;
            forget(&shelf, &records, &by.host);
            Ok(())
        });
        kept.await?;
        // Of the same file, the numbers go on.
        let same = before.functions.get(&record.name).filter(|before| before.record.digest == record.digest);
        let statistics =
            same.map_or_else(|| Arc::new(Statistics::new()), |before| Arc::clone(&before.statistics));
        let slot = Slot::new(watch::Sender::new(Readiness::Ready(prepared)));
        let function = Arc::new(self.function(record, slot, statistics, &before.settings));
        let mut functions = before.functions.clone();
        functions.insert(function.record.name.clone(), Arc::clone(&function));
        self.replace(Now { settings: Arc::clone(&before.settings), functions });
        if let Some(replaced) = before.functions.get(&function.record.name) {
            replaced.is_gone();
        }
        if generation != self.host().generation {
            // The settings wanted another host while it was compiled.
            self.begin_preparing();
        }
        tracing::info!(
            function = %function.record.name, kind = ?kind, digest = function.record.digest, "A function is installed."
        );
        Ok(function)
    }

    async fn remove_now(&self, name: &FunctionName, by: Source) -> Result<(), InstallError> {
        let _changes = self.0.changes.lock().await;
        self.check_owner(name, by)?;
        let before = Arc::clone(&self.0.now.read());
        let Some(removed) = before.functions.get(name) else {
            return Err(InstallError::Unknown(name.to_string()));
        };
        let wanted = before.settings.of(name).is_some_and(|said| said.url.is_some());
        if by == Source::Twin && (wanted || removed.record.source != Source::Twin) {
            // Meanwhile the twin wants it again, or a request has put another in its place.
            return Ok(());
        }
        let mut records = before.records();
        records.remove(name);
        let (shelf, by) = (self.0.shelf.clone(), self.host());
        let kept = heavy(move || {
            shelf.save(&records)?;
            forget(&shelf, &records, &by.host);
            Ok(())
        });
        kept.await?;
        let mut functions = before.functions.clone();
        functions.remove(name);
        self.replace(Now { settings: Arc::clone(&before.settings), functions });
        removed.is_gone();
        self.0.tally.forget(name);
        self.0.reaches.forget(name);
        tracing::info!(function = %name, "A function is removed.");
        Ok(())
    }

    /// Forgets what was compiled of a file that was not installed, where no other function is made of it.
    async fn forget_compiled(&self, digest: String) {
        let _changes = self.0.changes.lock().await;
        let now = Arc::clone(&self.0.now.read());
        if now.functions.values().any(|function| function.record.digest == digest) {
            return;
        }
        let by = self.host();
        spawn_blocking(move || by.host.forget(&digest)).await.ok();
    }

    /// Is there room for one of this name?
    fn check_count(&self, name: &FunctionName, settings: &FunctionsSettings) -> Result<(), InstallError> {
        let now = self.0.now.read();
        // Besides `echo`.
        let full = now.functions.len() > settings.max_functions as usize;
        if full && !now.functions.contains_key(name) {
            return Err(InstallError::TooMany(settings.max_functions));
        }
        Ok(())
    }
}

fn check_size(kind: Kind, found: usize, settings: &FunctionsSettings) -> Result<(), InstallError> {
    let (setting, most) = match kind {
        Kind::Python | Kind::JavaScript => ("max_text_kb", settings.max_text_kb),
        _ => ("max_file_kb", settings.max_file_kb),
    };
    let most = most as usize * 1024;
    if found > most {
        return Err(InstallError::TooLarge { found, setting, most });
    }
    Ok(())
}

/// Forgets the files that nothing names any more, and what was compiled of them.
fn forget(shelf: &Shelf, records: &Records, host: &Host) {
    for digest in shelf.sweep(records) {
        host.forget(&digest);
    }
}

/// The name and the extension, where it is one of a function's file.
pub(crate) fn split_extension(file: &str) -> (&str, Option<&'static str>) {
    let Some((stem, extension)) = file.rsplit_once('.') else { return (file, None) };
    match extension.to_ascii_lowercase().as_str() {
        "py" => (stem, Some("py")),
        "js" | "mjs" => (stem, Some("js")),
        "wasm" => (stem, Some("wasm")),
        _ => (file, None),
    }
}

/// A file's name as it is listed: what a caller sends can be anything.
fn shown(file: &str) -> String {
    file.chars().filter(|sign| !sign.is_control()).take(FILE_NAME).collect()
}

/// The language of a text of which nobody said it, by its handler.
fn guess(bytes: &[u8]) -> Option<&'static str> {
    if bytes.starts_with(b"\0asm") {
        return Some("wasm");
    }
    let text = std::str::from_utf8(bytes).ok()?;
    let begins = |line: &str, words: &[&str]| words.iter().any(|word| line.starts_with(word));
    text.lines().find_map(|line| {
        if begins(line, &["def handle(", "async def handle("]) {
            Some("py")
        } else if begins(line, JAVASCRIPT) {
            Some("js")
        } else {
            None
        }
    })
}

/// Work that takes its time, on a thread for it (law 6).
async fn heavy<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, InstallError> + Send + 'static,
) -> Result<T, InstallError> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(InstallError::Ended(error.to_string())))
}

// === impl Now ===

impl Now {
    /// What is on disk.
    fn records(&self) -> Records {
        let installed = self.functions.values().filter(|function| function.record.source != Source::BuiltIn);
        installed.map(|function| (function.record.name.clone(), function.record.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_of_a_text_is_seen_by_its_handler() {
        for (text, expected) in [
            ("import json\n\ndef handle(req):\n    return req\n", Some("py")),
            ("// average\nexport function handle(req) { return req; }", Some("js")),
            ("const x = 1;\nmodule.exports = (req) => req;", Some("js")),
            ("function handle(req) { return req }", Some("js")),
            ("hello", None),
            ("  def handle(req): pass", None),
        ] {
            assert_eq!(guess(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(guess(b"\0asm\x01\0\0\0"), Some("wasm"));
        assert_eq!(guess(b"\xff\xfe"), None);
    }

    #[test]
    fn only_the_extensions_of_functions_are_taken_off() {
        assert_eq!(split_extension("average.py"), ("average", Some("py")));
        assert_eq!(split_extension("a.b.WASM"), ("a.b", Some("wasm")));
        assert_eq!(split_extension("average.v2"), ("average.v2", None));
        assert_eq!(split_extension(".py"), ("", Some("py")));
    }
}
