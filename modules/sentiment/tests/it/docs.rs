//! The reference in `docs/` says what the code says.

use sentiment::SentimentSettings;
use shunt_module::docs::{check_section, settings_table};
use shunt_testkit::repo_root;

#[test]
fn the_reference_tells_the_sentiment_s_settings() {
    let table = settings_table::<SentimentSettings>();
    check_section(&repo_root().join("docs/settings.md"), "sentiment", &table).unwrap();
}

#[test]
fn the_reference_tells_the_sentiment_s_metrics() {
    check_section(&repo_root().join("docs/metrics.md"), "sentiment", &sentiment::metrics_table().unwrap())
        .unwrap();
}
