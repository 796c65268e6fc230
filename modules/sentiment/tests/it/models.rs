//! Models by twin: by name, as a file with its digest; the last good one stays.

use sentiment::{Backend, SentimentSettings};
use shunt_module::{Problems, Settings};
use shunt_text::digest;

use crate::stage::Stage;

const MEETING: &str = "The meeting is at 3 pm on Tuesday.";

fn shipped() -> Vec<u8> {
    std::fs::read(shunt_testkit::repo_root().join("models/sentiment/sentiment.bin")).unwrap()
}

fn with_model(model: &str, digest: Option<String>) -> SentimentSettings {
    SentimentSettings { model: model.to_owned(), model_sha256: digest, ..SentimentSettings::default() }
}

#[tokio::test]
async fn a_model_is_exchanged_by_name_and_by_file() {
    let stage = Stage::start(SentimentSettings::default()).await;
    let (gated, _) = stage.score(MEETING).await;
    stage.settings.propose(with_model("shunt-sentiment-ungated", None)).await.unwrap();
    let (plain, answer) = stage.score(MEETING).await;
    assert!(plain < 0.2 && gated > 0.3, "{plain} and {gated}");
    assert_eq!(answer.model, "shunt-sentiment-ungated");
    std::fs::write(stage.folder.path().join("models/own.bin"), shipped()).unwrap();
    stage.settings.propose(with_model("own.bin", Some(digest(&shipped())))).await.unwrap();
    let (score, answer) = stage.score(MEETING).await;
    assert_eq!((score.to_bits(), answer.model.as_str()), (gated.to_bits(), "own.bin"));
    stage.stop().await;
}

#[tokio::test]
async fn a_model_that_cannot_be_used_is_refused_and_the_last_good_one_stays() {
    let stage = Stage::start(SentimentSettings::default()).await;
    let models = stage.folder.path().join("models");
    std::fs::write(models.join("broken.bin"), b"SHUNTTXT no model").unwrap();
    let digest_of = |bytes: &[u8]| Some(digest(bytes));
    for (settings, field, expected) in [
        (with_model("missing.bin", digest_of(b"")), "model", "cannot read "),
        (with_model("broken.bin", digest_of(b"")), "model", "but e3b0c442"),
        (with_model("broken.bin", digest_of(b"SHUNTTXT no model")), "model", "ends inside its header"),
        (with_model("shunt-sentiment", digest_of(b"")), "model", "but e3b0c442"),
    ] {
        let problems = stage.settings.propose(settings).await.unwrap_err();
        let found: Vec<_> = problems.iter().collect();
        assert!(found[0].0 == field && found[0].1.contains(expected), "{expected:?} is not in {found:?}");
        assert_eq!(stage.score(MEETING).await.1.model, "shunt-sentiment");
    }
    assert_eq!(stage.get("/readyz").await.0, 200);
    stage.stop().await;
}

#[tokio::test]
async fn a_module_whose_model_is_missing_at_the_start_judges_with_the_one_that_is_built_in() {
    let stage = Stage::start(with_model("missing.bin", Some(digest(b"")))).await;
    assert_eq!(stage.score(MEETING).await.1.model, "shunt-sentiment");
    let (status, page) = stage.get("/readyz").await;
    assert_eq!(status, 200);
    assert!(page.contains("missing.bin"), "{page}");
    stage.stop().await;
}

#[test]
fn settings_that_cannot_be_used_are_named_field_by_field() {
    let check = |settings: SentimentSettings, field: &str, expected: &str| {
        let mut problems = Problems::default();
        settings.check(&mut problems);
        let found: Vec<_> = problems.iter().collect();
        assert!(found.iter().any(|(of, text)| *of == field && text.contains(expected)), "{found:?}");
    };
    check(with_model("bert", None), "model", "neither a file that ends in .bin nor one of shunt-sentiment");
    check(with_model("own.bin", None), "model_sha256", "needs its sha256");
    check(with_model("../own.bin", Some(digest(b""))), "model", "must be in the folder of models");
    check(with_model("/own.bin", Some(digest(b""))), "model", "must be in the folder of models");
    check(with_model("own.bin", Some("abc".to_owned())), "model_sha256", "64 hexadecimal digits");
    let default = SentimentSettings::default;
    check(
        SentimentSettings { backend: Backend::Cognitive, ..default() },
        "cognitive_url",
        "needs the container's",
    );
    let url = Some("text-analytics:5000".to_owned());
    check(SentimentSettings { cognitive_url: url, ..default() }, "cognitive_url", "http://host:port");
    check(
        SentimentSettings { cognitive_timeout_ms: 1, ..default() },
        "cognitive_timeout_ms",
        "from 10 to 60000",
    );
    check(SentimentSettings { language: "de".to_owned(), ..default() }, "language", "allowed are en and nl");
}
