//! The bridge between this broker and a Redis.

use shunt_module::Problems;

use crate::BusSettings;

/// What is wrong with the settings of the bridge.
pub(crate) fn check(settings: &BusSettings, problems: &mut Problems) {
    if !settings.bridge_url.is_empty() && settings.bridge_rules.is_empty() {
        problems.note("bridge_rules", "there is none, but bridge_url is set");
    }
}
