//! What can be set, by environment (`SHUNT_BUS_...`) and by twin.
//!
//! `SHUNT_BUS_URL`, `SHUNT_BUS_CA`, `SHUNT_BUS_CERT` and `SHUNT_BUS_KEY` are no fields: every module reads them.

use std::{collections::BTreeMap, net::IpAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shunt_module::{Problems, Settings};
use shunt_wire::{Kind, Name};

use crate::access::is_ours;

/// What can be set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BusSettings {
    /// The IP address on which the broker takes TLS connections. A change restarts the broker.
    pub address: String,
    /// The port for TLS, where every client proves who it is with a certificate; 0: none. A change restarts the
    /// broker.
    pub tls_port: u16,
    /// The name of the broker in its certificate, beside the module's own: what stands in the clients' addresses.
    /// Null: `localhost` where the address is a loopback one, else the module's name.
    pub host: Option<String>,
    /// A port without TLS, where nobody proves anything: whoever reaches it may do what `plain` says, and may take
    /// the place of any client by its name. 0: none. A change restarts the broker.
    pub plain_port: u16,
    /// The IP address on which the broker takes connections without TLS. A change restarts the broker.
    pub plain_address: String,
    /// What clients without TLS may do, whatever user name they send.
    pub plain: Grant,
    /// What modules may do, by name, in place of what this version of Shunt grants them; other modules may read
    /// `shunt/#` and publish nothing but their presence and dead letters. Setting this field replaces the whole map.
    pub modules: BTreeMap<String, Grant>,
    /// Most clients at once on each port. A change restarts the broker.
    #[schemars(range(min = 8, max = 10_000))]
    pub max_connections: u32,
    /// Most assured messages that wait for one client; further ones are dropped.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_queued_messages: u32,
    /// Most bytes of assured messages that wait for one client; further ones are dropped.
    #[schemars(range(min = 1_048_576, max = 1_073_741_824))]
    pub max_queued_bytes: u32,
    /// Most assured messages sent to one client and not acknowledged yet.
    #[schemars(range(min = 1, max = 10_000))]
    pub max_inflight_messages: u16,
    /// The largest packet in bytes; who sends a larger one is cut off. A change restarts the broker.
    #[schemars(range(min = 262_144, max = 67_108_864))]
    pub max_packet_bytes: u32,
    /// Most memory in bytes that the broker takes; who sends what does not fit is cut off.
    #[schemars(range(min = 16_777_216, max = 4_294_967_295_u32))]
    pub memory_limit: u32,
    /// Keep on disk what assured subscribers have not acknowledged, so that it survives a restart of the broker.
    /// A change restarts the broker.
    pub persistence: bool,
    /// The Redis that the bridge copies from and to: `redis://[user:password@]host:port[/db]`. Empty: no bridge.
    pub bridge_url: String,
    /// What the bridge copies: `MQTT filter -> Redis channel` or the other way round, as `airq/# -> airq:*`. Where
    /// `tls_port` is 0, every client may publish and read the topics that they name: nobody can tell it from the bridge.
    pub bridge_rules: Vec<String>,
}

/// What a client of the bus may do.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Grant {
    /// What it may publish: a kind of events (`label`, of any source), or an MQTT topic filter (`shunt/label/door`,
    /// `airq/#`). `#` is everything, also in the name of others.
    pub publish: Vec<String>,
    /// Which topics reach it, as MQTT topic filters.
    pub subscribe: Vec<String>,
}

/// Most entries of `modules`, and most of one list in it.
const MAX_ENTRIES: usize = 64;
/// The longest topic filter in bytes.
const MAX_FILTER: usize = 256;
/// The kinds that each module publishes under its own name only.
const OWN_KINDS: [Kind; 2] = [Kind::PRESENCE, Kind::DEAD_LETTER];

// === impl BusSettings ===

impl BusSettings {
    /// The name that stands in the broker's certificate beside the module's own, and in its clients' addresses.
    pub fn host(&self, module: &Name) -> String {
        let loopback = self.address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        match &self.host {
            Some(host) => host.clone(),
            None if loopback => "localhost".to_owned(),
            None => module.to_string(),
        }
    }
}

