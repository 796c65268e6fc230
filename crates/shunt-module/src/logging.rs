//! Logs: JSON in containers, for humans on a terminal; the level changes while the module runs.

use std::{collections::BTreeMap, io::IsTerminal, sync::Arc};

use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::{BadVariable, recent::Recent};

const DEFAULT: &str = "info";

/// The way to change the log level; without effect where no log was set up, as in tests.
#[derive(Clone, Default)]
pub(crate) struct LogLevel {
    handle: Option<Arc<reload::Handle<EnvFilter, Registry>>>,
    recent: Recent,
}

/// Why the log level was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogLevelError {
    #[error(
        "the level {level:?} is not understood ({reason}); allowed are error, warn, info, debug, trace, or a list as in info,relay=debug"
    )]
    Filter { level: String, reason: String },
    #[error("this process has no log whose level could be changed")]
    NoLog,
}

// === impl LogLevel ===

impl LogLevel {
    pub(crate) fn set(&self, level: &str) -> Result<(), LogLevelError> {
        let filter = filter(level)?;
        let handle = self.handle.as_ref().ok_or(LogLevelError::NoLog)?;
        handle.reload(filter).map_err(|_| LogLevelError::NoLog)
    }

    /// The last warnings and errors, the oldest first.
    pub(crate) fn recent(&self) -> Vec<String> {
        self.recent.lines()
    }
}

impl std::fmt::Debug for LogLevel {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("LogLevel")
    }
}

fn filter(level: &str) -> Result<EnvFilter, LogLevelError> {
    // A lone word that is no level would be taken for the name of a module, and silence everything.
    let lone_word = !level.contains(['=', ',']) && level.parse::<tracing::Level>().is_err() && level != "off";
    if lone_word {
        let reason = "it is no level".to_owned();
        return Err(LogLevelError::Filter { level: level.to_owned(), reason });
    }
    EnvFilter::try_new(level)
        .map_err(|error| LogLevelError::Filter { level: level.to_owned(), reason: error.to_string() })
}

/// Sets the log up from `SHUNT_LOG` (else IoT Edge's `RuntimeLogLevel`) and `SHUNT_LOG_FORMAT`. Always sets up one,
/// so that what is wrong with the variables can be said in it.
pub(crate) fn start(environment: &BTreeMap<String, String>) -> (LogLevel, Vec<BadVariable>) {
    let mut bad = Vec::new();
    let get = |name: &str| environment.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let filter = match get("SHUNT_LOG") {
        Some(text) => filter(text).unwrap_or_else(|error| {
            let (variable, value) = ("SHUNT_LOG".to_owned(), text.to_owned());
            bad.push(BadVariable { variable, value, rule: error.to_string() });
            EnvFilter::new(DEFAULT)
        }),
        // A hint only: an unknown word there is not our user's mistake.
        None => EnvFilter::new(match get("RuntimeLogLevel").map(str::to_ascii_lowercase).as_deref() {
            Some("fatal" | "error") => "error",
            Some("warning") => "warn",
            Some("debug") => "debug",
            Some("verbose") => "trace",
            _ => DEFAULT,
        }),
    };
    let json = match get("SHUNT_LOG_FORMAT") {
        Some("json") => true,
        Some("human") => false,
        None => !std::io::stderr().is_terminal(),
        Some(other) => {
            let (variable, value) = ("SHUNT_LOG_FORMAT".to_owned(), other.to_owned());
            bad.push(BadVariable { variable, value, rule: "allowed are json and human".to_owned() });
            true
        }
    };
    let (filter, handle) = reload::Layer::new(filter);
    let recent = Recent::default();
    let registry = tracing_subscriber::registry().with(filter).with(recent.clone());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let started = if json {
        registry.with(lines.json().flatten_event(true)).try_init()
    } else {
        registry.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init()
    };
    // A log is there already: the process set up its own.
    let handle = started.is_ok().then(|| Arc::new(handle));
    let level = LogLevel { handle, recent };
    (level, bad)
}
