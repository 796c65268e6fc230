//! The reference in `docs/` says what the code says.

use rules::RulesSettings;
use shunt_module::docs::{check_section, settings_table};
use shunt_testkit::repo_root;

#[test]
fn the_reference_tells_the_rules_settings() {
    let table = settings_table::<RulesSettings>();
    check_section(&repo_root().join("docs/settings.md"), "rules", &table).unwrap();
}

#[test]
fn the_reference_tells_the_rules_metrics() {
    check_section(&repo_root().join("docs/metrics.md"), "rules", &rules::metrics_table().unwrap()).unwrap();
}

#[test]
fn the_guide_names_every_function_and_aggregate() {
    let guide = std::fs::read_to_string(repo_root().join("docs/rules.md")).unwrap();
    for name in shunt_rules::FUNCTIONS.iter().chain(shunt_rules::AGGREGATES) {
        let word = name.split('(').next().unwrap();
        assert!(guide.contains(&format!("`{word}")), "docs/rules.md does not tell of {name}");
    }
}
