//! State stores that are components: they export `wasi:keyvalue/store`, and other functions' state goes through them.
//!
//! A store has one instance, which lives as long as its file and its grants stay the same, so that it may keep
//! something in memory. It does one request after the other; a request that is made of several operations (compare and
//! set, add, many keys) has it for itself meanwhile. Each operation has the store's own time. After a trap it begins
//! anew with an empty memory, which its log tells.
//!
//! It has no tags of its own, so the tag of a value is a digest of it. And it cannot take back a change: where it traps
//! between two changes of one request, the first one stays.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, OnceLock, Weak},
};

use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc, oneshot},
};
use wasmtime::{Store, component::ResourceAny};

use super::{Level, Reach};
use crate::{
    buckets::{
        Condition, Done, Entry, LARGEST_ANSWER, LARGEST_VALUE, MOST, Operation, StateError, Sum, check,
        check_key,
    },
    grants::{Grants, Limits},
    host::{
        CallError, Guest, Host,
        context::Scene,
        lasting::Lasting,
        world::state_store::{StateStoreExports, exports::wasi::keyvalue0_2_0_draft2::store},
    },
    library::digest,
    name::FunctionName,
};

/// Requests that wait for a store. Full: the callers wait, within their own time.
const WAITING: usize = 64;
/// Stores behind stores.
const DEEPEST: usize = 4;
/// Most buckets that an instance has open. Beyond it all are closed, to be opened again when they are asked for.
const BUCKETS: usize = 64;
/// Most keys of a bucket that are listed.
const LISTED: usize = 100_000;

/// An installed state store.
#[derive(Clone)]
pub(crate) struct StoreGuest {
    /// What runs it.
    pub(crate) host: Host,
    /// Its code.
    pub(crate) guest: Guest,
    /// Its file and its host: others begin a new instance.
    pub(crate) version: String,
    /// What it may reach itself.
    pub(crate) reach: Reach,
    /// The time of each operation, and its memory.
    pub(crate) limits: Limits,
}

/// Finds a store by its name.
type Find = Arc<dyn Fn(&FunctionName) -> Result<StoreGuest, String> + Send + Sync>;

/// The stores that are components; clones share them.
#[derive(Clone)]
pub(super) struct Stores(Arc<Shared>);

struct Shared {
    find: OnceLock<Find>,
    running: Mutex<HashMap<FunctionName, Running>>,
    /// Who works with a store: one instance at a time, also while an older one still ends.
    turns: Mutex<HashMap<FunctionName, Weak<Semaphore>>>,
    /// The module's own runtime.
    runtime: Handle,
}

/// An instance, and what it was begun with.
struct Running {
    version: String,
    grants: Grants,
    requests: mpsc::Sender<Request>,
}

/// A bucket in such a store.
#[derive(Clone)]
pub(super) struct StoreBucket {
    stores: Stores,
    store: FunctionName,
    bucket: String,
}

/// What is asked of a store.
struct Request {
    bucket: String,
    ask: Ask,
    answer: oneshot::Sender<Result<Answer, StateError>>,
}

enum Ask {
    Get(Vec<String>),
    Keys { prefix: String, after: Option<String> },
    Apply(Vec<Operation>),
    Add(String, Sum),
}

enum Answer {
    Entries(Vec<Option<Entry>>),
    Keys(Vec<String>),
    Done(Vec<Done>),
    Sum(i128),
}

/// The one that works with the instance.
struct Keeper {
    store: StoreGuest,
    instance: Option<Lasting>,
    /// The instance's handles of its buckets.
    buckets: HashMap<String, ResourceAny>,
    /// Has one place.
    turn: Arc<Semaphore>,
}

/// One request at work in the instance.
struct Visit<'a> {
    data: &'a mut Store<Scene>,
    exports: &'a StateStoreExports,
    bucket: ResourceAny,
}

/// What ends a request: the store's own word, or a trap.
enum Failure {
    Answer(StateError),
    Trap(wasmtime::Error),
}

// === impl Stores ===

