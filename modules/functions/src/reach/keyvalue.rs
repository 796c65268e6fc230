//! `wasi:keyvalue`, in the draft that Spin and wasmCloud speak (draft2) and in the one before.
//!
//! A function has one bucket: the one that is granted to it. It opens it by its name, as `default` or as the empty
//! text; any other name is denied, whether there is such a bucket or not.

use std::collections::VecDeque;

use wasmtime::component::Resource;

use super::{View, state::State};
use crate::{
    buckets::{Condition, MOST, Operation, StateError, Sum},
    host::world::{
        function::wasi::keyvalue0_2_0_draft2::{
            atomics::{self, CasError},
            batch, store,
        },
        keyvalue_draft::wasi::keyvalue as draft,
    },
};

/// Cursors of the older draft that a handle remembers. An older one is refused.
const CURSORS: usize = 16;

/// An open bucket.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the bindings export it by its name")]
pub struct Bucket {
    state: State,
    /// The pages handed out last, each with the key that it ended with: the older draft's cursors are numbers.
    cursors: VecDeque<(u64, String)>,
    pages: u64,
}

/// A value as it was, to be swapped for another.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the bindings export it by its name")]
pub struct Cas {
    state: State,
    key: String,
    /// The tag of the value that the guest knows; none where there was no value.
    etag: Option<String>,
}

type Keys = (Vec<String>, Option<String>);

impl View<'_> {
    fn open_bucket(&mut self, identifier: &str) -> wasmtime::Result<Result<Resource<Bucket>, StateError>> {
        let state = match self.reach.state() {
            Ok(state) => state,
            Err(error) => return Ok(Err(error)),
        };
        let own = self.reach.grants().state.as_deref();
        if own != Some(identifier) && !matches!(identifier, "" | "default") {
            let why = format!("{} may not open this bucket", self.reach.name());
            return Ok(Err(StateError::Denied(why)));
        }
        Ok(Ok(self.table.push(Bucket { state, cursors: VecDeque::new(), pages: 0 })?))
    }

    fn state_of(&self, bucket: &Resource<Bucket>) -> wasmtime::Result<State> {
        Ok(self.table.get(bucket)?.state.clone())
    }

    async fn get_value(
        &mut self,
        bucket: &Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, StateError>> {
        let found = self.state_of(bucket)?.get_one(key).await;
        Ok(found.map(|found| found.map(|entry| entry.value)))
    }

    async fn put_all(
        &mut self,
        bucket: &Resource<Bucket>,
        changes: impl Iterator<Item = (String, Option<Vec<u8>>)>,
    ) -> wasmtime::Result<Result<(), StateError>> {
        let operation = |(key, value)| Operation { key, condition: Condition::Any, value };
        let done = self.state_of(bucket)?.apply(changes.map(operation).collect()).await;
        Ok(done.map(drop))
    }

    /// A page of keys, and the key that the next one begins after.
    async fn page(
        &mut self,
        bucket: &Resource<Bucket>,
        after: Option<String>,
    ) -> wasmtime::Result<Result<Keys, StateError>> {
        let keys = self.state_of(bucket)?.keys(String::new(), after).await;
        Ok(keys.map(|keys| {
            let next = keys.last().filter(|_| keys.len() == MOST).cloned();
            (keys, next)
        }))
    }

    async fn get_all(
        &mut self,
        bucket: &Resource<Bucket>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<Vec<Option<(String, Vec<u8>)>>, StateError>> {
        let found = self.state_of(bucket)?.get(keys.clone()).await;
        Ok(found.map(|found| {
            let named = keys.into_iter().zip(found);
            named.map(|(key, found)| found.map(|entry| (key, entry.value))).collect()
        }))
    }

    async fn add(
        &mut self,
        bucket: &Resource<Bucket>,
        key: String,
        sum: Sum,
    ) -> wasmtime::Result<Result<i128, StateError>> {
        Ok(self.state_of(bucket)?.add(key, sum).await)
    }
}

impl store::Host for View<'_> {
    async fn open(&mut self, identifier: String) -> wasmtime::Result<Result<Resource<Bucket>, store::Error>> {
        Ok(self.open_bucket(&identifier)?.map_err(store::Error::from))
    }
}

