//! The bridge between this broker and a Redis.

use std::{fmt, sync::Arc, time::Duration};

use shunt_bus::{
    BusState, TlsFrom,
    bridge::{Bridge, BridgeError, BridgeOptions},
};
use shunt_module::{Health, Problems};
use shunt_wire::Name;
use tokio_util::task::AbortOnDropHandle;

use crate::{BusSettings, Grant, certificate::OwnTls, settings::check_filter, tally::Tally};

/// The part of the module's health.
const PART: &str = "bridge";
/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What makes one bridge differ from another.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    broker: String,
    redis: String,
    rules: Vec<String>,
}

/// A bridge that copies; it ends with this value.
#[derive(Debug)]
pub(crate) struct Running {
    plan: Plan,
    _task: AbortOnDropHandle<()>,
}

/// What is wrong with the settings of the bridge.
pub(crate) fn check(settings: &BusSettings, problems: &mut Problems) {
    let Some(plan) = Plan::new("mqtt://localhost", settings) else {
        if !settings.bridge_rules.is_empty() {
            problems.note("bridge_url", "it is empty, but there are bridge_rules");
        }
        return;
    };
    match plan.options().check() {
        Ok(()) => {}
        Err(error @ (BridgeError::NoRules | BridgeError::Rule(_))) => {
            problems.note("bridge_rules", error.to_string());
        }
        Err(error) => problems.note("bridge_url", error.to_string()),
    }
}

/// What the bridge may do at this broker: what its rules name. The Redis side of a rule is granted too; as an MQTT
/// topic it is nobody's.
pub(crate) fn grant(settings: &BusSettings) -> Grant {
    let sides = settings.bridge_rules.iter().flat_map(|rule| rule.split("->")).map(str::trim);
    let sides: Vec<_> = sides.filter(|side| check_filter(side).is_ok()).map(ToOwned::to_owned).collect();
    Grant { publish: sides.clone(), subscribe: sides }
}

// === impl Plan ===

impl Plan {
    /// The bridge that the settings want to the broker at this address; nothing where they want none.
    pub(crate) fn new(broker: &str, settings: &BusSettings) -> Option<Self> {
        let (broker, redis) = (broker.to_owned(), settings.bridge_url.clone());
        (!redis.is_empty()).then(|| Self { broker, redis, rules: settings.bridge_rules.clone() })
    }

    fn options(&self) -> BridgeOptions {
        let client_id = Name::from_static("bus-bridge");
        BridgeOptions { client_id, ..BridgeOptions::new(&self.broker, &self.redis, self.rules.clone()) }
    }
}

impl fmt::Debug for Plan {
    /// Without the addresses: there may be a password in them.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Plan").field("rules", &self.rules).finish_non_exhaustive()
    }
}

// === impl Running ===

impl Running {
    /// `tls`: to the broker, and to the Redis.
    pub(crate) fn start(plan: Plan, tls: Option<(OwnTls, OwnTls)>, tally: Tally, health: Health) -> Self {
        let mut options = plan.options();
        if let Some((broker, redis)) = tls {
            options.from_tls = Some(TlsFrom::Source(Arc::new(broker)));
            options.to_tls = Some(TlsFrom::Source(Arc::new(redis)));
        }
        Self { plan, _task: AbortOnDropHandle::new(tokio::spawn(copy(options, tally, health))) }
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }
}

async fn copy(options: BridgeOptions, tally: Tally, health: Health) {
    let bridge = match Bridge::open(options).await {
        Ok(bridge) => bridge,
        Err(error) => {
            tracing::error!(%error, "The bridge cannot copy.");
            health.note(PART, format!("it cannot copy: {error}"));
            return;
        }
    };
    let mut ticks = tokio::time::interval(LOOK);
    let mut last = bridge.counters();
    loop {
        ticks.tick().await;
        let now = bridge.counters();
        tally.bridged(&last, &now);
        last = now;
        health.note(
            PART,
            match bridge.states() {
                (BusState::Connected, BusState::Connected) => "it copies".to_owned(),
                (BusState::Connected, BusState::Disconnected(reason)) => {
                    format!("no connection to Redis: {reason}")
                }
                (BusState::Disconnected(reason), _) => format!("no connection to the broker: {reason}"),
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_address_are_checked() {
        let check = |url: &str, rules: &[&str]| {
            let settings = BusSettings {
                bridge_url: url.to_owned(),
                bridge_rules: rules.iter().map(|rule| (*rule).to_owned()).collect(),
                ..BusSettings::default()
            };
            let mut problems = Problems::default();
            super::check(&settings, &mut problems);
            problems.iter().map(|(field, _)| field.to_owned()).collect::<Vec<_>>()
        };
        assert!(check("", &[]).is_empty());
        assert!(check("redis://redis:6379", &["airq/# -> airq:*"]).is_empty());
        assert_eq!(check("redis://redis:6379", &[]), ["bridge_rules"]);
        assert_eq!(check("redis://redis:6379", &["airq/#"]), ["bridge_rules"]);
        assert_eq!(check("ftp://redis", &["airq/# -> airq:*"]), ["bridge_url"]);
        assert_eq!(check("", &["airq/# -> airq:*"]), ["bridge_url"]);
    }

    #[test]
    fn a_password_is_not_printed() {
        let settings =
            BusSettings { bridge_url: "redis://me:secret@redis:6379".to_owned(), ..BusSettings::default() };
        let plan = Plan::new("mqtt://localhost", &settings).unwrap();
        assert_eq!(format!("{plan:?}"), "Plan { rules: [], .. }");
    }

    #[test]
    fn the_bridge_may_do_what_its_rules_name() {
        let bridge_rules = vec!["airq/# -> airq:*".to_owned(), "$SYS/# -> sys:*".to_owned()];
        let grant = grant(&BusSettings { bridge_rules, ..BusSettings::default() });
        assert!(grant.publish.contains(&"airq/#".to_owned()));
        assert!(!grant.publish.iter().any(|side| side.contains("SYS")), "{grant:?}");
    }
}
