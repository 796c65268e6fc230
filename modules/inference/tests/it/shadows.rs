//! A second model beside the first, to be judged before it is promoted.

use inference::{InferenceSettings, Shadow};
use serde_json::Value;
use shunt_testkit::eventually;

use crate::yard::{LIMIT, Yard, blue, red, with_model};

fn beside(model: &str, shadow: &str, share: f64) -> InferenceSettings {
    let shadow = Some(Shadow { model: shadow.to_owned(), share });
    InferenceSettings { shadow, ..with_model(model) }
}

/// The report, after new settings that change nothing else: the reported twin has it then.
async fn report(yard: &Yard, settings: InferenceSettings) -> Value {
    let top = yard.count("shunt_inference_frames_total").await as u32 % 900 + 1;
    yard.settings.propose(InferenceSettings { top, ..settings }).await.unwrap();
    yard.facts.get()["shadow_report"].clone()
}

#[tokio::test]
async fn half_of_the_frames_are_shown_to_the_second_model_and_it_is_told_that_it_differs() {
    let settings = beside("colours", "inverse", 0.5);
    let mut yard = Yard::start(settings.clone()).await;
    for frame in 0..10_u64 {
        let picture = if frame % 2 == 0 { red() } else { blue() };
        // What is told is what the first model says.
        assert_eq!(yard.judged("door", &picture).await.model, "colours");
        eventually(LIMIT, || async {
            yard.shadowed("differed").await + yard.shadowed("agreed").await >= frame.div_ceil(2)
        })
        .await;
    }
    eventually(LIMIT, || async { yard.shadowed("differed").await == 5 }).await;
    assert_eq!(yard.shadowed("agreed").await, 0);
    let report = report(&yard, settings).await;
    assert_eq!(report["model"], "inverse");
    assert_eq!(report["beside"], "colours");
    assert_eq!((&report["frames"], &report["agreement"]), (&5.into(), &0.0.into()), "{report}");
    assert!(report["mean_difference"].as_f64().unwrap() > 0.3, "{report}");
    for time in ["first_ms", "second_ms", "difference_ms"] {
        assert!(report[time].is_number(), "{time}: {report}");
    }
    // Another first model: the comparison begins anew.
    let other = beside("inverse", "colours", 1.0);
    yard.settings.propose(other).await.unwrap();
    assert_eq!(yard.facts.get()["shadow_report"]["frames"], 0);
    // And none at all.
    yard.settings.propose(with_model("inverse")).await.unwrap();
    assert!(!yard.facts.get().contains_key("shadow_report"));
    yard.end().await;
}

#[tokio::test]
async fn a_slow_second_model_agrees_where_it_has_time_and_never_delays_the_first() {
    let settings = beside("colours", "slow", 1.0);
    let yard = Yard::start(settings.clone()).await;
    while yard.count("shunt_inference_frames_total").await < 30 {
        yard.settled("door", &red()).await;
    }
    let results = ["agreed", "differed", "skipped", "failed"];
    eventually(LIMIT, || async {
        let mut all = 0;
        for result in results {
            all += yard.shadowed(result).await;
        }
        all == 30
    })
    .await;
    assert!(yard.shadowed("skipped").await > 0 && yard.shadowed("agreed").await > 0);
    assert_eq!((yard.shadowed("differed").await, yard.shadowed("failed").await), (0, 0));
    let report = report(&yard, settings).await;
    assert_eq!(report["agreement"], 1.0, "{report}");
    // It takes many times as long: the first cannot have waited for it.
    let slow = report["second_ms"].as_f64().unwrap();
    assert!(report["first_ms"].as_f64().unwrap() < slow, "{report}");
}
