//! A function's bucket, wherever it is kept; and our own interface to it, `shunt:functions/state`.

use super::{Reach, View, store::StoreBucket};
use crate::{
    buckets::{Bucket, Condition, Done, Entry, Operation, StateError, Sum},
    host::world::function::shunt::functions::state,
};

/// A bucket.
#[derive(Debug, Clone)]
pub(super) enum State {
    /// In the module's own durable store.
    Own(Bucket),
    /// In a store that is a component.
    Store(StoreBucket),
}

// === impl State ===

impl State {
    pub(super) async fn get(&self, keys: Vec<String>) -> Result<Vec<Option<Entry>>, StateError> {
        match self {
            Self::Own(bucket) => bucket.get(keys).await,
            Self::Store(bucket) => bucket.get(keys).await,
        }
    }

    pub(super) async fn get_one(&self, key: String) -> Result<Option<Entry>, StateError> {
        Ok(self.get(vec![key]).await?.pop().flatten())
    }

    pub(super) async fn keys(
        &self,
        prefix: String,
        after: Option<String>,
    ) -> Result<Vec<String>, StateError> {
        match self {
            Self::Own(bucket) => bucket.keys(prefix, after).await,
            Self::Store(bucket) => bucket.keys(prefix, after).await,
        }
    }

    pub(super) async fn apply(&self, operations: Vec<Operation>) -> Result<Vec<Done>, StateError> {
        match self {
            Self::Own(bucket) => bucket.apply(operations).await,
            Self::Store(bucket) => bucket.apply(operations).await,
        }
    }

    /// Sets a key, or removes it.
    pub(super) async fn put(
        &self,
        key: String,
        condition: Condition,
        value: Option<Vec<u8>>,
    ) -> Result<Option<Done>, StateError> {
        Ok(self.apply(vec![Operation { key, condition, value }]).await?.pop())
    }

    pub(super) async fn add(&self, key: String, sum: Sum) -> Result<i128, StateError> {
        match self {
            Self::Own(bucket) => bucket.add(key, sum).await,
            Self::Store(bucket) => bucket.add(key, sum).await,
        }
    }
}

// === impl Reach ===

impl Reach {
    /// The granted bucket.
    pub(super) fn state(&self) -> Result<State, StateError> {
        let Some(bucket) = &self.grants().state else {
            let why = format!("{} is granted no state: grants.state names a bucket", self.name());
            return Err(StateError::Denied(why));
        };
        let means = self.means().map_err(|why| StateError::Denied(why.to_owned()))?;
        match &self.grants().store {
            None => Ok(State::Own(means.buckets.bucket(bucket))),
            Some(store) => Ok(State::Store(means.stores.bucket(store, bucket)?)),
        }
    }
}

impl state::Host for View<'_> {
    async fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<state::Entry>, state::Error>> {
        let found = async { self.reach.state()?.get_one(key).await };
        let entry = |Entry { value, etag }| state::Entry { value, etag };
        Ok(found.await.map(|found| found.map(entry)).map_err(state::Error::from))
    }

    async fn set(
        &mut self,
        key: String,
        value: Vec<u8>,
        etag: Option<String>,
    ) -> wasmtime::Result<Result<String, state::Error>> {
        let done = async { self.reach.state()?.put(key, condition(etag), Some(value)).await };
        Ok(match done.await {
            Ok(Some(Done::Set(etag))) => Ok(etag),
            Ok(_) => Err(state::Error::Other("the store gave no tag".to_owned())),
            Err(error) => Err(error.into()),
        })
    }

    async fn delete(
        &mut self,
        key: String,
        etag: Option<String>,
    ) -> wasmtime::Result<Result<bool, state::Error>> {
        let done = async { self.reach.state()?.put(key, condition(etag), None).await };
        Ok(done.await.map(|done| done == Some(Done::Deleted(true))).map_err(state::Error::from))
    }

    async fn keys(
        &mut self,
        prefix: String,
        after: Option<String>,
    ) -> wasmtime::Result<Result<Vec<String>, state::Error>> {
        let keys = async { self.reach.state()?.keys(prefix, after).await };
        Ok(keys.await.map_err(state::Error::from))
    }
}

/// What a tag asks for: none, nothing; an empty one, that the key is not there.
fn condition(etag: Option<String>) -> Condition {
    match etag {
        None => Condition::Any,
        Some(etag) if etag.is_empty() => Condition::Absent,
        Some(etag) => Condition::Etag(etag),
    }
}

impl From<StateError> for state::Error {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Conflict(_) => Self::Conflict,
            StateError::TooLarge { .. } => Self::TooLarge(error.to_string()),
            StateError::Denied(why) => Self::Denied(why),
            StateError::NoSuchStore | StateError::Number(_) | StateError::Unavailable(_) => {
                Self::Other(error.to_string())
            }
        }
    }
}