impl store::HostBucket for View<'_> {
    async fn get(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, store::Error>> {
        Ok(self.get_value(&bucket, key).await?.map_err(store::Error::from))
    }

    async fn set(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), store::Error>> {
        let change = std::iter::once((key, Some(value)));
        Ok(self.put_all(&bucket, change).await?.map_err(store::Error::from))
    }

    async fn delete(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<(), store::Error>> {
        let change = std::iter::once((key, None));
        Ok(self.put_all(&bucket, change).await?.map_err(store::Error::from))
    }

    async fn exists(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<bool, store::Error>> {
        let found = self.get_value(&bucket, key).await?;
        Ok(found.map(|found| found.is_some()).map_err(store::Error::from))
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<String>,
    ) -> wasmtime::Result<Result<store::KeyResponse, store::Error>> {
        let page = self.page(&bucket, cursor).await?;
        Ok(page.map(|(keys, cursor)| store::KeyResponse { keys, cursor }).map_err(store::Error::from))
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for View<'_> {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: i64,
    ) -> wasmtime::Result<Result<i64, store::Error>> {
        let sum = Sum { delta: i128::from(delta), range: (i128::from(i64::MIN), i128::from(i64::MAX)) };
        // Within that range.
        Ok(self.add(&bucket, key, sum).await?.map(|sum| sum as i64).map_err(store::Error::from))
    }

    async fn swap(&mut self, cas: Resource<Cas>, value: Vec<u8>) -> wasmtime::Result<Result<(), CasError>> {
        let Cas { state, key, etag } = self.table.delete(cas)?;
        let condition = etag.map_or(Condition::Absent, Condition::Etag);
        let failed = match state.put(key.clone(), condition, Some(value)).await {
            Ok(_) => return Ok(Ok(())),
            Err(StateError::Conflict(_)) => new_cas(state, key).await,
            Err(error) => Err(error),
        };
        Ok(Err(match failed {
            Ok(again) => CasError::CasFailed(self.table.push(again)?),
            Err(error) => CasError::StoreError(error.into()),
        }))
    }
}

impl atomics::HostCas for View<'_> {
    async fn new(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<Resource<Cas>, store::Error>> {
        match new_cas(self.state_of(&bucket)?, key).await {
            Ok(cas) => Ok(Ok(self.table.push(cas)?)),
            Err(error) => Ok(Err(error.into())),
        }
    }

    /// The value is read anew, and it is this one that a swap then expects: so no handle keeps a value in memory.
    async fn current(
        &mut self,
        cas: Resource<Cas>,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, store::Error>> {
        let (state, key) = {
            let cas = self.table.get(&cas)?;
            (cas.state.clone(), cas.key.clone())
        };
        match state.get_one(key).await {
            Ok(found) => {
                self.table.get_mut(&cas)?.etag = found.as_ref().map(|entry| entry.etag.clone());
                Ok(Ok(found.map(|entry| entry.value)))
            }
            Err(error) => Ok(Err(error.into())),
        }
    }

    async fn drop(&mut self, cas: Resource<Cas>) -> wasmtime::Result<()> {
        self.table.delete(cas)?;
        Ok(())
    }
}

async fn new_cas(state: State, key: String) -> Result<Cas, StateError> {
    let etag = state.get_one(key.clone()).await?.map(|entry| entry.etag);
    Ok(Cas { state, key, etag })
}

impl batch::Host for View<'_> {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<Vec<Option<(String, Vec<u8>)>>, store::Error>> {
        Ok(self.get_all(&bucket, keys).await?.map_err(store::Error::from))
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        key_values: Vec<(String, Vec<u8>)>,
    ) -> wasmtime::Result<Result<(), store::Error>> {
        let changes = key_values.into_iter().map(|(key, value)| (key, Some(value)));
        Ok(self.put_all(&bucket, changes).await?.map_err(store::Error::from))
    }

    async fn delete_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<(), store::Error>> {
        let changes = keys.into_iter().map(|key| (key, None));
        Ok(self.put_all(&bucket, changes).await?.map_err(store::Error::from))
    }
}

impl draft::store::Host for View<'_> {
    async fn open(
        &mut self,
        identifier: String,
    ) -> wasmtime::Result<Result<Resource<Bucket>, draft::store::Error>> {
        Ok(self.open_bucket(&identifier)?.map_err(draft::store::Error::from))
    }
}

