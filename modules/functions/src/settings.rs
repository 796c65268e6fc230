//! What can be set, by environment (`SHUNT_FUNCTIONS_...`) and by twin.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shunt_module::{Problems, Settings};

use crate::{
    fetch::FetchLimits,
    grants::{Grants, Limits},
    name::FunctionName,
    triggers::{self, Trigger},
};

/// Most hosts that may be fetched from.
const HOSTS: usize = 64;
/// The longest token, in characters.
const TOKEN_LIMIT: usize = 1024;
/// The longest address, in bytes.
pub(crate) const URL_LIMIT: usize = 2048;
/// The most milliseconds of a call: a quarter of an hour.
const MOST_TIME_MS: u32 = 900_000;
/// The most memory of a call in MiB: what WebAssembly of 32 bits can have.
const MOST_MEMORY_MB: u32 = 4096;
/// The longest answer in KiB.
const MOST_OUTPUT_KB: u32 = 1024 * 1024;

/// What can be set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FunctionsSettings {
    /// By function: what is installed from here, and what a function may reach and use and is triggered by. It goes
    /// before what an install request says.
    pub functions: BTreeMap<String, FunctionSettings>,
    /// Who may install: over HTTP, or the module twin alone.
    pub installs: Installs,
    /// What a caller of the management routes must send, as `Authorization: Bearer ...` or `X-Shunt-Token`. Empty: on
    /// loopback nothing, and elsewhere there is no management over HTTP.
    pub token: String,
    /// Hosts that an install over HTTP may fetch from, as `functions.example.com` or `host:8080`. None: any where the
    /// module listens on loopback, else none.
    pub fetch_hosts: Vec<String>,
    /// Seconds that fetching a file may take.
    #[schemars(range(min = 1, max = 3_600))]
    pub fetch_s: u32,
    /// Milliseconds that a call may take: where nothing else is said, and the most that an install request may ask for.
    #[schemars(range(min = 1, max = 900_000))]
    pub time_ms: u32,
    /// MiB of memory that a call may have: where nothing else is said, and the most that an install request may ask
    /// for.
    #[schemars(range(min = 1, max = 4_096))]
    pub memory_mb: u32,
    /// KiB that a call may answer: where nothing else is said, and the most that an install request may ask for.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub output_kb: u32,
    /// The largest body of a call in KiB; a larger one is answered 413.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_body_kb: u32,
    /// The largest file of a function in KiB; a larger one is answered 413.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_file_kb: u32,
    /// The largest text of a function in KiB; a larger one is answered 413.
    #[schemars(range(min = 1, max = 16_384))]
    pub max_text_kb: u32,
    /// Most functions that are installed, besides `echo`.
    #[schemars(range(min = 1, max = 1_024))]
    pub max_functions: u32,
    /// Threads that run functions. 0 for as many as there are cores.
    #[schemars(range(min = 0, max = 64))]
    pub workers: u32,
    /// Calls that may wait for a place. One more is answered 503 with `Retry-After`.
    #[schemars(range(min = 1, max = 10_000))]
    pub queue: u32,
    /// The most that one bucket of state may hold, in MiB. All together hold four times as much at most.
    #[schemars(range(min = 1, max = 65_536))]
    pub state_mb: u32,
    /// Lines of the log kept for each function; the oldest give way.
    #[schemars(range(min = 1, max = 100_000))]
    pub log_lines: u32,
}

/// What is said of one function.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FunctionSettings {
    /// Where its file is fetched from; needs `sha256`. Null: it is installed over HTTP.
    pub url: Option<String>,
    /// The digest of its file, as `sha256sum` tells it.
    pub sha256: Option<String>,
    /// What it may reach. Null: what the install request said.
    pub grants: Option<Grants>,
    /// As the setting of that name.
    #[schemars(range(min = 1, max = 900_000))]
    pub time_ms: Option<u32>,
    /// As the setting of that name.
    #[schemars(range(min = 1, max = 4_096))]
    pub memory_mb: Option<u32>,
    /// As the setting of that name.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub output_kb: Option<u32>,
    /// Events that call it: filters as in `shunt/emotion/#`. A single one may be given without the list.
    #[serde(deserialize_with = "triggers::one_or_many")]
    #[schemars(with = "Vec<String>")]
    pub on: Vec<String>,
    /// It is called every so many seconds. Null for never.
    #[schemars(range(min = 0.1, max = 604_800))]
    pub every_s: Option<f64>,
    /// The topic on which its answers to events and intervals become events, as `shunt/label/door` or, for the source
    /// of the event that called it, `shunt/label/+`. Null for none.
    pub publish: Option<String>,
    /// Whether it may be called. Null for yes.
    pub enabled: Option<bool>,
}

