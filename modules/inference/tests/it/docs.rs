//! The reference in `docs/` says what the code says.

use inference::InferenceSettings;
use shunt_module::docs::{check_section, settings_table};
use shunt_testkit::repo_root;

#[test]
fn the_reference_tells_the_inference_s_settings() {
    let table = settings_table::<InferenceSettings>();
    check_section(&repo_root().join("docs/settings.md"), "inference", &table).unwrap();
}

#[test]
fn the_reference_tells_the_inference_s_metrics() {
    let table = inference::metrics_table().unwrap();
    assert!(table.lines().skip(2).all(|row| row.starts_with("| `shunt_inference_")), "{table}");
    check_section(&repo_root().join("docs/metrics.md"), "inference", &table).unwrap();
}
