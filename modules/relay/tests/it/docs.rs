//! The reference in `docs/` says what the code says.

use relay::RelaySettings;
use shunt_module::docs::{check_section, settings_table};
use shunt_testkit::repo_root;

#[test]
fn the_reference_tells_the_relay_s_settings() {
    let table = settings_table::<RelaySettings>();
    check_section(&repo_root().join("docs/settings.md"), "relay", &table).unwrap();
}

#[test]
fn the_reference_tells_the_relay_s_metrics() {
    check_section(&repo_root().join("docs/metrics.md"), "relay", &relay::metrics_table().unwrap()).unwrap();
}