/// Who may install.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Installs {
    /// Requests over HTTP, and the module twin.
    Http,
    /// The module twin alone.
    Twin,
}

// === impl FunctionsSettings ===

impl FunctionsSettings {
    /// What is said of this function.
    pub(crate) fn of(&self, name: &FunctionName) -> Option<&FunctionSettings> {
        self.functions.get(name.as_str())
    }

    /// When functions are called without a caller.
    pub(crate) fn triggers(&self) -> BTreeMap<FunctionName, Trigger> {
        // What is in force was checked.
        self.read_triggers(&mut Problems::default())
    }

    fn read_triggers(&self, problems: &mut Problems) -> BTreeMap<FunctionName, Trigger> {
        let read = self.functions.iter().filter_map(|(name, said)| {
            let publish = said.publish.as_deref();
            let trigger = Trigger::read(name, &said.on, said.every_s, publish, problems);
            let enabled = trigger.is_any() && said.enabled != Some(false);
            enabled.then_some((name.parse().ok()?, trigger))
        });
        read.collect()
    }

    /// The limits of a function that asked for these: the settings go before.
    pub(crate) fn limits(&self, name: &FunctionName, asked: Asked) -> Limits {
        let none = FunctionSettings::default();
        let said = self.of(name).unwrap_or(&none);
        let choose = |said: Option<u32>, asked: Option<u32>, usual: u32| {
            // What was asked for once may be more than what is allowed now.
            said.unwrap_or_else(|| asked.map_or(usual, |asked| asked.min(usual)))
        };
        Limits {
            time_ms: choose(said.time_ms, asked.time_ms, self.time_ms),
            memory_bytes: mebibytes(choose(said.memory_mb, asked.memory_mb, self.memory_mb)),
            output_bytes: kibibytes(choose(said.output_kb, asked.output_kb, self.output_kb)),
        }
    }

    /// The most memory that any function may have, in bytes.
    pub(crate) fn most_memory(&self) -> usize {
        let said = self.functions.values().filter_map(|function| function.memory_mb);
        mebibytes(said.fold(self.memory_mb, u32::max))
    }

    /// What fetching a file may take.
    pub(crate) fn fetch_limits(&self) -> FetchLimits {
        FetchLimits { bytes: self.max_file(), time: Duration::from_secs(u64::from(self.fetch_s)) }
    }

    /// What this setting makes of the host: a change of it needs a new one.
    pub(crate) fn host(&self) -> (u32, u32, usize) {
        (self.workers, self.queue, self.most_memory())
    }

