//! Broker away, hub away, a module killed: the chain goes on, and nothing assured is lost.

use serde_json::json;
use shunt_testkit::eventually;

use crate::chain::{Chain, LIMIT, astronaut, kill, nothing_lost};

#[tokio::test]
async fn a_killed_broker_comes_back_and_nothing_is_lost() {
    let Some(pictures) = astronaut() else { return };
    let chain = Chain::on_pictures(pictures.path(), &[]).await;
    chain.more_at_hub(5).await;
    let before = chain.pid("bus").unwrap();
    kill(before);
    eventually(LIMIT, || async { chain.pid("bus").is_some_and(|pid| pid != before) }).await;
    chain.more_at_hub(5).await;
    let report = chain.stop().await;
    nothing_lost(&report);
    assert_eq!(report["restarts"], json!({"bus": 1}), "the modules went on: {report}");
}

#[tokio::test]
async fn a_hub_that_was_away_gets_everything_afterwards() {
    let Some(pictures) = astronaut() else { return };
    let chain = Chain::on_pictures(pictures.path(), &[]).await;
    chain.more_at_hub(5).await;
    chain.fault(json!({"fault": "restart", "pause_ms": 3000})).await;
    chain.more_at_hub(30).await;
    let report = chain.stop().await;
    nothing_lost(&report);
    assert_eq!(report["dropped"], 0, "{report}");
    assert_eq!(
        report["events_at_hub"], report["emotions"],
        "each emotion told on the bus is at the hub: {report}"
    );
    assert_eq!(report["restarts"], json!({}), "{report}");
}

#[tokio::test]
async fn a_killed_relay_loses_nothing_that_it_had_acknowledged() {
    let Some(pictures) = astronaut() else { return };
    let chain = Chain::on_pictures(pictures.path(), &[]).await;
    chain.more_at_hub(5).await;
    let before = chain.pid("relay").unwrap();
    kill(before);
    eventually(LIMIT, || async { chain.pid("relay").is_some_and(|pid| pid != before) }).await;
    chain.more_at_hub(10).await;
    let report = chain.stop().await;
    nothing_lost(&report);
    // What the killed relay had counted since its last scrape is unknown; what emotion counted is not.
    assert_eq!(
        report["events_at_hub"], report["emotions"],
        "each emotion told on the bus is at the hub: {report}"
    );
    assert_eq!(report["restarts"], json!({"relay": 1}), "{report}");
}

#[tokio::test]
async fn a_source_that_is_not_there_is_told_of_and_the_chain_lives() {
    let chain = Chain::start(&["--source", "/nowhere/at-all.mjpeg", "--for", "5s"]).await;
    let (printed, _folder) = chain.ended().await;
    assert_eq!(printed.code, Some(0), "{}", printed.err);
    assert!(printed.err.contains("/nowhere/at-all.mjpeg"), "{}", printed.err);
    let report: serde_json::Value = serde_json::from_str(printed.out.lines().last().unwrap()).unwrap();
    assert_eq!((&report["frames"], &report["restarts"]), (&json!(0), &json!({})), "{report}");
}
