//! What a function may reach, and how much it may use.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shunt_wire::{Topic, TopicFilter};

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
pub struct Limits {
    /// Milliseconds from its begin to its end, on the clock.
    pub time_ms: u32,
    /// Bytes of all its linear memories together.
    pub memory_bytes: usize,
    /// Bytes that it may answer.
    pub output_bytes: usize,
}
