//! What the module counts.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector};
use shunt_rules::RuleState;

/// What the module counts.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    /// By rule and what became of them: set from the engine's own counters.
    rules: IntGaugeVec,
    pub(crate) groups: IntGauge,
    raised: IntGaugeVec,
    alerts: IntCounterVec,
    /// The rules that `alerts` names: those that are gone are taken out.
    alerting: Arc<Mutex<BTreeSet<String>>>,
    pub(crate) windows: IntCounter,
    acts: IntCounterVec,
    pub(crate) unusable: IntCounter,
    pub(crate) unpublished: IntCounter,
    saves: IntCounterVec,
}

/// What became of something that a rule wanted done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    Ok,
    Failed,
    /// Too many were waiting.
    Dropped,
}

// === impl Tally ===

impl Tally {
    pub(crate) fn new() -> prometheus::Result<Self> {
        let by = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let tally = Self {
            rules: IntGaugeVec::new(
                Opts::new(
                    "shunt_rules_events",
                    "Events of a rule since it was set, by what became of them: seen, counted, late, ahead (of the clock), failed (an expression), and groups evicted.",
                ),
                &["rule", "outcome"],
            )?,
            groups: IntGauge::new("shunt_rules_groups", "Groups whose windows or alerts are kept.")?,
            raised: IntGaugeVec::new(
                Opts::new(
                    "shunt_rules_raised_groups",
                    "Groups of a rule whose alert is raised (20 at most are told).",
                ),
                &["rule"],
            )?,
            alerts: by(
                "shunt_rules_alerts_total",
                "Alerts, by what they tell: raised, repeated, cleared, failed.",
                &["rule", "state"],
            )?,
            alerting: Arc::default(),
            windows: IntCounter::new("shunt_rules_windows_total", "Results of windows to be published.")?,
            acts: by(
                "shunt_rules_actions_total",
                "Actions, by kind (call, method, set) and result: ok, failed, dropped (too many waited).",
                &["kind", "result"],
            )?,
            unusable: IntCounter::new(
                "shunt_rules_unusable_events_total",
                "Messages that are no events, and events whose data is not what its type says or larger than 64 KiB.",
            )?,
            unpublished: IntCounter::new(
                "shunt_rules_unpublished_events_total",
                "Alerts and window results that the bus did not take.",
            )?,
            saves: by(
                "shunt_rules_saves_total",
                "Writings of the windows to disk, by result: ok, failed.",
                &["result"],
            )?,
        };
        for kind in ["call", "method", "set"] {
            for done in [Done::Ok, Done::Failed, Done::Dropped] {
                tally.acts.with_label_values(&[kind, done.as_str()]).inc_by(0);
            }
        }
        for result in ["ok", "failed"] {
            tally.saves.with_label_values(&[result]).inc_by(0);
        }
        Ok(tally)
    }

    pub(crate) fn alert(&self, rule: &str, state: &str) {
        self.alerting.lock().insert(rule.to_owned());
        self.alerts.with_label_values(&[rule, state]).inc();
    }

    pub(crate) fn act(&self, kind: &str, done: Done) {
        self.acts.with_label_values(&[kind, done.as_str()]).inc();
    }

    pub(crate) fn saved(&self, ok: bool) {
        self.saves.with_label_values(&[if ok { "ok" } else { "failed" }]).inc();
    }

    /// The rules as they are now; those that are gone leave the page.
    pub(crate) fn rules(&self, rules: &[RuleState]) {
        self.alerting.lock().retain(|name| {
            let stays = rules.iter().any(|rule| rule.name == *name);
            if !stays {
                for state in ["raised", "repeated", "cleared", "failed"] {
                    // It need not have had each of them.
                    self.alerts.remove_label_values(&[name, state]).ok();
                }
            }
            stays
        });
        self.rules.reset();
        self.raised.reset();
        for rule in rules {
            let counters = &rule.counters;
            let outcomes = [
                ("seen", counters.events),
                ("counted", counters.counted),
                ("late", counters.late),
                ("ahead", counters.ahead),
                ("failed", counters.failures),
                ("evicted", counters.evicted),
            ];
            for (outcome, count) in outcomes {
                self.rules.with_label_values(&[rule.name.as_str(), outcome]).set(count as i64);
            }
            self.raised.with_label_values(&[&rule.name]).set(rule.raised.len() as i64);
        }
    }

    pub(crate) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.acts.clone()),
            Box::new(self.alerts.clone()),
            Box::new(self.rules.clone()),
            Box::new(self.groups.clone()),
            Box::new(self.raised.clone()),
            Box::new(self.saves.clone()),
            Box::new(self.unpublished.clone()),
            Box::new(self.unusable.clone()),
            Box::new(self.windows.clone()),
        ]
    }

    pub(crate) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        self.collectors().into_iter().try_for_each(|collector| registry.register(collector))
    }
}

// === impl Done ===

impl Done {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_is_gone_leaves_the_page() {
        let tally = Tally::new().unwrap();
        tally.alert("gone", "raised");
        assert_eq!(tally.alerts.collect()[0].get_metric().len(), 1);
        tally.rules(&[]);
        assert!(tally.alerts.collect().iter().all(|family| family.get_metric().is_empty()));
    }
}
