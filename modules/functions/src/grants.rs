//! What a function may reach, and how much it may use.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shunt_wire::{Topic, TopicFilter};

use crate::{dapr_wasm::BUCKETS, name::FunctionName, reach};

/// What a function may reach. Nothing by default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Grants {
    /// The bucket that it may keep state in, by its name. Null for none.
    pub state: Option<String>,
    /// The installed state store (a component that exports `wasi:keyvalue`) that this bucket is opened in. Null for the
    /// module's own durable store.
    pub store: Option<String>,
    /// Topics that it may publish to: filters as in `shunt/label/door` or `shunt/label/+`.
    pub publish: Vec<String>,
    /// Models that it may use, by their names in `models/catalog.toml`.
    pub models: Vec<String>,
    /// Hosts that it may call over HTTP, as `api.example.com` (any port) or `api.example.com:8443`.
    pub hosts: Vec<String>,
}

// === impl Grants ===

impl Grants {
    /// May it publish on this topic? Only a filter that can be read grants anything.
    pub(crate) fn may_publish(&self, topic: &Topic) -> bool {
        let topic = topic.to_string();
        let mut filters = self.publish.iter().filter_map(|filter| filter.parse::<TopicFilter>().ok());
        filters.any(|filter| filter.matches(&topic))
    }
}

/// How much one call may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Milliseconds from its begin to its end, on the clock.
    pub(crate) time_ms: u32,
    /// Bytes of all its linear memories together.
    pub(crate) memory_bytes: usize,
    /// Bytes that it may answer.
    pub(crate) output_bytes: usize,
}

/// Most topics, models and hosts of one function, of each.
const MOST: usize = 32;
/// The longest name of a bucket, store, model or host, in bytes.
const LONGEST: usize = 255;

// === impl Grants ===

impl Grants {
    /// What is wrong with it: the field, and a sentence.
    pub(crate) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if let Some(bucket) = &self.state
            && (bucket.is_empty() || bucket.len() > LONGEST || bucket.chars().any(char::is_control))
        {
            problems
                .push(("state", format!("a bucket's name has 1 to {LONGEST} bytes and no control signs")));
        }
        if let Some(bucket) = &self.state
            && BUCKETS.contains(&bucket.as_str())
        {
            problems.push(("state", format!("the bucket {bucket:?} is the module's own")));
        }
        if let Some(store) = &self.store
            && let Err(error) = store.parse::<FunctionName>()
        {
            problems.push(("store", error.to_string()));
        }
        for (field, list) in [("publish", &self.publish), ("models", &self.models), ("hosts", &self.hosts)] {
            if list.len() > MOST {
                problems.push((field, format!("there are {}, but at most {MOST} are taken", list.len())));
            }
            if list.iter().any(|entry| entry.is_empty() || entry.len() > LONGEST) {
                problems.push((field, format!("each has 1 to {LONGEST} bytes")));
            }
        }
        if self.models.iter().any(|model| model.chars().any(char::is_control)) {
            problems.push(("models", "a model's name has no control signs".to_owned()));
        }
        for filter in &self.publish {
            if let Err(error) = filter.parse::<TopicFilter>() {
                problems.push(("publish", error.to_string()));
            }
        }
        for host in self.hosts.iter().filter(|host| !is_host(host)) {
            problems.push(("hosts", format!("{host:?} is neither a host nor host:port")));
        }
        problems
    }
}

/// Is it a host, or a host and a port, and nothing more?
pub(crate) fn is_host(text: &str) -> bool {
    // The one who asks the host reads it so.
    reach::is_host(text)
}