impl Stores {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared {
            find: OnceLock::new(),
            running: Mutex::default(),
            turns: Mutex::default(),
            runtime: Handle::current(),
        }))
    }

    pub(super) fn find_with(&self, find: Find) {
        // The first stays: it is set once, at the start.
        self.0.find.set(find).ok();
    }

    /// A bucket of a store, whether it is there or not.
    pub(super) fn bucket(&self, store: &str, bucket: &str) -> Result<StoreBucket, StateError> {
        let store = store.parse().map_err(|_| StateError::NoSuchStore)?;
        Ok(StoreBucket { stores: self.clone(), store, bucket: bucket.to_owned() })
    }

    pub(super) fn end(&self, store: &FunctionName) {
        self.0.running.lock().remove(store);
    }

    pub(super) fn end_all(&self) {
        self.0.running.lock().clear();
    }

    /// The way to the instance of a store, which is begun where there is none.
    fn requests(&self, name: &FunctionName) -> Result<mpsc::Sender<Request>, StateError> {
        let store = self.find(name).inspect_err(|_| self.end(name))?;
        self.check_depth(name, &store)?;
        let mut running = self.0.running.lock();
        if let Some(own) = running.get(name)
            && own.version == store.version
            && own.grants == *store.reach.grants()
            && !own.requests.is_closed()
        {
            return Ok(own.requests.clone());
        }
        let (requests, waiting) = mpsc::channel(WAITING);
        let own = Running {
            version: store.version.clone(),
            grants: store.reach.grants().clone(),
            requests: requests.clone(),
        };
        // One before it does what it was asked, and ends then: nobody can ask it any more. This one waits for that.
        running.insert(name.clone(), own);
        drop(running);
        self.begin(store, self.turn(name), waiting)?;
        Ok(requests)
    }

    /// Begins to serve, on a thread where guests run. Ends when nobody can ask any more.
    fn begin(
        &self,
        store: StoreGuest,
        turn: Arc<Semaphore>,
        requests: mpsc::Receiver<Request>,
    ) -> Result<(), StateError> {
        let host = store.host.clone();
        let keeper = Keeper { store, instance: None, buckets: HashMap::new(), turn };
        let work = host.run(keeper.serve(requests));
        let work = work.ok_or_else(|| StateError::Unavailable("the module is ending".to_owned()))?;
        // Dropping the work would end it.
        self.0.runtime.spawn(async move { work.done().await });
        Ok(())
    }

    /// The turn at a store.
    fn turn(&self, name: &FunctionName) -> Arc<Semaphore> {
        let mut turns = self.0.turns.lock();
        if let Some(turn) = turns.get(name).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(Semaphore::new(1));
        turns.insert(name.clone(), Arc::downgrade(&turn));
        turn
    }

    fn find(&self, name: &FunctionName) -> Result<StoreGuest, StateError> {
        let find = self.0.find.get().ok_or(StateError::NoSuchStore)?;
        let why = |why| StateError::Unavailable(format!("the state store {name} cannot be used: {why}"));
        find(name).map_err(why)
    }

    /// A store may keep its own state in another one, but not in itself, nor in one that leads back to it: each would
    /// wait for the other.
    fn check_depth(&self, name: &FunctionName, store: &StoreGuest) -> Result<(), StateError> {
        let (mut seen, mut grants) = (BTreeSet::from([name.clone()]), store.reach.grants().clone());
        while let Some(next) = grants.store {
            let next: FunctionName = next.parse().map_err(|_| StateError::NoSuchStore)?;
            if !seen.insert(next.clone()) {
                let why = format!("the state store {name} leads back to the state store {next}");
                return Err(StateError::Unavailable(why));
            }
            if seen.len() > DEEPEST {
                let why = format!("behind the state store {name} are more than {DEEPEST} others");
                return Err(StateError::Unavailable(why));
            }
            grants = self.find(&next)?.reach.grants().clone();
        }
        Ok(())
    }
}

// === impl StoreBucket ===

impl StoreBucket {
    async fn ask(&self, ask: Ask) -> Result<Answer, StateError> {
        let requests = self.stores.requests(&self.store)?;
        let (answer, answered) = oneshot::channel();
        let request = Request { bucket: self.bucket.clone(), ask, answer };
        let gone = || StateError::Unavailable(format!("the state store {} has ended", self.store));
        requests.send(request).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    pub(super) async fn get(&self, keys: Vec<String>) -> Result<Vec<Option<Entry>>, StateError> {
        if keys.len() > MOST {
            let (size, max) = (keys.len() as u64, MOST as u64);
            return Err(StateError::TooLarge { what: "a request for keys", size, max });
        }
        keys.iter().try_for_each(|key| check_key(key))?;
        match self.ask(Ask::Get(keys)).await? {
            Answer::Entries(entries) => Ok(entries),
            _ => Err(StateError::NoSuchStore),
        }
    }

    pub(super) async fn keys(
        &self,
        prefix: String,
        after: Option<String>,
    ) -> Result<Vec<String>, StateError> {
        match self.ask(Ask::Keys { prefix, after }).await? {
            Answer::Keys(keys) => Ok(keys),
            _ => Err(StateError::NoSuchStore),
        }
    }

    pub(super) async fn apply(&self, operations: Vec<Operation>) -> Result<Vec<Done>, StateError> {
        check(&operations)?;
        match self.ask(Ask::Apply(operations)).await? {
            Answer::Done(done) => Ok(done),
            _ => Err(StateError::NoSuchStore),
        }
    }

    pub(super) async fn add(&self, key: String, sum: Sum) -> Result<i128, StateError> {
        check_key(&key)?;
        match self.ask(Ask::Add(key, sum)).await? {
            Answer::Sum(sum) => Ok(sum),
            _ => Err(StateError::NoSuchStore),
        }
    }
}

impl std::fmt::Debug for StoreBucket {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("StoreBucket")
            .field("store", &self.store)
            .field("bucket", &self.bucket)
            .finish_non_exhaustive()
    }
}

