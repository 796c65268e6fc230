//! The reference in `docs/` says what the code says.

use camera::CameraSettings;
use shunt_module::docs::{check_section, settings_table};
use shunt_testkit::repo_root;

#[test]
fn the_reference_tells_the_camera_s_settings() {
    let table = settings_table::<CameraSettings>();
    check_section(&repo_root().join("docs/settings.md"), "camera", &table).unwrap();
}

#[test]
fn the_reference_tells_the_camera_s_metrics() {
    check_section(&repo_root().join("docs/metrics.md"), "camera", &camera::metrics_table().unwrap()).unwrap();
}
