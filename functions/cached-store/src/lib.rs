//! `cached-store`: a state store that is itself a component. It keeps what it read and wrote in memory, in front of the
//! bucket that is granted to it, where everything is written through. Without a grant it keeps state in memory only.
//!
//! It has many buckets in its one (`orders/a` is `a` of `orders`); what another function writes there it does not see.
#![allow(missing_docs, reason = "what the bindings generator makes has no comments")]

wit_bindgen::generate!({
    path: "../../modules/functions/wit",
    world: "shunt:functions/state-store",
    generate_all,
});

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use exports::wasi::keyvalue0_2_0_draft2::store::{
    Bucket as BucketHandle, Error, Guest, GuestBucket, KeyResponse,
};
use shunt::functions::log;
use wasi::keyvalue0_2_0_draft2::store as durable;

/// Bytes of keys and values that are kept in memory; beyond it the first ones in the order of their names go.
const KEPT: usize = 8 * 1024 * 1024;
/// Keys of a page.
const PAGE: usize = 1000;

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::new(Cache::open());
}

/// All buckets.
struct Cache {
    /// None: state is kept in memory only.
    durable: Option<durable::Bucket>,
    /// What is known of a key: its value, or that it is not there.
    known: BTreeMap<String, Option<Vec<u8>>>,
    bytes: usize,
}

/// One bucket.
struct Bucket {
    prefix: String,
}

struct CachedStore;

// === impl CachedStore ===

impl Guest for CachedStore {
    type Bucket = Bucket;

    fn open(identifier: String) -> Result<BucketHandle, Error> {
        if identifier.contains('/') {
            return Err(Error::NoSuchStore);
        }
        Ok(BucketHandle::new(Bucket { prefix: format!("{identifier}/") }))
    }
}

export!(CachedStore);

// === impl Bucket ===

impl Bucket {
    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

impl GuestBucket for Bucket {
    fn get(&self, key: String) -> Result<Option<Vec<u8>>, Error> {
        CACHE.with_borrow_mut(|cache| cache.get(&self.name(&key)))
    }

    fn set(&self, key: String, value: Vec<u8>) -> Result<(), Error> {
        CACHE.with_borrow_mut(|cache| cache.set(&self.name(&key), Some(value)))
    }

    fn delete(&self, key: String) -> Result<(), Error> {
        CACHE.with_borrow_mut(|cache| cache.set(&self.name(&key), None))
    }

    fn exists(&self, key: String) -> Result<bool, Error> {
        Ok(self.get(key)?.is_some())
    }

    fn list_keys(&self, cursor: Option<String>) -> Result<KeyResponse, Error> {
        let all = CACHE.with_borrow(|cache| cache.keys(&self.prefix))?;
        let after = all.into_iter().filter(|key| cursor.as_ref().is_none_or(|cursor| key > cursor));
        let mut keys: Vec<String> = after.take(PAGE + 1).collect();
        let more = keys.len() > PAGE;
        keys.truncate(PAGE);
        let cursor = keys.last().filter(|_| more).cloned();
        Ok(KeyResponse { keys, cursor })
    }
}

// === impl Cache ===

impl Cache {
    fn open() -> Self {
        let durable = durable::open("default");
        if durable.is_err() {
            log::log(log::Level::Warn, "No bucket is granted: state is kept in memory only.");
        }
        Self { durable: durable.ok(), known: BTreeMap::new(), bytes: 0 }
    }

    fn get(&mut self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        if let Some(known) = self.known.get(name) {
            return Ok(known.clone());
        }
        let value = match &self.durable {
            Some(durable) => durable.get(name).map_err(same)?,
            None => None,
        };
        self.know(name, value.clone());
        Ok(value)
    }

    fn set(&mut self, name: &str, value: Option<Vec<u8>>) -> Result<(), Error> {
        let written = match (&self.durable, &value) {
            (None, _) => Ok(()),
            (Some(durable), Some(value)) => durable.set(name, value),
            (Some(durable), None) => durable.delete(name),
        };
        if let Err(error) = written {
            // Whether it was written is not known.
            self.forget(name);
            return Err(same(error));
        }
        self.know(name, value);
        Ok(())
    }

    fn keys(&self, prefix: &str) -> Result<BTreeSet<String>, Error> {
        let Some(durable) = &self.durable else {
            let there = self.known.iter().filter(|(_, value)| value.is_some());
            return Ok(there.filter_map(|(name, _)| name.strip_prefix(prefix).map(ToOwned::to_owned)).collect());
        };
        let (mut keys, mut cursor) = (BTreeSet::new(), None);
        loop {
            let page = durable.list_keys(cursor.as_deref()).map_err(same)?;
            keys.extend(page.keys.iter().filter_map(|name| name.strip_prefix(prefix).map(ToOwned::to_owned)));
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(keys);
            }
        }
    }

    fn know(&mut self, name: &str, value: Option<Vec<u8>>) {
        self.forget(name);
        if self.durable.is_none() && value.is_none() {
            return;
        }
        self.bytes += size(name, value.as_ref());
        self.known.insert(name.to_owned(), value);
        // What is kept nowhere else is not given up: there the limit of memory ends the call.
        while self.durable.is_some() && self.bytes > KEPT {
            let Some((name, value)) = self.known.pop_first() else { return };
            self.bytes -= size(&name, value.as_ref());
        }
    }

    fn forget(&mut self, name: &str) {
        if let Some(value) = self.known.remove(name) {
            self.bytes -= size(name, value.as_ref());
        }
    }
}

fn size(name: &str, value: Option<&Vec<u8>>) -> usize {
    name.len() + value.map_or(0, Vec::len)
}

/// The same error, as we say it.
fn same(error: durable::Error) -> Error {
    match error {
        durable::Error::NoSuchStore => Error::NoSuchStore,
        durable::Error::AccessDenied => Error::AccessDenied,
        durable::Error::Other(why) => Error::Other(why),
    }
}