impl draft::store::HostBucket for View<'_> {
    async fn get(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, draft::store::Error>> {
        Ok(self.get_value(&bucket, key).await?.map_err(draft::store::Error::from))
    }

    async fn set(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), draft::store::Error>> {
        let change = std::iter::once((key, Some(value)));
        Ok(self.put_all(&bucket, change).await?.map_err(draft::store::Error::from))
    }

    async fn delete(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<(), draft::store::Error>> {
        let change = std::iter::once((key, None));
        Ok(self.put_all(&bucket, change).await?.map_err(draft::store::Error::from))
    }

    async fn exists(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<bool, draft::store::Error>> {
        let found = self.get_value(&bucket, key).await?;
        Ok(found.map(|found| found.is_some()).map_err(draft::store::Error::from))
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<u64>,
    ) -> wasmtime::Result<Result<draft::store::KeyResponse, draft::store::Error>> {
        let after = match cursor {
            None => None,
            Some(cursor) => {
                let known = self.table.get(&bucket)?.cursors.iter().find(|(own, _)| *own == cursor);
                let Some((_, after)) = known else {
                    let why = format!("{cursor} is none of the last {CURSORS} cursors of this handle");
                    return Ok(Err(draft::store::Error::Other(why)));
                };
                Some(after.clone())
            }
        };
        let (keys, next) = match self.page(&bucket, after).await? {
            Ok(page) => page,
            Err(error) => return Ok(Err(error.into())),
        };
        let bucket = self.table.get_mut(&bucket)?;
        let cursor = next.map(|next| {
            bucket.pages += 1;
            bucket.cursors.push_back((bucket.pages, next));
            if bucket.cursors.len() > CURSORS {
                bucket.cursors.pop_front();
            }
            bucket.pages
        });
        Ok(Ok(draft::store::KeyResponse { keys, cursor }))
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl draft::atomics::Host for View<'_> {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: u64,
    ) -> wasmtime::Result<Result<u64, draft::store::Error>> {
        let sum = Sum { delta: i128::from(delta), range: (0, i128::from(u64::MAX)) };
        // Within that range.
        Ok(self.add(&bucket, key, sum).await?.map(|sum| sum as u64).map_err(draft::store::Error::from))
    }
}

impl draft::batch::Host for View<'_> {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<Vec<Option<(String, Vec<u8>)>>, draft::store::Error>> {
        Ok(self.get_all(&bucket, keys).await?.map_err(draft::store::Error::from))
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        key_values: Vec<(String, Vec<u8>)>,
    ) -> wasmtime::Result<Result<(), draft::store::Error>> {
        let changes = key_values.into_iter().map(|(key, value)| (key, Some(value)));
        Ok(self.put_all(&bucket, changes).await?.map_err(draft::store::Error::from))
    }

    async fn delete_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<(), draft::store::Error>> {
        let changes = keys.into_iter().map(|key| (key, None));
        Ok(self.put_all(&bucket, changes).await?.map_err(draft::store::Error::from))
    }
}

macro_rules! from_state_error {
    ($($error:ty),*) => {
        $(impl From<StateError> for $error {
            fn from(error: StateError) -> Self {
                match error {
                    StateError::NoSuchStore => Self::NoSuchStore,
                    StateError::Denied(_) => Self::AccessDenied,
                    error => Self::Other(error.to_string()),
                }
            }
        })*
    };
}

from_state_error!(store::Error, draft::store::Error);
