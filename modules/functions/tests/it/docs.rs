//! The reference in `docs/` says what the code says.

use functions::FunctionsSettings;
use shunt_module::docs::{check_section, settings_table};
use shunt_testkit::repo_root;

#[test]
fn the_reference_tells_the_functions_settings() {
    let table = settings_table::<FunctionsSettings>();
    check_section(&repo_root().join("docs/settings.md"), "functions", &table).unwrap();
}

#[test]
fn the_reference_tells_the_functions_metrics() {
    let table = functions::metrics_table().unwrap();
    assert!(table.lines().skip(2).all(|row| row.starts_with("| `shunt_functions_")), "{table}");
    check_section(&repo_root().join("docs/metrics.md"), "functions", &table).unwrap();
}
