//! The installed functions: which there are, calling them, and how they come and go.

mod install;
mod shelf;
mod statistics;
mod twin;

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use anyhow::Context as _;

use parking_lot::RwLock;
use serde_json::{Value, json};
use shunt_module::{Facts, Health};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    sync::{Mutex, Semaphore, watch},
    task::spawn_blocking,
    time::{interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use install::{Install, InstallError, Place, split_extension};
pub(crate) use shelf::{Record, Shelf, Source, digest};
use statistics::Statistics;

use crate::{
    grants::{Grants, Limits},
    host::{Answer, CallError, Guest, Host, HostOptions, Kind, Request},
    name::FunctionName,
    reach::{Log, Reach, ReachOptions, Reaches, StoreGuest},
    settings::{FunctionSettings, FunctionsSettings},
    tally::{FunctionTally, Tally},
    triggers::Unanswered,
};

/// How long a call waits for a function that is still being prepared. It is answered 503 then.
const PREPARING: Duration = Duration::from_secs(30);
/// Installs in work and waiting. One more is refused: [`InstallError::Busy`].
const INSTALLS: usize = 8;
/// Bytes of the functions that the reported twin lists: edgeHub takes 8 KiB of facts.
const REPORTED: usize = 7 * 1024;
/// Functions that cannot be prepared, of which the note of readiness tells.
const NOTED: usize = 8;

/// Characters of an error that the reported twin tells.
const TROUBLE: usize = 200;
/// Calls that run at a time, besides those that wait: each has an instance from the pool.
const CALLS: usize = 64;

/// The installed functions; clones share them.
#[derive(Clone)]
pub(crate) struct Library(Arc<Inner>);

struct Inner {
    /// The host in force: settings may want another.
    host: RwLock<Arc<Running>>,
    /// Hosts that were in force before. They live as long as functions that they prepared.
    former: parking_lot::Mutex<Vec<Weak<Running>>>,
    interpreters: PathBuf,
    reaches: Reaches,
    shelf: Shelf,
    tally: Tally,
    health: Health,
    facts: Facts,
    /// What the module ends with: an install that has begun is finished.
    tasks: TaskTracker,
    shutdown: CancellationToken,
    now: RwLock<Arc<Now>>,
    /// Held while the list on disk and the one in memory change.
    changes: Mutex<()>,
    /// Preparing is heavy: one at a time, in the order in which they asked.
    turn: Semaphore,
    places: Arc<Semaphore>,
    /// The module twin has a place of its own, which no request can take.
    twins_place: Arc<Semaphore>,
    /// Why functions of the module twin are not installed, by name.
    troubles: parking_lot::Mutex<BTreeMap<FunctionName, String>>,
    /// Tells that the module twin's functions are to be looked at anew.
    twin_changed: watch::Sender<()>,
}

/// All that is in force, as one.
struct Now {
    settings: Arc<FunctionsSettings>,
    functions: BTreeMap<FunctionName, Arc<Function>>,
}

/// An installed function with all that is in force for it. Whoever took one goes on with it while another takes its
/// place.
pub(crate) struct Function {
    pub(crate) record: Record,
    /// What it may reach: the settings' word, else that of the install request.
    pub(crate) grants: Grants,
    pub(crate) limits: Limits,
    /// What the settings say of it.
    pub(crate) said: FunctionSettings,
    pub(crate) statistics: Arc<Statistics>,
    tally: FunctionTally,
    reach: Reach,
    guest: Slot,
}

/// Where the guest is, or will be.
type Slot = Arc<watch::Sender<Readiness>>;

/// How far a guest is.
#[derive(Clone)]
enum Readiness {
    Preparing,
    Ready(Prepared),
    /// It cannot be prepared any more.
    Failed(String),
    /// Another took its place, or it was removed, before it was prepared.
    Gone,
}

/// A host, and its running number.
struct Running {
    generation: u64,
    host: Host,
}

/// A guest with the host that it was prepared by.
#[derive(Clone)]
struct Prepared {
    by: Arc<Running>,
    guest: Guest,
}

/// Why a function gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum InvokeError {
    /// The settings say so.
    #[error("it is switched off by the setting functions.{0}.enabled")]
    Off(FunctionName),
    /// It is still being compiled.
    #[error("it is still being prepared")]
    Preparing,
    /// It was installed once and cannot be prepared any more.
    #[error("it cannot be prepared: {0}")]
    Unprepared(String),
    /// It is a state store: others' state goes through it, and nobody calls it.
    #[error("it is a state store and answers no calls")]
    Store,
    /// It was removed while the call waited for it.
    #[error("it was removed")]
    Removed,
    /// The call itself.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// What a library is made of.
pub(crate) struct Parts {
    pub(crate) reaches: Reaches,
    pub(crate) shelf: Shelf,
    /// Where the interpreters of text functions are.
    pub(crate) interpreters: PathBuf,
    pub(crate) tally: Tally,
    pub(crate) health: Health,
    pub(crate) facts: Facts,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

fn make_host(settings: &FunctionsSettings, shelf: &Shelf, interpreters: &Path) -> anyhow::Result<Host> {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    Host::new(HostOptions {
        workers: if settings.workers == 0 { cores } else { settings.workers as usize },
        calls: CALLS,
        queue: settings.queue as usize,
        memory_bytes: settings.most_memory(),
        compiled: shelf.compiled(),
        interpreters: interpreters.to_owned(),
    })
}

/// The same, off the async threads: it takes its time (law 6).
async fn set_up(
    settings: &Arc<FunctionsSettings>,
    shelf: &Shelf,
    interpreters: &Path,
) -> anyhow::Result<Host> {
    let (settings, shelf, interpreters) = (Arc::clone(settings), shelf.clone(), interpreters.to_owned());
    spawn_blocking(move || make_host(&settings, &shelf, &interpreters)).await?
}

/// So many of these entries as the reported twin has room for, those with an error first.
fn fitting(mut entries: Vec<Value>) -> Vec<Value> {
    entries.sort_by_key(|entry| entry.get("error").is_none());
    let mut room = REPORTED;
    let fits = move |entry: &Value| {
        // And the comma.
        let left = room.checked_sub(entry.to_string().len() + 1);
        room = left.unwrap_or(0);
        left.is_some()
    };
    entries.into_iter().take_while(fits).collect()
}

/// As much of an error as the reported twin tells.
fn shortened(text: &str) -> String {
    text.chars().take(TROUBLE).collect()
}

/// The time now, RFC 3339 in UTC.
pub(crate) fn now() -> String {
    // Fails only beyond the year 9999.
    let now = OffsetDateTime::now_utc();
    let now = now.replace_nanosecond(now.millisecond() as u32 * 1_000_000).unwrap_or(now);
    now.format(&Rfc3339).unwrap_or_else(|_| "1970-01-01T00:00:00Z".to_owned())
}

// === impl Library ===

impl Library {
    /// The functions that are on disk, and `echo`. None is prepared yet: [`Library::prepare_all`].
    pub(crate) async fn open(parts: Parts, settings: Arc<FunctionsSettings>) -> anyhow::Result<Self> {
        let Parts { reaches, shelf, interpreters, tally, health, facts, tasks, shutdown } = parts;
        let host = set_up(&settings, &shelf, &interpreters).await.context("the host cannot be set up")?;
        let compiled = host.clone();
        let (records, shelf) = spawn_blocking(move || {
            let records = shelf.load();
            if let Some(named) = records.as_ref().ok().and_then(|records| shelf.named(records)) {
                compiled.keep_only(&|digest| named.contains(digest));
            }
            (records, shelf)
        })
        .await?;
        let records = records.context("the list of installed functions cannot be read")?;
        let library = Self(Arc::new(Inner {
            host: RwLock::new(Arc::new(Running { generation: 0, host })),
            former: parking_lot::Mutex::default(),
            interpreters,
            reaches,
            shelf,
            tally,
            health,
            facts,
            tasks,
            shutdown,
            now: RwLock::new(Arc::new(Now { settings: Arc::clone(&settings), functions: BTreeMap::new() })),
            changes: Mutex::new(()),
            turn: Semaphore::new(1),
            places: Arc::new(Semaphore::new(INSTALLS)),
            twins_place: Arc::new(Semaphore::new(1)),
            troubles: parking_lot::Mutex::default(),
            twin_changed: watch::Sender::new(()),
        }));
        let inner = Arc::downgrade(&library.0);
        library.0.reaches.find_stores_with(move |name| {
            let library = Self(inner.upgrade().ok_or("the module is ending")?);
            library.store(name)
        });
        let echo = Record::echo();
        let records = records.into_values().chain([echo]);
        let functions = records.map(|record| {
            let slot = Slot::new(watch::Sender::new(Readiness::Preparing));
            let function = library.function(record, slot, Arc::new(Statistics::new()), &settings);
            (function.record.name.clone(), Arc::new(function))
        });
        let functions = functions.collect();
        library.replace(Now { settings, functions });
        Ok(library)
    }

    /// Prepares, until the module ends, all that is not prepared by the host in force.
    pub(crate) fn begin_preparing(&self) {
        let library = self.clone();
        self.0.tasks.spawn(async move {
            library.0.shutdown.run_until_cancelled(library.prepare_all()).await;
        });
    }

    /// Work that nobody waits for but the end of the module.
    pub(crate) fn in_background(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.tasks.spawn(work);
    }

    /// Prepares all that is not prepared by the host in force, one after the other. One that cannot be prepared stays
    /// listed with its error and keeps no other from it.
    async fn prepare_all(&self) {
        let mut waiting = self.list();
        // What is quick comes first.
        waiting.sort_by_key(|function| (function.record.kind != Kind::Echo, function.record.size));
        for function in waiting {
            if function.generation() == Some(self.host().generation) {
                continue;
            }
            let still = self.get(function.record.name.as_str());
            if still.is_none_or(|still| still.record.digest != function.record.digest) {
                continue;
            }
            let readiness = match self.prepare_kept(&function.record).await {
                Ok(prepared) => Readiness::Ready(prepared),
                Err(reason) => {
                    tracing::error!(function = %function.record.name, reason, "A function cannot be prepared.");
                    Readiness::Failed(reason)
                }
            };
            let failed = matches!(readiness, Readiness::Failed(_));
            function.guest.send_replace(readiness);
            self.tell();
            if failed && function.record.source == Source::Twin {
                // Its file may be damaged: the twin says where there is a whole one.
                self.try_twin_again();
            }
        }
    }

    /// The host in force.
    fn host(&self) -> Arc<Running> {
        Arc::clone(&self.0.host.read())
    }

    /// Looks at the module twin's functions anew, at once.
    pub(crate) fn try_twin_again(&self) {
        self.0.twin_changed.send_replace(());
    }

    /// Tells of it.
    pub(crate) fn twin_changes(&self) -> watch::Receiver<()> {
        self.0.twin_changed.subscribe()
    }

    /// The settings in force.
    pub(crate) fn settings(&self) -> Arc<FunctionsSettings> {
        Arc::clone(&self.0.now.read().settings)
    }

    /// From now on these settings: grants and limits of each function follow. Calls in flight end with what they began
    /// with. Where the settings want another host, functions go on in the one before until the new one has prepared
    /// them.
    ///
    /// # Errors
    /// Where the host cannot be set up so: then nothing has changed.
    pub(crate) async fn apply(&self, settings: Arc<FunctionsSettings>) -> anyhow::Result<()> {
        let _changes = self.0.changes.lock().await;
        let another = self.settings().host() != settings.host();
        if another {
            let host = set_up(&settings, &self.0.shelf, &self.0.interpreters).await?;
            let mut now = self.0.host.write();
            let mut former = self.0.former.lock();
            former.retain(|running| running.strong_count() > 0);
            former.push(Arc::downgrade(&now));
            *now = Arc::new(Running { generation: now.generation + 1, host });
        }
        self.0.reaches.set(ReachOptions::of(&settings));
        let now = Arc::clone(&self.0.now.read());
        let functions = now.functions.values().map(|function| {
            let (slot, statistics) = (Arc::clone(&function.guest), Arc::clone(&function.statistics));
            let function = self.function(function.record.clone(), slot, statistics, &settings);
            (function.record.name.clone(), Arc::new(function))
        });
        let functions = functions.collect();
        self.replace(Now { settings, functions });
        self.try_twin_again();
        if another {
            self.begin_preparing();
        }
        Ok(())
    }

    /// A function by its name.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Function>> {
        let name: FunctionName = name.parse().ok()?;
        self.0.now.read().functions.get(&name).cloned()
    }

    /// All of them, in the order of their names.
    pub(crate) fn list(&self) -> Vec<Arc<Function>> {
        self.0.now.read().functions.values().cloned().collect()
    }

    /// Calls a function, when it is prepared.
    pub(crate) async fn call(
        &self,
        function: &Arc<Function>,
        request: Request,
    ) -> Result<Answer, InvokeError> {
        let (function, Prepared { by, guest }) = self.prepared(function).await?;
        let answered = by.host.call(&guest, request, function.limits, function.reach.clone()).await;
        match answered {
            Ok(answer) => {
                function.tally.calls.inc();
                function.tally.seconds.observe(answer.took.as_secs_f64());
                function.statistics.answered(answer.took);
                Ok(answer)
            }
            Err(error) => {
                function.tally.failed(&error);
                function.statistics.failed(&error);
                Err(error.into())
            }
        }
    }

    /// The function with its guest; where another took its place before it was prepared, that one.
    async fn prepared(&self, function: &Arc<Function>) -> Result<(Arc<Function>, Prepared), InvokeError> {
        let mut function = Arc::clone(function);
        loop {
            if function.said.enabled == Some(false) {
                return Err(InvokeError::Off(function.record.name.clone()));
            }
            if function.record.kind == Kind::StateStore {
                return Err(InvokeError::Store);
            }
            let prepared = tokio::select! {
                biased;
                prepared = function.prepared() => prepared?,
                // Nothing more is prepared then.
                () = self.0.shutdown.cancelled() => return Err(CallError::Stopped.into()),
            };
            if let Some(prepared) = prepared {
                return Ok((function, prepared));
            }
            function = self.get(function.record.name.as_str()).ok_or(InvokeError::Removed)?;
        }
    }

    /// Calls a function, as triggers do.
    pub(crate) async fn call_by_name(
        &self,
        name: &FunctionName,
        request: Request,
    ) -> Result<Answer, Unanswered> {
        let function = self.get(name.as_str()).ok_or(Unanswered::NotInstalled)?;
        self.call(&function, request).await.map_err(|error| match error {
            InvokeError::Call(error) => error.into(),
            // An event waits for a function that is being prepared.
            InvokeError::Preparing => CallError::Busy.into(),
            InvokeError::Removed => Unanswered::NotInstalled,
            other => CallError::Failed(other.to_string()).into(),
        })
    }

    /// Takes no more calls. Those that run have so long to end.
    pub(crate) async fn stop(&self, limit: Duration) {
        let mut hosts: Vec<_> = self.0.former.lock().iter().filter_map(Weak::upgrade).collect();
        hosts.push(self.host());
        hosts.iter().for_each(|running| running.host.stop());
        let idle = async {
            let mut looks = interval(Duration::from_millis(20));
            while hosts.iter().any(|running| running.host.in_flight() > 0) {
                looks.tick().await;
            }
        };
        if timeout(limit, idle).await.is_err() {
            tracing::warn!("Functions still ran when the module was stopped; they were ended.");
        }
        self.0.reaches.end();
        hosts.iter().for_each(|running| running.host.end());
    }

    /// What a function of this name said.
    pub(crate) fn log(&self, name: &FunctionName) -> Log {
        self.0.reaches.logs().of(name)
    }

    /// The file of a function.
    pub(crate) async fn content(&self, function: &Function) -> std::io::Result<bytes::Bytes> {
        let (shelf, digest) = (self.0.shelf.clone(), function.record.digest.clone());
        spawn_blocking(move || shelf.read(&digest)).await?
    }

    /// A state store that is installed and ready.
    fn store(&self, name: &FunctionName) -> Result<StoreGuest, String> {
        let function = self.0.now.read().functions.get(name).cloned();
        let function = function.ok_or_else(|| format!("there is no function {name}"))?;
        if function.record.kind != Kind::StateStore {
            return Err(format!("{name} is no state store"));
        }
        if function.said.enabled == Some(false) {
            return Err(format!("{name} is switched off"));
        }
        let Prepared { by, guest } = match &*function.guest.borrow() {
            Readiness::Ready(prepared) => prepared.clone(),
            Readiness::Preparing | Readiness::Gone => return Err(format!("{name} is still being prepared")),
            Readiness::Failed(reason) => return Err(format!("{name} cannot be prepared: {reason}")),
        };
        Ok(StoreGuest {
            host: by.host.clone(),
            guest,
            version: format!("{} {}", by.generation, function.record.digest),
            reach: function.reach.clone(),
            limits: function.limits,
        })
    }

    /// All that is in force for a function.
    fn function(
        &self,
        record: Record,
        guest: Slot,
        statistics: Arc<Statistics>,
        settings: &FunctionsSettings,
    ) -> Function {
        let said = settings.of(&record.name).cloned().unwrap_or_default();
        let grants = said.grants.clone().unwrap_or_else(|| record.grants.clone());
        Function {
            limits: settings.limits(&record.name, record.asked),
            tally: self.0.tally.of(&record.name),
            reach: self.0.reaches.of(&record.name, &grants),
            record,
            grants,
            said,
            statistics,
            guest,
        }
    }

    /// Prepares what is on disk.
    async fn prepare_kept(&self, record: &Record) -> Result<Prepared, String> {
        let Ok(_turn) = self.0.turn.acquire().await else { return Err("the module is ending".to_owned()) };
        let (by, shelf, record) = (self.host(), self.0.shelf.clone(), record.clone());
        let prepared = spawn_blocking(move || {
            let bytes = match record.kind {
                Kind::Echo => bytes::Bytes::new(),
                _ => shelf.read(&record.digest).map_err(|error| error.to_string())?,
            };
            let guest = by.host.prepare(&bytes, &record.digest, record.kind, &|_| ());
            let guest = guest.map_err(|error| error.to_string())?;
            Ok(Prepared { by, guest })
        });
        prepared.await.unwrap_or_else(|error| Err(format!("the work ended early: {error}")))
    }

    fn replace(&self, now: Now) {
        let before = std::mem::replace(&mut *self.0.now.write(), Arc::new(now));
        // Outside the lock: the last use of a guest gives much memory back.
        drop(before);
        self.tell();
    }

    /// Tells health, metrics and twin what there is.
    fn tell(&self) {
        let list = self.list();
        let installed: Vec<_> = list.iter().filter(|function| !function.record.name.is_echo()).collect();
        self.0.tally.installed.set(installed.len() as i64);
        let (mut ready, mut failed) = (0, Vec::new());
        for function in &installed {
            match &*function.guest.borrow() {
                Readiness::Ready(_) => ready += 1,
                Readiness::Preparing | Readiness::Gone => {}
                Readiness::Failed(reason) => {
                    failed.push(format!("{}: {}", function.record.name, shortened(reason)));
                }
            }
        }
        let mut note = format!("{ready} of {} are ready", installed.len());
        for failure in failed.iter().take(NOTED) {
            note = format!("{note}; {failure}");
        }
        if let Some(more) = failed.len().checked_sub(NOTED).filter(|more| *more > 0) {
            note = format!("{note}; {more} more cannot be prepared");
        }
        self.0.health.note("functions", note);
        let mut listed: Vec<_> = installed.iter().map(|function| function.report()).collect();
        for (name, trouble) in self.0.troubles.lock().iter() {
            let trouble = shortened(trouble);
            let entry = listed.iter_mut().find(|entry| entry["name"] == name.as_str());
            match entry.and_then(Value::as_object_mut) {
                Some(entry) => {
                    entry.insert("error".to_owned(), trouble.into());
                }
                None => listed.push(json!({"name": name, "error": trouble})),
            }
        }
        let listed = fitting(listed);
        self.0.facts.set("installed", json!({"count": installed.len(), "functions": listed}));
    }
}

// === impl Function ===

impl Function {
    /// Why it cannot be called, where it was installed and cannot be prepared any more.
    pub(crate) fn error(&self) -> Option<String> {
        match &*self.guest.borrow() {
            Readiness::Failed(reason) => Some(reason.clone()),
            Readiness::Preparing | Readiness::Ready(_) | Readiness::Gone => None,
        }
    }

    /// Whoever waits for it looks for the one that took its place.
    fn is_gone(&self) {
        self.guest.send_if_modified(|readiness| {
            let waited_for = matches!(readiness, Readiness::Preparing);
            if waited_for {
                *readiness = Readiness::Gone;
            }
            waited_for
        });
    }

    /// The running number of the host that prepared it.
    fn generation(&self) -> Option<u64> {
        match &*self.guest.borrow() {
            Readiness::Ready(prepared) => Some(prepared.by.generation),
            Readiness::Preparing | Readiness::Failed(_) | Readiness::Gone => None,
        }
    }

    /// The guest, when it is prepared; nothing where it was replaced or removed before.
    async fn prepared(&self) -> Result<Option<Prepared>, InvokeError> {
        let mut watched = self.guest.subscribe();
        let prepared = watched.wait_for(|readiness| !matches!(readiness, Readiness::Preparing));
        match timeout(PREPARING, prepared).await {
            Ok(Ok(readiness)) => match &*readiness {
                Readiness::Ready(prepared) => Ok(Some(prepared.clone())),
                Readiness::Gone => Ok(None),
                Readiness::Failed(reason) => Err(InvokeError::Unprepared(reason.clone())),
                Readiness::Preparing => Err(InvokeError::Preparing),
            },
            Ok(Err(_)) | Err(_) => Err(InvokeError::Preparing),
        }
    }

    /// Its entry in the listing.
    pub(crate) fn describe(&self) -> Value {
        let Record { name, digest, kind, file, size, source, installed_at, .. } = &self.record;
        let state = match &*self.guest.borrow() {
            Readiness::Preparing | Readiness::Gone => "preparing",
            Readiness::Ready(_) => "ready",
            Readiness::Failed(_) => "failed",
        };
        let mut entry = json!({
            "name": name,
            "kind": kind,
            "file": file,
            "size": size,
            "digest": digest,
            "grants": self.grants,
            "limits": {
                "time_ms": self.limits.time_ms,
                "memory_bytes": self.limits.memory_bytes,
                "output_bytes": self.limits.output_bytes,
            },
            "triggers": {"on": self.said.on, "every_s": self.said.every_s, "publish": self.said.publish},
            "enabled": self.said.enabled != Some(false),
            "installed_by": source.word(),
            "installed_at": installed_at,
            "state": state,
            "error": self.error(),
        });
        if let (Value::Object(entry), Value::Object(statistics)) = (&mut entry, self.statistics.describe()) {
            entry.extend(statistics);
        }
        entry
    }

    /// Its entry in the reported twin, which has little room.
    fn report(&self) -> Value {
        let mut entry = json!({
            "name": self.record.name,
            "digest": self.record.digest.get(..12),
            "kind": self.record.kind,
        });
        if let (Value::Object(entry), Some(error)) = (&mut entry, self.error()) {
            entry.insert("error".to_owned(), shortened(&error).into());
        }
        entry
    }
}

// === impl Record ===

impl Record {
    /// The function that is always there.
    fn echo() -> Self {
        Self {
            name: FunctionName::echo(),
            digest: digest(b""),
            kind: Kind::Echo,
            file: String::new(),
            size: 0,
            grants: Grants::default(),
            asked: crate::settings::Asked::default(),
            source: Source::BuiltIn,
            installed_at: now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reported_twin_tells_as_much_as_it_has_room_for_and_errors_first() {
        let good = (0..200).map(|number| json!({"name": format!("f{number}"), "digest": "0123456789ab"}));
        let bad = json!({"name": "bad", "error": "\u{20ac}".repeat(TROUBLE)});
        let told = fitting(good.chain([bad.clone()]).collect());
        assert_eq!((&told[0], &told[1]["name"]), (&bad, &json!("f0")));
        assert!((50..200).contains(&told.len()), "{}", told.len());
        assert!(json!({"count": 201, "functions": told}).to_string().len() < 8 * 1024 - 512);
        let bad = vec![bad; 200];
        assert!(json!(fitting(bad)).to_string().len() <= REPORTED + 2);
    }
}
