//! The reference tells what the code says.

use shunt_module::docs::{check_section, settings_table};
use shunt_testkit::repo_root;

#[test]
fn the_reference_tells_the_settings_of_the_bus() {
    check_section(&repo_root().join("docs/settings.md"), "bus", &settings_table::<bus::BusSettings>())
        .unwrap();
}

#[test]
fn the_reference_tells_the_metrics_of_the_bus() {
    check_section(&repo_root().join("docs/metrics.md"), "bus", &bus::metrics_table().unwrap()).unwrap();
}
