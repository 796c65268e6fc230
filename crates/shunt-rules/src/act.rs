//! What rules want done.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shunt_wire::{
    Name,
    events::{Alert, Window},
};

use crate::spec::On;

/// What a rule wants done beside its alert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Act {
    /// Call the HTTP port of a module.
    Call {
        /// Whom.
        module: Name,
        /// The path, with its query.
        path: String,
        /// GET or POST.
        verb: String,
        /// What is sent; the alert, where it is nothing.
        body: Option<Value>,
    },
    /// Call a direct method of a module on this device.
    Method {
        /// Whose.
        module: Name,
        /// Its name.
        name: String,
        /// Its argument.
        payload: Value,
    },
    /// Change settings of a module: its direct method `setSettings`.
    Set {
        /// Whose.
        module: Name,
        /// Which, and their values; null takes a change back.
        settings: Value,
    },
}

/// What comes out of the rules.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// The result of a window, to be published.
    Window {
        /// The rule.
        rule: Name,
        /// The same for the same window, also after a restart.
        id: String,
        /// Its result.
        window: Window,
    },
    /// An alert.
    Alert {
        /// The rule.
        rule: Name,
        /// The same for the same alert, also after a restart.
        id: String,
        /// Is it to be published? Else it is only shown.
        publish: bool,
        /// What it tells.
        alert: Alert,
        /// What is to be done with it.
        acts: Vec<Act>,
    },
}

/// What an alert says and does, kept for when time alone tells it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Content {
    pub(crate) message: String,
    pub(crate) values: Map<String, Value>,
    pub(crate) acts: Vec<(On, Act)>,
}

// === impl Act ===

impl Act {
    /// In a few words.
    pub fn describe(&self) -> String {
        match self {
            Self::Call { module, path, verb, .. } => format!("call {verb} {path} of {module}"),
            Self::Method { module, name, .. } => format!("call the method {name} of {module}"),
            Self::Set { module, settings } => format!("set {settings} of {module}"),
        }
    }

    /// `call`, `method` or `set`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Call { .. } => "call",
            Self::Method { .. } => "method",
            Self::Set { .. } => "set",
        }
    }
}

// === impl Output ===

impl Output {
    /// The time that it is about, in the time of events.
    pub fn at(&self) -> &str {
        match self {
            Self::Window { window, .. } => &window.end,
            Self::Alert { alert, .. } => &alert.at,
        }
    }
}