    /// The setting for which the host is another than with those.
    pub(crate) fn field_of_host(&self, before: &Self) -> &'static str {
        if self.workers != before.workers {
            "workers"
        } else if self.queue != before.queue {
            "queue"
        } else {
            "memory_mb"
        }
    }

    /// The largest body of a call in bytes.
    pub(crate) fn max_body(&self) -> usize {
        kibibytes(self.max_body_kb)
    }

    /// The largest file of a function in bytes.
    pub(crate) fn max_file(&self) -> usize {
        kibibytes(self.max_file_kb.max(self.max_text_kb))
    }

    fn check_hosts(&self, problems: &mut Problems) {
        if self.fetch_hosts.len() > HOSTS {
            let found = self.fetch_hosts.len();
            problems.note("fetch_hosts", format!("there are {found}, but at most {HOSTS} are taken"));
        }
        for host in &self.fetch_hosts {
            if !crate::grants::is_host(host) {
                problems.note("fetch_hosts", format!("{host:?} is neither a host nor host:port"));
            }
        }
    }

    fn check_numbers(&self, problems: &mut Problems) {
        for (field, value, lowest, highest) in [
            ("fetch_s", self.fetch_s, 1, 3_600),
            ("time_ms", self.time_ms, 1, MOST_TIME_MS),
            ("memory_mb", self.memory_mb, 1, MOST_MEMORY_MB),
            ("output_kb", self.output_kb, 1, MOST_OUTPUT_KB),
            ("max_body_kb", self.max_body_kb, 1, 1_048_576),
            ("max_file_kb", self.max_file_kb, 1, 1_048_576),
            ("max_text_kb", self.max_text_kb, 1, 16_384),
            ("max_functions", self.max_functions, 1, 1_024),
            ("workers", self.workers, 0, 64),
            ("queue", self.queue, 1, 10_000),
            ("state_mb", self.state_mb, 1, 65_536),
            ("log_lines", self.log_lines, 1, 100_000),
        ] {
            check_within(problems, field, value, lowest, highest);
        }
    }
}

impl Default for FunctionsSettings {
    fn default() -> Self {
        Self {
            functions: BTreeMap::new(),
            installs: Installs::Http,
            token: String::new(),
            fetch_hosts: Vec::new(),
            fetch_s: 60,
            time_ms: 5_000,
            memory_mb: 64,
            output_kb: 8_192,
            max_body_kb: 16_384,
            max_file_kb: 16_384,
            max_text_kb: 1_024,
            max_functions: 64,
            workers: 0,
            queue: 64,
            state_mb: 64,
            log_lines: 1_000,
        }
    }
}

impl Settings for FunctionsSettings {
    const MODULE: &'static str = "functions";

    fn check(&self, problems: &mut Problems) {
        if self.functions.len() > self.max_functions as usize {
            let problem =
                format!("there are {}, but max_functions is {}", self.functions.len(), self.max_functions);
            problems.note("functions", problem);
        }
        for (name, function) in &self.functions {
            function.check(name, problems);
        }
        let triggers = self.read_triggers(problems);
        triggers::check(&triggers, problems);
        let sound = self.token.chars().all(|sign| sign.is_ascii_graphic());
        if !sound || self.token.len() > TOKEN_LIMIT {
            let problem =
                format!("it must be at most {TOKEN_LIMIT} letters, digits and signs, without blanks");
            problems.note("token", problem);
        }
        self.check_hosts(problems);
        self.check_numbers(problems);
    }
}

// === impl FunctionSettings ===

impl FunctionSettings {
    /// Address and digest, where it is installed from here.
    pub(crate) fn from_address(&self) -> Option<(&str, String)> {
        Some((self.url.as_deref()?, self.sha256.as_deref()?.to_ascii_lowercase()))
    }

    fn check(&self, name: &str, problems: &mut Problems) {
        let at = |field: &str| format!("functions.{name}.{field}");
        match name.parse::<FunctionName>() {
            Ok(name) if name.is_echo() && (self.url.is_some() || self.sha256.is_some()) => {
                problems.note("functions.echo", "echo is built in and cannot be replaced");
            }
            Ok(name) if name.is_echo() && self.enabled == Some(false) => {
                problems.note("functions.echo.enabled", "echo is always there and cannot be switched off");
            }
            Ok(_) => {}
            Err(error) => problems.note(&format!("functions.{name}"), error.to_string()),
        }
        self.check_source(problems, at);
        for (field, problem) in self.grants.iter().flat_map(Grants::problems) {
            problems.note(&format!("functions.{name}.grants.{field}"), problem);
        }
        for (field, value, highest) in [
            ("time_ms", self.time_ms, MOST_TIME_MS),
            ("memory_mb", self.memory_mb, MOST_MEMORY_MB),
            ("output_kb", self.output_kb, MOST_OUTPUT_KB),
        ] {
            if let Some(value) = value {
                check_within(problems, &at(field), value, 1, highest);
            }
        }
    }

