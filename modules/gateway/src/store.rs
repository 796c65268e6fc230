//! Where state is kept: one small trait, two back ends.
//!
//! Both pass the same conformance suite (`tests/it/conformance.rs`). All operations of one call are done together or
//! not at all, also where Dapr does them one by one.

mod redb;
mod redis;

use std::{collections::BTreeMap, fmt, path::Path, pin::Pin, sync::Arc};

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shunt_module::Problems;
use shunt_wire::Name;

pub(crate) use self::{redb::RedbStore, redis::RedisStore};

/// The longest key in bytes, with the prefix.
pub(crate) const LONGEST_KEY: usize = 1024;
/// The largest value in bytes.
pub(crate) const LARGEST_VALUE: usize = 1024 * 1024;
/// Most bytes of all values of one answer.
pub(crate) const LARGEST_ANSWER: usize = 16 * 1024 * 1024;
/// Most keys or operations of one request.
pub(crate) const MOST_OPERATIONS: usize = 1000;
/// Most stores: each keeps a file or a connection open.
const MOST_STORES: usize = 16;

/// Where the state of one store is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum StoreSettings {
    /// A file in the module's data folder. Every change is on disk before it is answered.
    Redb {
        /// Most keys. What comes beyond is refused.
        #[serde(default = "most_keys")]
        max_keys: u64,
        /// Most bytes of keys and values together. What comes beyond is refused.
        #[serde(default = "most_bytes")]
        max_bytes: u64,
    },
    /// A Redis server, in the layout that Dapr's own Redis store has.
    Redis {
        /// Its address: `redis://[user:password@]host:port[/db]` or `redis+unix:///path`.
        url: String,
    },
}

/// A store.
pub(crate) trait StateStore: Send + Sync + fmt::Debug {
    /// What is there under these keys, in their order; refused where it is more than [`LARGEST_ANSWER`].
    fn get(&self, keys: Vec<String>) -> Answer<'_, Vec<Option<Item>>>;

    /// Does all of these, or none. Every etag is compared with what was there before.
    fn apply(&self, operations: Vec<Operation>) -> Answer<'_, ()>;
}

/// What a store answers, later.
pub(crate) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A value, and what is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) value: Bytes,
    pub(crate) etag: String,
    /// When it ends, milliseconds since 1970.
    pub(crate) expires_ms: Option<u64>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) key: String,
    pub(crate) condition: Condition,
    pub(crate) change: Change,
}

/// What must hold before a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Nothing: the last writer wins.
    None,
    /// The key is not there: the first writer wins.
    Absent,
    /// The key has this etag.
    Etag(u64),
}

/// What is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Set {
        value: Bytes,
        /// How long it lives, seconds.
        ttl_s: Option<u64>,
    },
    Delete,
}

/// Why a store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// Dapr's words for it.
    #[error(
        "possible etag mismatch. error from state store: the key {0:?} is not in the state that was expected"
    )]
    Mismatch(String),
    #[error("the store is full: {what} would be {size}, {max} are allowed")]
    Full { what: &'static str, size: u64, max: u64 },
    #[error("the values have more than the {LARGEST_ANSWER} bytes of one answer; ask for fewer keys")]
    TooMuch,
    #[error("{0}")]
    Unavailable(String),
}

/// The stores by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stores(BTreeMap<String, (StoreSettings, Arc<dyn StateStore>)>);

// === impl StoreSettings ===

impl StoreSettings {
    /// The store that is there without any setting: `statestore`, as Dapr's own examples name it.
    pub fn default_stores() -> BTreeMap<String, Self> {
        let own = Self::Redb { max_keys: most_keys(), max_bytes: most_bytes() };
        BTreeMap::from([("statestore".to_owned(), own)])
    }

    /// Notes what is wrong with these, under the field `stores`.
    pub(crate) fn check(stores: &BTreeMap<String, Self>, problems: &mut Problems) {
        if stores.len() > MOST_STORES {
            let problem = format!("{} stores are more than the {MOST_STORES} allowed", stores.len());
            problems.note("stores", problem);
        }
        for (name, store) in stores {
            if let Err(error) = name.parse::<Name>() {
                problems.note(&format!("stores.{name}"), error.to_string());
            }
            match store {
                Self::Redb { max_keys, max_bytes } => {
                    if *max_keys == 0 || *max_bytes == 0 {
                        problems.note(&format!("stores.{name}"), "max_keys and max_bytes must be 1 at least");
                    }
                }
                Self::Redis { url } => {
                    if let Err(error) = RedisStore::new(url) {
                        problems.note(&format!("stores.{name}.url"), error.to_string());
                    }
                }
            }
        }
    }
}

fn most_keys() -> u64 {
    100_000
}

fn most_bytes() -> u64 {
    256 * 1024 * 1024
}

// === impl Stores ===

impl Stores {
    /// The stores of these settings; those that did not change stay as they are, with their open files.
    pub(crate) fn changed(&self, settings: &BTreeMap<String, StoreSettings>, folder: &Path) -> Self {
        let store = |(name, wanted): (&String, &StoreSettings)| {
            let known = self.0.get(name).filter(|(known, _)| known == wanted);
            let store = match (known, wanted) {
                (Some((_, store)), _) => Arc::clone(store),
                (None, StoreSettings::Redb { max_keys, max_bytes }) => {
                    let path = folder.join(format!("state-{name}.redb"));
                    Arc::new(RedbStore::new(path, *max_keys, *max_bytes)) as Arc<dyn StateStore>
                }
                // The address was checked.
                (None, StoreSettings::Redis { url }) => Arc::new(RedisStore::new(url).ok()?),
            };
            Some((name.clone(), (wanted.clone(), store)))
        };
        Self(settings.iter().filter_map(store).collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<dyn StateStore>> {
        self.0.get(name).map(|(_, store)| Arc::clone(store))
    }

    /// Their names and kinds.
    pub(crate) fn kinds(&self) -> Vec<(String, &'static str)> {
        let kind = |settings: &StoreSettings| match settings {
            StoreSettings::Redb { .. } => "redb",
            StoreSettings::Redis { .. } => "redis",
        };
        self.0.iter().map(|(name, (settings, _))| (name.clone(), kind(settings))).collect()
    }
}

// === impl Operation ===

impl Operation {
    /// Does its condition hold where this etag is there?
    pub(crate) fn agrees(&self, etag: Option<u64>) -> bool {
        match self.condition {
            Condition::None => true,
            Condition::Absent => etag.is_none(),
            Condition::Etag(wanted) => etag == Some(wanted),
        }
    }
}