impl Default for BusSettings {
    fn default() -> Self {
        Self {
            address: "0.0.0.0".to_owned(),
            tls_port: 8883,
            host: None,
            plain_port: 0,
            plain_address: "127.0.0.1".to_owned(),
            plain: Grant::default(),
            modules: BTreeMap::new(),
            max_connections: 256,
            max_queued_messages: 10_000,
            max_queued_bytes: 64 << 20,
            max_inflight_messages: 64,
            // A frame as JPEG fits well; pixels travel in shared memory.
            max_packet_bytes: 8 << 20,
            memory_limit: 256 << 20,
            persistence: false,
            bridge_url: String::new(),
            bridge_rules: Vec::new(),
        }
    }
}

impl Settings for BusSettings {
    const MODULE: &'static str = "bus";

    fn check(&self, problems: &mut Problems) {
        for (field, address) in [("address", &self.address), ("plain_address", &self.plain_address)] {
            if address.parse::<IpAddr>().is_err() {
                problems
                    .note(field, format!("it is {address:?}, but must be an IP address, as 0.0.0.0 for all"));
            }
        }
        if let Some(host) = &self.host
            && (host.is_empty() || host.len() > 253 || !host.chars().all(is_host_character))
        {
            problems.note("host", format!("it is {host:?}, but must be a host name or an IP address"));
        }
        self.check_ports(problems);
        let is_module = |name: &str| is_ours(name) || self.modules.contains_key(name);
        let speaks_for_others =
            |topic: &str, speaker: Option<&str>| speaks_for_others(topic, speaker, is_module);
        self.plain.check("plain", |topic| speaks_for_others(topic, None), problems);
        if self.modules.len() > MAX_ENTRIES {
            problems.note(
                "modules",
                format!("{} modules are more than the {MAX_ENTRIES} allowed", self.modules.len()),
            );
        }
        for (module, grant) in &self.modules {
            let field = format!("modules.{module}");
            if let Err(error) = module.parse::<Name>() {
                problems.note(&field, error.to_string());
            }
            grant.check(&field, |topic| speaks_for_others(topic, Some(module)), problems);
        }
        let mut range = |field: &str, value: u64, (least, most): (u64, u64)| {
            if !(least..=most).contains(&value) {
                problems.note(field, format!("it is {value}, but must be from {least} to {most}"));
            }
        };
        range("max_connections", self.max_connections.into(), (8, 10_000));
        range("max_queued_messages", self.max_queued_messages.into(), (1, 1_000_000));
        range("max_queued_bytes", self.max_queued_bytes.into(), (1 << 20, 1 << 30));
        range("max_inflight_messages", self.max_inflight_messages.into(), (1, 10_000));
        range("max_packet_bytes", self.max_packet_bytes.into(), (256 << 10, 64 << 20));
        range("memory_limit", self.memory_limit.into(), (16 << 20, u32::MAX.into()));
        crate::bridge::check(self, problems);
    }
}

impl BusSettings {
    fn check_ports(&self, problems: &mut Problems) {
        if self.tls_port == 0 && self.plain_port == 0 {
            problems.note("tls_port", "it is 0, but without a plain_port nobody could connect");
        }
        if self.plain_port == 0 {
            return;
        }
        if self.plain_port == self.tls_port {
            problems.note("plain_port", "it is the tls_port, but must be another");
        }
        if self.plain.publish.is_empty() && self.plain.subscribe.is_empty() {
            problems.note(
                "plain_port",
                "it is set, but plain lets its clients do nothing: say there what they may do",
            );
        }
    }
}

// === impl Grant ===

impl Grant {
    /// The topics that it may publish to.
    pub(crate) fn topics(&self) -> impl Iterator<Item = String> {
        self.publish.iter().map(|entry| match entry.parse::<Kind>() {
            Ok(kind) => format!("shunt/{kind}/+"),
            Err(_) => entry.clone(),
        })
    }