// === impl Keeper ===

impl Keeper {
    async fn serve(mut self, mut requests: mpsc::Receiver<Request>) {
        // Those that ask meanwhile wait, within their own time. It is never closed.
        let Ok(turn) = Arc::clone(&self.turn).acquire_owned().await else { return };
        while let Some(Request { bucket, ask, answer }) = requests.recv().await {
            if answer.is_closed() {
                continue;
            }
            let done = self.answer(&bucket, ask).await;
            // A caller that has gone does not hear it.
            answer.send(done).ok();
        }
        // The instance ends before the next one may begin.
        drop(self);
        drop(turn);
    }

    async fn answer(&mut self, bucket: &str, ask: Ask) -> Result<Answer, StateError> {
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => self.fresh().await.map_err(|error| self.failed(&error))?,
        };
        let (limits, handles) = (self.store.limits, &mut self.buckets);
        let done = instance.operation(limits, async |data, exports| {
            let asked = async {
                let bucket = open(data, exports, handles, bucket).await?;
                Visit { data, exports, bucket }.answer(ask).await
            };
            match asked.await {
                Ok(answer) => Ok(Ok(answer)),
                Err(Failure::Answer(error)) => Ok(Err(error)),
                Err(Failure::Trap(trap)) => Err(trap),
            }
        });
        match done.await {
            Ok(answer) => {
                self.instance = Some(instance);
                answer
            }
            Err(error) => {
                let begun_anew = "It begins anew with an empty memory.";
                self.store
                    .reach
                    .log()
                    .add(Level::Error, &format!("The state store failed: {error}. {begun_anew}"));
                Err(self.failed(&error))
            }
        }
    }

    async fn fresh(&mut self) -> Result<Lasting, CallError> {
        self.buckets.clear();
        let StoreGuest { host, guest, reach, limits, .. } = &self.store;
        host.begin_store(guest, reach.for_call(), *limits).await
    }

    fn failed(&self, error: &CallError) -> StateError {
        StateError::Unavailable(format!("the state store {} failed: {error}", self.store.reach.name()))
    }
}

/// The instance's handle of a bucket.
async fn open(
    data: &mut Store<Scene>,
    exports: &StateStoreExports,
    handles: &mut HashMap<String, ResourceAny>,
    bucket: &str,
) -> Result<ResourceAny, Failure> {
    if let Some(handle) = handles.get(bucket) {
        return Ok(*handle);
    }
    if handles.len() >= BUCKETS {
        for (_, handle) in handles.drain() {
            handle.resource_drop_async(&mut *data).await?;
        }
    }
    let handle = exports.wasi_keyvalue0_2_0_draft2_store().call_open(data, bucket).await??;
    handles.insert(bucket.to_owned(), handle);
    Ok(handle)
}

// === impl Visit ===

