//! State in a Redis server, in the layout of Dapr's own Redis store: a hash with `data` and `version` for each key.
//!
//! All operations of a call are one script, which Redis runs without anything in between: it compares every etag
//! before it changes the first key.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo, RedisError, Script, aio::MultiplexedConnection,
    io::tcp::TcpSettings,
};
use tokio::sync::Mutex;

use super::{Answer, Change, Condition, Item, LARGEST_ANSWER, Operation, StateStore, StoreError};

/// The longest wait for a connection, and for an answer.
const LIMIT: Duration = Duration::from_secs(5);
/// Most keys asked for at once, so that what is too much for an answer does not lie in memory first.
const AT_ONCE: usize = 16;
/// The key of the last version given. One for all keys, so that a key that was removed and made again is not taken
/// for the old one.
const VERSION: &str = "shunt||version";

/// KEYS: the counter, then the operations' keys. ARGV: for each operation what to do (`set` or `delete`), the etag it
/// wants (empty: any; `0`: not there), how long it lives in seconds (empty: for ever), the value. Gives the number of
/// the operation whose etag is another, or 0.
static APPLY: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        for i = 2, #KEYS do
            local wanted = ARGV[(i - 2) * 4 + 2]
            local version = redis.call('HGET', KEYS[i], 'version')
            if wanted == '0' then
                if version then return i - 1 end
            elseif wanted ~= '' and version ~= wanted then
                return i - 1
            end
        end
        local next = redis.call('INCR', KEYS[1])
        for i = 2, #KEYS do
            local at = (i - 2) * 4
            if ARGV[at + 1] == 'set' then
                redis.call('DEL', KEYS[i])
                redis.call('HSET', KEYS[i], 'data', ARGV[at + 4], 'version', next)
                if ARGV[at + 3] ~= '' then redis.call('EXPIRE', KEYS[i], ARGV[at + 3]) end
            else
                redis.call('DEL', KEYS[i])
            end
        end
        return 0
        ",
    )
});

/// A store in a Redis server.
#[derive(Debug)]
pub(crate) struct RedisStore {
    client: Client,
    /// None before the first use, and after a failure.
    connection: Mutex<Option<MultiplexedConnection>>,
}

// === impl RedisStore ===

impl RedisStore {
    /// A store at this address, connected to at its first use. Refuses what is no address.
    pub(crate) fn new(url: &str) -> Result<Self, StoreError> {
        if url.starts_with("rediss:") {
            let problem = "TLS to a state store is not built in; use redis:// or redis+unix://";
            return Err(StoreError::Unavailable(problem.to_owned()));
        }
        let info = url.into_connection_info().map_err(|error| unavailable(&error))?;
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let client = Client::open(info).map_err(|error| unavailable(&error))?;
        Ok(Self { client, connection: Mutex::new(None) })
    }

    async fn connection(&self) -> Result<MultiplexedConnection, StoreError> {
        let mut connection = self.connection.lock().await;
        if let Some(connection) = &*connection {
            return Ok(connection.clone());
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(LIMIT))
            .set_response_timeout(Some(LIMIT));
        let made = self.client.get_multiplexed_async_connection_with_config(&config).await;
        let made = made.map_err(|error| unavailable(&error))?;
        *connection = Some(made.clone());
        Ok(made)
    }

    /// The next call connects anew after an error that may be the connection's.
    async fn failed(&self, error: RedisError) -> StoreError {
        if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() {
            *self.connection.lock().await = None;
        }
        unavailable(&error)
    }

    async fn read(&self, keys: Vec<String>) -> Result<Vec<Option<Item>>, StoreError> {
        let (mut items, mut size) = (Vec::with_capacity(keys.len()), 0);
        for some in keys.chunks(AT_ONCE) {
            items.extend(self.read_some(some).await?);
            size += items.iter().rev().take(some.len()).flatten().map(|item| item.value.len()).sum::<usize>();
            if size > LARGEST_ANSWER {
                return Err(StoreError::TooMuch);
            }
        }
        Ok(items)
    }

    async fn read_some(&self, keys: &[String]) -> Result<Vec<Option<Item>>, StoreError> {
        let mut pipe = redis::pipe();
        for key in keys {
            pipe.hmget(key, &["data", "version"]).pttl(key);
        }
        let mut connection = self.connection().await?;
        let answer = pipe.query_async(&mut connection).await;
        let answer: Vec<redis::Value> = match answer {
            Ok(answer) => answer,
            Err(error) => return Err(self.failed(error).await),
        };
        let item = |pair: &[redis::Value]| {
            let [record, left] = pair else { return Ok(None) };
            let (value, version): (Option<Vec<u8>>, Option<String>) = redis::from_redis_value_ref(record)?;
            let left: i64 = redis::from_redis_value_ref(left)?;
            // -1: no end; -2: gone meanwhile.
            let expires_ms = u64::try_from(left).ok().map(|left| now_ms() + left);
            let item =
                |(value, etag): (Vec<u8>, String)| Item { value: Bytes::from(value), etag, expires_ms };
            Ok(value.zip(version).map(item))
        };
        let items: Result<_, redis::ParsingError> = answer.chunks(2).map(item).collect();
        items.map_err(|error| StoreError::Unavailable(format!("the answer is not readable: {error}")))
    }

    async fn write(&self, operations: Vec<Operation>) -> Result<(), StoreError> {
        let mut call = APPLY.key(VERSION);
        for Operation { key, condition, change } in &operations {
            let wanted = match condition {
                Condition::None => String::new(),
                Condition::Absent => "0".to_owned(),
                Condition::Etag(etag) => etag.to_string(),
            };
            call.key(key);
            match change {
                Change::Set { value, ttl_s } => {
                    let ttl = ttl_s.map(|ttl_s| ttl_s.to_string()).unwrap_or_default();
                    call.arg("set").arg(wanted).arg(ttl).arg(value.as_ref());
                }
                Change::Delete => {
                    call.arg("delete").arg(wanted).arg("").arg("");
                }
            }
        }
        let mut connection = self.connection().await?;
        let answer: Result<usize, _> = call.invoke_async(&mut connection).await;
        let wrong = match answer {
            Ok(wrong) => wrong,
            Err(error) => return Err(self.failed(error).await),
        };
        match wrong.checked_sub(1).and_then(|at| operations.get(at)) {
            Some(operation) => Err(StoreError::Mismatch(operation.key.clone())),
            None => Ok(()),
        }
    }
}

impl StateStore for RedisStore {
    fn get(&self, keys: Vec<String>) -> Answer<'_, Vec<Option<Item>>> {
        Box::pin(self.read(keys))
    }

    fn apply(&self, operations: Vec<Operation>) -> Answer<'_, ()> {
        Box::pin(self.write(operations))
    }
}

/// The error without the address, which may hold a password.
fn unavailable(error: &RedisError) -> StoreError {
    StoreError::Unavailable(format!("redis: {error}"))
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