    /// `forges`: publishing on this topic would be to speak for others.
    fn check(&self, field: &str, forges: impl Fn(&str) -> bool, problems: &mut Problems) {
        for topic in self.topics().filter(|topic| forges(topic)) {
            let rule = "lets it tell presence or dead letters of other modules; shunt/# is everything";
            problems.note(&format!("{field}.publish"), format!("{topic:?} {rule}"));
        }
        for (list, entries) in [("publish", &self.publish), ("subscribe", &self.subscribe)] {
            let field = format!("{field}.{list}");
            if entries.len() > MAX_ENTRIES {
                problems.note(
                    &field,
                    format!("{} entries are more than the {MAX_ENTRIES} allowed", entries.len()),
                );
            }
            for entry in entries {
                let is_kind = list == "publish" && entry.parse::<Kind>().is_ok();
                if !is_kind && let Err(rule) = check_filter(entry) {
                    problems.note(&field, rule);
                }
            }
        }
    }
}

/// Does this filter reach presence or dead letters of others than the speaker? `#` and `shunt/#` say openly that they
/// are everything, and a name that is no module's (`shunt/+/shop`) is an application's.
fn speaks_for_others(filter: &str, speaker: Option<&str>, is_module: impl Fn(&str) -> bool) -> bool {
    let levels: Vec<_> = filter.split('/').collect();
    let own = |kind: &str| OWN_KINDS.iter().any(|own| own.as_str() == kind);
    match *levels.as_slice() {
        ["+", "#"] => true,
        ["shunt" | "+", kind, "+" | "#"] | ["shunt" | "+", kind, "+", "#"] => kind == "+" || own(kind),
        ["shunt" | "+", kind, name] | ["shunt" | "+", kind, name, "#"] if speaker != Some(name) => {
            (own(kind) && (speaker.is_some() || is_module(name))) || (kind == "+" && is_module(name))
        }
        _ => false,
    }
}

fn is_host_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '-' | '.' | '_' | ':')
}

/// What stands in a line of the broker's access file may not break out of it, nor reach the broker's own topics.
pub(crate) fn check_filter(filter: &str) -> Result<(), String> {
    let rule = if filter.is_empty() || filter.len() > MAX_FILTER {
        "must have 1 to 256 bytes"
    } else if filter.contains(|c: char| c.is_whitespace() || c.is_control()) {
        "may not hold blanks or control characters"
    } else if filter.starts_with('$') {
        "may not begin with '$': these are the broker's own topics"
    } else if !well_formed(filter) {
        "is no MQTT topic filter: '+' stands for one whole level, '#' for the rest, at the end"
    } else {
        return Ok(());
    };
    Err(format!("{filter:?} {rule}"))
}

