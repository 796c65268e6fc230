//! The part of the reference that is the same for all modules.

use shunt_module::docs::{check_section, common_metrics_table, variables_table};
use shunt_testkit::repo_root;

#[test]
fn the_reference_tells_the_variables_that_every_module_reads() {
    check_section(&repo_root().join("docs/settings.md"), "every module", &variables_table()).unwrap();
}

#[test]
fn the_reference_tells_the_metrics_that_every_module_has() {
    check_section(&repo_root().join("docs/metrics.md"), "every module", &common_metrics_table()).unwrap();
}
