//! Changes by twin, and models that cannot be used.

use emotion::EmotionSettings;
use serde_json::{Value, json};
use shunt_infer::Preference;
use shunt_module::Common;
use shunt_testkit::eventually;
use shunt_wire::events::Expression;

use crate::stage::{LIMIT, Stage, astronaut, changed_catalog, sample, with_models};

/// The file of this model is nowhere, whatever was fetched on this machine.
fn without_minixception(common: &mut Common) {
    changed_catalog(common, "emotion/minixception_human.onnx", "emotion/not_there.onnx");
}

#[tokio::test]
async fn models_are_exchanged_while_frames_come() {
    let mut stage = Stage::start().await;
    stage.settings.propose(with_models("blazeface-short-range", "ferplus-small")).await.unwrap();
    stage.show(&astronaut()).await;
    let emotion = stage.emotion().await;
    assert_eq!(emotion.models, ["blazeface-short-range", "ferplus-small"]);
    assert_eq!(emotion.emotion, Expression::Happiness);
}

#[tokio::test]
async fn a_model_that_does_not_load_is_refused_and_the_old_one_serves_on() {
    let mut stage = Stage::start_with(EmotionSettings::default(), without_minixception).await;
    stage.until_ready().await;
    let problems = stage.settings.propose(with_models("yunet", "minixception-human")).await.unwrap_err();
    let problems: Vec<_> = problems.iter().collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert_eq!(problems[0].0, "face_model");
    assert!(
        problems[0].1.starts_with("there is no model \"yunet\" in the catalog; it knows "),
        "{problems:?}"
    );
    assert_eq!(problems[1].0, "emotion_model");
    assert!(problems[1].1.contains("shunt models fetch minixception-human"), "{problems:?}");
    stage.show(&astronaut()).await;
    assert_eq!(stage.emotion().await.models, ["blazeface-full-range", "ferplus-small"]);
    assert_eq!(stage.get("/readyz").await.unwrap().0, 200);
}

#[tokio::test]
async fn the_back_end_is_chosen_by_twin_and_told_in_the_reported_twin() {
    let mut stage = Stage::start().await;
    stage.until_ready().await;
    let tract = EmotionSettings { backend: Preference::Tract, ..EmotionSettings::default() };
    stage.settings.propose(tract).await.unwrap();
    let serving = stage.facts.get()["serving"].clone();
    for (field, model) in [("face_model", "blazeface-full-range"), ("emotion_model", "ferplus-small")] {
        let told = &serving[field];
        assert_eq!((&told["model"], &told["device"]), (&json!(model), &json!("cpu")), "{serving}");
        assert_eq!(told["because"], "it is the one that was asked for");
        assert_eq!(told["backend"], "tract", "{serving}");
        assert!(told["version"].as_str().unwrap().starts_with("tract"), "{serving}");
    }
    stage.show(&astronaut()).await;
    assert_eq!(stage.emotion().await.emotion, Expression::Happiness);

    // LiteRT loads no ONNX files, whether it is there or not.
    let litert = EmotionSettings { backend: Preference::Litert, ..EmotionSettings::default() };
    assert!(stage.settings.propose(litert).await.is_err());
    assert_eq!(stage.facts.get()["serving"], serving);
    stage.show(&astronaut()).await;
    assert_eq!(stage.emotion().await.emotion, Expression::Happiness);
}

#[tokio::test]
async fn threshold_and_number_of_faces_take_effect() {
    let mut stage = Stage::start().await;
    let sure = EmotionSettings { min_score: 0.99, ..EmotionSettings::default() };
    stage.settings.propose(sure).await.unwrap();
    assert!(stage.emotions_without_face(&astronaut()).await);
    stage.settings.propose(EmotionSettings { max_faces: 2, ..EmotionSettings::default() }).await.unwrap();
    let Some(four) = sample("face.jpg") else { return stage.check_alive().await };
    assert_eq!(stage.emotions_of(&four).await.len(), 2);
}

#[tokio::test]
async fn a_module_without_its_model_lives_says_why_and_starts_when_it_gets_one() {
    let settings = with_models("blazeface-full-range", "minixception-human");
    let mut stage = Stage::start_with(settings, without_minixception).await;
    eventually(LIMIT, || async {
        let answer = stage.get("/readyz").await;
        answer.is_ok_and(|(status, text)| {
            status == 503 && text.contains("shunt models fetch minixception-human")
        })
    })
    .await;
    assert_eq!(stage.get("/healthz").await.unwrap().0, 200);
    let (status, text) = stage.post("/faces", "x").await;
    assert_eq!(status, 503, "{text}");
    let skipped = "shunt_emotion_frames_skipped_total{reason=\"no_models\"}";
    eventually(LIMIT, || async {
        stage.show(&astronaut()).await;
        stage.count(skipped).await > 0
    })
    .await;

    stage.settings.propose(EmotionSettings::default()).await.unwrap();
    assert_eq!(stage.get("/readyz").await.unwrap().0, 200);
    stage.check_alive().await;
}

#[tokio::test]
async fn a_model_with_the_wrong_digest_is_refused_by_name() {
    let right = "f9e6f76f75205fd22357f817927603d3cda4e93b8087ef114ab90c114afee27a";
    let wrong = "0".repeat(64);
    let stage = Stage::start_with(EmotionSettings::default(), |common| {
        changed_catalog(common, right, &wrong);
    })
    .await;
    eventually(LIMIT, || async {
        let Ok((status, text)) = stage.get("/readyz").await else { return false };
        let parts = ["ferplus_small.onnx", "wrong digest", &wrong, right, "shunt models fetch ferplus-small"];
        status == 503 && parts.iter().all(|part| text.contains(part))
    })
    .await;
    assert_eq!(stage.get("/healthz").await.unwrap().0, 200);
}

#[tokio::test]
async fn the_method_reload_reads_the_models_anew_while_frames_come() {
    let mut stage = Stage::start().await;
    let (status, answer) = stage.methods.call("reload", Value::Null).await;
    assert_eq!((status, answer), (200, json!({"models": ["blazeface-full-range", "ferplus-small"]})));
    stage.check_alive().await;
    // The file is exchanged for another: it is not taken, and the model in use serves on.
    let models = stage.folder.path().join("models");
    let digest = "5c97234ee99272d40ebf56162c0def2f4b40b8d1b0f29a5b6492f817012e9879";
    changed_catalog(&Common::in_folder(stage.folder.path()), digest, &"0".repeat(64));
    let (status, answer) = stage.methods.call("reload", Value::Null).await;
    let message = answer["message"].as_str().unwrap();
    assert!(status == 409 && message.starts_with("the models in use serve on: face_model: "), "{answer}");
    std::fs::remove_dir_all(models).unwrap();
    stage.check_alive().await;
}
