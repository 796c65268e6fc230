//! What a module tells of itself in the reported twin, beside the verdicts on its settings.

use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::watch;

/// Facts for the reported twin: which model serves, what was measured. IoT Plug and Play calls them read-only
/// properties; each is a plain value, where a setting has `value`, `ac`, `av` and `ad`.
///
/// Only the newest value of a fact is reported, in one report with the settings' verdicts, as soon as the hub is
/// there and has told the module its twin; a change that makes no difference is not sent. A report is a message to
/// the cloud: tell what changes seldom, or once a minute at most. All facts together may have 8 KiB; one that
/// edgeHub would not take, or that has the name of a setting, is left out with a warning.
///
/// Clones share the facts.
///
/// ```
/// use serde_json::json;
/// use shunt_module::Facts;
///
/// let facts = Facts::default();
/// facts.set("serving", json!({"model": "ferplus-small", "backend": "tract"}));
/// assert_eq!(facts.get()["serving"]["backend"], "tract");
/// facts.remove("serving");
/// assert!(facts.get().is_empty());
/// ```
#[derive(Debug, Clone)]
pub struct Facts(Arc<watch::Sender<Map<String, Value>>>);

// === impl Facts ===

impl Facts {
    /// From now on this is so.
    pub fn set(&self, name: &str, value: Value) {
        self.0.send_if_modified(|facts| {
            let same = facts.get(name) == Some(&value);
            if !same {
                facts.insert(name.to_owned(), value);
            }
            !same
        });
    }

    /// The twin has nothing of this name any more.
    pub fn remove(&self, name: &str) {
        self.0.send_if_modified(|facts| facts.remove(name).is_some());
    }

    /// All of them.
    pub fn get(&self) -> Map<String, Value> {
        self.0.borrow().clone()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Map<String, Value>> {
        self.0.subscribe()
    }
}

impl Default for Facts {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Map::new())))
    }
}