impl Visit<'_> {
    async fn answer(&mut self, ask: Ask) -> Result<Answer, Failure> {
        // What one request says does not count for the next.
        self.data.data().reach.renew();
        Ok(match ask {
            Ask::Get(keys) => Answer::Entries(self.get_all(keys).await?),
            Ask::Keys { prefix, after } => Answer::Keys(self.keys(&prefix, after.as_deref()).await?),
            Ask::Apply(operations) => Answer::Done(self.apply(operations).await?),
            Ask::Add(key, sum) => Answer::Sum(self.add(&key, sum).await?),
        })
    }

    async fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, Failure> {
        let bucket = self.exports.wasi_keyvalue0_2_0_draft2_store().bucket();
        let value = bucket.call_get(&mut *self.data, self.bucket, key).await??;
        if value.as_ref().is_some_and(|value| value.len() > LARGEST_VALUE) {
            let size = value.map_or(0, |value| value.len() as u64);
            return Err(StateError::TooLarge { what: "the value", size, max: LARGEST_VALUE as u64 }.into());
        }
        Ok(value)
    }

    async fn get_all(&mut self, keys: Vec<String>) -> Result<Vec<Option<Entry>>, Failure> {
        let (mut entries, mut size) = (Vec::with_capacity(keys.len()), 0);
        for key in keys {
            let value = self.get(&key).await?;
            size += value.as_ref().map_or(0, Vec::len);
            if size > LARGEST_ANSWER {
                let (size, max) = (size as u64, LARGEST_ANSWER as u64);
                return Err(StateError::TooLarge { what: "the values of one answer", size, max }.into());
            }
            entries.push(value.map(|value| Entry { etag: digest(&value), value }));
        }
        Ok(entries)
    }

    /// A store lists its keys in any order, so all are looked at.
    async fn keys(&mut self, prefix: &str, after: Option<&str>) -> Result<Vec<String>, Failure> {
        let (mut found, mut cursor, mut seen) = (BTreeSet::new(), None::<String>, 0);
        loop {
            let bucket = self.exports.wasi_keyvalue0_2_0_draft2_store().bucket();
            let page = bucket.call_list_keys(&mut *self.data, self.bucket, cursor.as_deref()).await??;
            // A store that hands out empty pages for ever has them counted too.
            seen += page.keys.len().max(1);
            if seen > LISTED {
                let (size, max) = (seen as u64, LISTED as u64);
                return Err(StateError::TooLarge { what: "the list of keys", size, max }.into());
            }
            let wanted =
                |key: &String| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after);
            for key in page.keys.into_iter().filter(wanted) {
                found.insert(key);
                // The last ones are for another list.
                if found.len() > MOST {
                    found.pop_last();
                }
            }
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(found.into_iter().collect());
            }
        }
    }

    async fn apply(&mut self, operations: Vec<Operation>) -> Result<Vec<Done>, Failure> {
        for operation in &operations {
            self.check(operation).await?;
        }
        let mut done = Vec::with_capacity(operations.len());
        for Operation { key, value, .. } in operations {
            let there = value.is_none() && self.exists(&key).await?;
            let bucket = self.exports.wasi_keyvalue0_2_0_draft2_store().bucket();
            if let Some(value) = value {
                bucket.call_set(&mut *self.data, self.bucket, &key, &value).await??;
                done.push(Done::Set(digest(&value)));
            } else {
                bucket.call_delete(&mut *self.data, self.bucket, &key).await??;
                done.push(Done::Deleted(there));
            }
        }
        Ok(done)
    }

    async fn exists(&mut self, key: &str) -> Result<bool, Failure> {
        let bucket = self.exports.wasi_keyvalue0_2_0_draft2_store().bucket();
        Ok(bucket.call_exists(&mut *self.data, self.bucket, key).await??)
    }

    /// Does the condition of a change hold?
    async fn check(&mut self, operation: &Operation) -> Result<(), Failure> {
        let holds = match &operation.condition {
            Condition::Any => true,
            Condition::Absent => !self.exists(&operation.key).await?,
            Condition::Etag(wanted) => {
                let value = self.get(&operation.key).await?;
                value.is_some_and(|value| digest(&value) == *wanted)
            }
        };
        if holds { Ok(()) } else { Err(StateError::Conflict(operation.key.clone()).into()) }
    }

    async fn add(&mut self, key: &str, sum: Sum) -> Result<i128, Failure> {
        let before = self.get(key).await?;
        let sum = sum.with(key, before.as_deref())?;
        let bucket = self.exports.wasi_keyvalue0_2_0_draft2_store().bucket();
        bucket.call_set(&mut *self.data, self.bucket, key, sum.to_string().as_bytes()).await??;
        Ok(sum)
    }
}

// === impl Failure ===

impl From<wasmtime::Error> for Failure {
    fn from(trap: wasmtime::Error) -> Self {
        Self::Trap(trap)
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        Self::Answer(error)
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        Self::Answer(match error {
            store::Error::NoSuchStore => StateError::NoSuchStore,
            store::Error::AccessDenied => StateError::Denied("the state store denies it".to_owned()),
            store::Error::Other(why) => {
                let why: String = why.chars().take(400).collect();
                StateError::Unavailable(format!("the state store says: {why}"))
            }
        })
    }
}
