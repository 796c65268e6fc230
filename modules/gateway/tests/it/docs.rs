//! The reference in `docs/` says what the code says.

use gateway::GatewaySettings;
use shunt_module::docs::{check_section, settings_table};
use shunt_testkit::repo_root;

#[test]
fn the_reference_tells_the_gateway_s_settings() {
    let table = settings_table::<GatewaySettings>();
    check_section(&repo_root().join("docs/settings.md"), "gateway", &table).unwrap();
}

#[test]
fn the_reference_tells_the_gateway_s_metrics() {
    check_section(&repo_root().join("docs/metrics.md"), "gateway", &gateway::metrics_table().unwrap())
        .unwrap();
}