    fn check_source(&self, problems: &mut Problems, at: impl Fn(&str) -> String) {
        match (&self.url, &self.sha256) {
            (Some(_), None) => problems.note(&at("sha256"), "an address needs the digest of its file"),
            (None, Some(_)) => problems.note(&at("url"), "a digest needs the address of the file"),
            _ => {}
        }
        if let Some(url) = &self.url {
            let known = reqwest::Url::parse(url).is_ok_and(|url| {
                // Settings are shown and logged: nothing that is secret may stand in an address.
                matches!(url.scheme(), "http" | "https")
                    && url.username().is_empty()
                    && url.password().is_none()
            });
            if !known || url.len() > URL_LIMIT {
                let problem = format!(
                    "it must be an http or https address without a password, of at most {URL_LIMIT} bytes"
                );
                problems.note(&at("url"), problem);
            }
        }
        if let Some(digest) = &self.sha256
            && !is_digest(digest)
        {
            problems.note(&at("sha256"), "it must be 64 hexadecimal digits, as sha256sum tells them");
        }
    }
}

/// The limits that an install request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    pub(crate) time_ms: Option<u32>,
    pub(crate) memory_mb: Option<u32>,
    pub(crate) output_kb: Option<u32>,
}

// === impl Asked ===

impl Asked {
    /// What is wrong with it: an install request may not ask for more than the settings give.
    pub(crate) fn problem(self, settings: &FunctionsSettings) -> Option<String> {
        [
            ("time_ms", self.time_ms, settings.time_ms),
            ("memory_mb", self.memory_mb, settings.memory_mb),
            ("output_kb", self.output_kb, settings.output_kb),
        ]
        .into_iter()
        .find_map(|(field, asked, most)| {
            let asked = asked?;
            (asked == 0 || asked > most).then(|| {
                format!("{field} is {asked}, but must be from 1 to {most}, which is the setting {field}")
            })
        })
    }
}

/// Is it a digest as `sha256sum` tells it?
pub(crate) fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|sign| sign.is_ascii_hexdigit())
}

fn kibibytes(number: u32) -> usize {
    (number as usize).saturating_mul(1024)
}

fn mebibytes(number: u32) -> usize {
    kibibytes(number).saturating_mul(1024)
}

fn check_within(problems: &mut Problems, field: &str, value: u32, lowest: u32, highest: u32) {
    if !(lowest..=highest).contains(&value) {
        problems.note(field, format!("it is {value}, but must be from {lowest} to {highest}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(function: &str, said: &str) -> Vec<String> {
        let text = format!("{{\"functions\": {{\"{function}\": {said}}}}}");
        let settings: FunctionsSettings = serde_json::from_str(&text).unwrap();
        let mut problems = Problems::default();
        settings.check(&mut problems);
        problems.iter().map(|(field, problem)| format!("{field}: {problem}")).collect()
    }

    #[test]
    fn what_cannot_be_said_of_a_function_is_told_at_its_field() {
        let digest = "0".repeat(64);
        let at = |url: &str| format!("{{\"url\": \"{url}\", \"sha256\": \"{digest}\"}}");
        assert!(problems("mean", &at("https://site/mean.wasm")).is_empty());
        for (function, said, expected) in [
            ("mean", at("http://user:word@site/mean.wasm"), "functions.mean.url: "),
            ("mean", at("http://user@site/mean.wasm"), "functions.mean.url: "),
            ("mean", at("file:///mean.wasm"), "functions.mean.url: "),
            ("echo", "{\"enabled\": false}".to_owned(), "functions.echo.enabled: echo is always there"),
            (
                "mean",
                "{\"grants\": {\"models\": [\"a\\u0007\"]}}".to_owned(),
                "functions.mean.grants.models: ",
            ),
            ("mean", "{\"grants\": {\"hosts\": [\"*.site\"]}}".to_owned(), "functions.mean.grants.hosts: "),
        ] {
            let found = problems(function, &said);
            assert!(found.len() == 1 && found[0].starts_with(expected), "{said}: {found:?}");
            assert!(!found[0].contains("word@"), "{found:?}");
        }
    }
}
