//! The events that the second generation's services tell, and the state that they save: in our durable buckets.
//!
//! The newest [`KEPT`] events are kept, in the bucket `events-service`. The bucket `statestore` has, by the address of
//! each caller, the milliseconds of its last call. No function is granted these buckets.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::buckets::{Bucket, Buckets, Condition, Operation, StateError};

/// The names of its buckets. No function may be granted them: what one writes there would be taken for ours.
pub(crate) const BUCKETS: [&str; 2] = ["events-service", "statestore"];
/// Events that are kept; the oldest goes for a new one. They fit into one list of keys.
const KEPT: u64 = 500;
/// What the keys of events begin with.
const PREFIX: &str = "event-";

/// Events and callers. Clones share it.
#[derive(Clone)]
pub(crate) struct Ledger {
    events: Bucket,
    callers: Bucket,
    /// The number of the last event, once it was looked up. Held while one is written, so that numbers are not given twice.
    last: Arc<Mutex<Option<u64>>>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// Milliseconds since 1970.
    pub(super) event_ts: i64,
    /// `grayscale` or `classify`.
    pub(super) op_type: String,
    /// Bytes of the picture.
    pub(super) input_size: u64,
}

// === impl Ledger ===

impl Ledger {
    pub(crate) fn new(buckets: &Buckets) -> Self {
        let [events, callers] = BUCKETS.map(|name| buckets.bucket(name));
        Self { events, callers, last: Arc::default() }
    }

    /// Notes an event, and a caller with the time. On disk when it returns.
    pub(super) async fn note(&self, note: Note, caller: Option<(String, i64)>) -> Result<(), StateError> {
        let last_call = async {
            match caller {
                Some((caller, at)) => {
                    self.callers.apply(vec![set(caller, at.to_string().into_bytes())]).await.map(drop)
                }
                None => Ok(()),
            }
        };
        // Both share one writing to disk.
        let (event, caller) = tokio::join!(self.note_event(&note), last_call);
        event.and(caller)
    }

    async fn note_event(&self, note: &Note) -> Result<(), StateError> {
        let mut last = self.last.lock().await;
        let number = match *last {
            Some(number) => number,
            None => self.numbers().await?.last().copied().unwrap_or(0),
        };
        let number = number
            .checked_add(1)
            .ok_or_else(|| StateError::Number("there is no number left for an event".to_owned()))?;
        let value = serde_json::to_vec(note).map_err(|error| StateError::Unavailable(error.to_string()))?;
        let mut operations = vec![set(key(number), value)];
        if number > KEPT {
            operations.push(Operation { key: key(number - KEPT), condition: Condition::Any, value: None });
        }
        // Before it is written: a caller that goes meanwhile does not take it back, so its number is not given again.
        *last = Some(number);
        self.events.apply(operations).await.map(drop)
    }

    /// All events, the oldest first, each with its number as `id`.
    pub(super) async fn list(&self) -> Result<Value, StateError> {
        let numbers = self.numbers().await?;
        let entries = self.events.get(numbers.iter().map(|number| key(*number)).collect()).await?;
        let events = numbers.into_iter().zip(entries).filter_map(|(id, entry)| {
            let Note { event_ts, op_type, input_size } = serde_json::from_slice(&entry?.value).ok()?;
            Some(json!({"id": id, "event_ts": event_ts, "op_type": op_type, "input_size": input_size}))
        });
        Ok(events.collect())
    }

    async fn numbers(&self) -> Result<Vec<u64>, StateError> {
        let keys = self.events.keys(PREFIX.to_owned(), None).await?;
        Ok(keys.iter().filter_map(|key| key.strip_prefix(PREFIX)?.parse().ok()).collect())
    }
}

fn set(key: String, value: Vec<u8>) -> Operation {
    Operation { key, condition: Condition::Any, value: Some(value) }
}

/// In the order of the numbers.
fn key(number: u64) -> String {
    format!("{PREFIX}{number:020}")
}

#[cfg(test)]
mod tests {
    use shunt_module::Health;

    use super::*;

    fn note(size: u64) -> Note {
        Note { event_ts: 1_700_000_000_000, op_type: "classify".to_owned(), input_size: size }
    }

    #[tokio::test]
    async fn events_are_numbered_found_again_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let buckets = Buckets::new(folder.path().join("state.redb"), 1 << 20, Health::new());
        let ledger = Ledger::new(&buckets);
        assert_eq!(ledger.list().await.unwrap(), json!([]));
        ledger.note(note(7), Some(("10.0.0.1".to_owned(), 5))).await.unwrap();
        ledger.note(note(8), None).await.unwrap();
        // One of a later life, which looks for the last number.
        let ledger = Ledger::new(&buckets);
        let expected = json!([
            {"id": 1, "event_ts": 1_700_000_000_000_i64, "op_type": "classify", "input_size": 7},
            {"id": 2, "event_ts": 1_700_000_000_000_i64, "op_type": "classify", "input_size": 8},
        ]);
        assert_eq!(ledger.list().await.unwrap(), expected);
        let caller = buckets.bucket("statestore").get(vec!["10.0.0.1".to_owned()]).await.unwrap();
        assert_eq!(caller[0].as_ref().unwrap().value, b"5");
        // As if many had come.
        *ledger.last.lock().await = Some(KEPT);
        ledger.note(note(9), None).await.unwrap();
        let ids: Vec<_> = ledger
            .list()
            .await
            .unwrap()
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["id"].clone())
            .collect();
        assert_eq!(ids, [json!(2), json!(KEPT + 1)]);
    }
}