fn well_formed(filter: &str) -> bool {
    let levels: Vec<_> = filter.split('/').collect();
    levels.iter().enumerate().all(|(index, level)| match *level {
        "+" => true,
        "#" => index + 1 == levels.len(),
        level => !level.contains(['+', '#']),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(settings: &BusSettings) -> Vec<String> {
        let mut problems = Problems::default();
        settings.check(&mut problems);
        problems.iter().map(|(field, problem)| format!("{field}: {problem}")).collect()
    }

    fn grant(publish: &[&str], subscribe: &[&str]) -> Grant {
        let list = |entries: &[&str]| entries.iter().map(|entry| (*entry).to_owned()).collect();
        Grant { publish: list(publish), subscribe: list(subscribe) }
    }

    #[test]
    fn the_defaults_can_be_used() {
        assert_eq!(problems(&BusSettings::default()), Vec::<String>::new());
    }

    #[test]
    fn every_bad_field_is_named() {
        let settings = BusSettings {
            address: "bus".to_owned(),
            host: Some("a b".to_owned()),
            plain_port: 8883,
            max_connections: 1,
            max_queued_bytes: 1,
            max_packet_bytes: 1,
            memory_limit: 1,
            ..BusSettings::default()
        };
        let problems = problems(&settings);
        for field in [
            "address",
            "host",
            "plain_port",
            "max_connections",
            "max_queued_bytes",
            "max_packet_bytes",
            "memory_limit",
        ] {
            assert!(
                problems.iter().any(|problem| problem.starts_with(&format!("{field}: "))),
                "{field}: {problems:?}"
            );
        }
        let nothing = BusSettings { tls_port: 0, ..BusSettings::default() };
        assert!(super::tests::problems(&nothing)[0].contains("nobody could connect"));
    }

    #[test]
    fn an_open_port_that_lets_nobody_do_anything_is_refused() {
        let settings = BusSettings { plain_port: 1883, ..BusSettings::default() };
        assert!(problems(&settings)[0].contains("do nothing"), "{:?}", problems(&settings));
        let settings = BusSettings { plain: grant(&[], &["shunt/#"]), ..settings };
        assert_eq!(problems(&settings), Vec::<String>::new());
    }

    #[test]
    fn grants_that_would_break_the_access_file_are_refused() {
        for bad in
            ["", "a b", "label\ntopic write #", "$SYS/#", "shunt/#/x", "shunt/la+bel/x", "a#", "presence"]
        {
            let modules = BTreeMap::from([("airq".to_owned(), grant(&[bad], &[]))]);
            let settings = BusSettings { modules, ..BusSettings::default() };
            let problems = problems(&settings);
            assert_eq!(problems.len(), 1, "{bad:?}: {problems:?}");
            assert!(problems[0].starts_with("modules.airq.publish: "), "{problems:?}");
        }
        let modules =
            BTreeMap::from([("a b".to_owned(), grant(&["label", "airq/#", "shunt/label/+"], &["#"]))]);
        let settings = BusSettings { modules, ..BusSettings::default() };
        assert!(problems(&settings)[0].starts_with("modules.a b: "), "{:?}", problems(&settings));
    }

    #[test]
    fn nobody_is_granted_to_speak_for_another_module() {
        let check = |publish: &str| {
            let modules = BTreeMap::from([
                ("airq".to_owned(), grant(&[publish], &[])),
                ("door".to_owned(), Grant::default()),
            ]);
            problems(&BusSettings { modules, ..BusSettings::default() })
        };
        for bad in [
            "presence",
            "dead-letter",
            "shunt/presence/+",
            "shunt/presence/#",
            "shunt/presence/relay",
            "shunt/dead-letter/relay/#",
            "shunt/presence/anybody",
            "shunt/+/relay",
            "shunt/+/door",
            "shunt/+/+",
            "shunt/+/#",
            "+/presence/door",
            "+/#",
            "+/+/+/#",
        ] {
            assert!(check(bad).iter().any(|problem| problem.contains("of other modules")), "{bad:?}");
        }
        for good in [
            "label",
            "shunt/label/+",
            "shunt/label/relay",
            "shunt/+/airq",
            "shunt/presence/airq",
            "shunt/+/shop",
            "shunt/#",
            "#",
            "airq/#",
            "airq/presence/relay",
        ] {
            assert_eq!(check(good), Vec::<String>::new(), "{good:?}");
        }
        let plain = |publish: &str| {
            let plain = grant(&[publish], &[]);
            problems(&BusSettings { plain_port: 1883, plain, ..BusSettings::default() })
        };
        assert_eq!(plain("shunt/presence/leaf"), Vec::<String>::new());
        assert!(plain("shunt/presence/relay")[0].starts_with("plain.publish: "));
    }

    #[test]
    fn a_kind_is_granted_for_all_sources() {
        let topics: Vec<_> = grant(&["label", "shunt/window/rain", "airq/#"], &[]).topics().collect();
        assert_eq!(topics, ["shunt/label/+", "shunt/window/rain", "airq/#"]);
    }

    #[test]
    fn the_name_in_the_certificate_is_what_clients_call() {
        let settings = BusSettings::default();
        assert_eq!(settings.host(&Name::from_static("bus")), "bus");
        let settings = BusSettings { address: "127.0.0.1".to_owned(), ..settings };
        assert_eq!(settings.host(&Name::from_static("bus")), "localhost");
        let settings = BusSettings { host: Some("edge-1".to_owned()), ..settings };
        assert_eq!(settings.host(&Name::from_static("bus")), "edge-1");
    }
}
