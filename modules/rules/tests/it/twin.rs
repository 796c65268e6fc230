//! Rules by twin and by file.

use serde_json::json;
use shunt_wire::events::Expression;

use crate::stage::{Square, Stage, emotion, settings};

#[tokio::test(flavor = "multi_thread")]
async fn bad_rules_are_refused_one_by_one_and_the_last_good_work_on() {
    use shunt_module::{Problems, Settings};
    let check = |rules: serde_json::Value| {
        let mut problems = Problems::default();
        settings(rules).check(&mut problems);
        problems.iter().map(|(field, problem)| format!("{field}: {problem}")).collect::<Vec<_>>()
    };
    let found = check(json!({
        "good": {"from": ["emotion"], "when": "true"},
        "typo": {"from": ["emotion"], "whem": "true"},
        "words": {"from": ["emotion"], "when": "data.x is high"},
    }));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("rules.typo: whem: unknown field `whem`"), "{found:?}");
    assert!(found[1].starts_with("rules.words: when (column 8): Syntax error"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_change_while_others_keep_their_state() {
    let mut square = Square::open().await;
    let folder = tempfile::tempdir().unwrap();
    let kept = json!({"from": ["emotion"], "window": {"count": 3}, "when": "n == 3"});
    let other = |when: &str| json!({"from": ["emotion"], "when": when});
    let stage =
        Stage::start(&square, folder.path(), settings(json!({"kept": kept, "other": other("false")}))).await;
    square.send(emotion(1, "gate", 0, Expression::Fear)).await;
    square.send(emotion(2, "gate", 0, Expression::Fear)).await;
    stage.seen("kept", 2).await;
    stage.settings.propose(settings(json!({"kept": kept, "other": other("false || false")}))).await.unwrap();
    assert_eq!(stage.rule("other").await["counters"]["events"], 0);
    square.send(emotion(3, "gate", 0, Expression::Fear)).await;
    assert_eq!(square.alert().await.1.rule, "kept");
    stage.settings.propose(settings(json!({}))).await.unwrap();
    assert_eq!(stage.get("/rules/kept").await.0, 404);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_read_at_the_start_and_by_reload_and_a_broken_one_is_refused() {
    let mut square = Square::open().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.toml");
    let write = |when: &str| {
        std::fs::write(&file, format!("[rules.filed]\nfrom = [\"emotion\"]\nwhen = \"{when}\"\n")).unwrap();
    };
    write("data.emotion == 'fear'");
    let with_file = rules::RulesSettings {
        file: file.display().to_string(),
        ..settings(json!({"own": {"from": ["emotion"], "when": "false"}}))
    };
    let stage = Stage::start(&square, folder.path(), with_file.clone()).await;
    square.send(emotion(1, "gate", 0, Expression::Fear)).await;
    assert_eq!(square.alert().await.1.rule, "filed");

    write("data.emotion ==");
    let (status, answer) = stage.methods.call("reload", serde_json::Value::Null).await;
    assert_eq!(status, 409);
    let message = answer["message"].as_str().unwrap();
    assert!(message.contains("rules.toml:3:") && message.contains("filed: when: Syntax error"), "{message}");
    assert_eq!(
        stage.rule("filed").await["rule"]["when"],
        "data.emotion == 'fear'",
        "the last good one works on"
    );

    write("data.emotion == 'anger'");
    assert_eq!(stage.methods.call("reload", serde_json::Value::Null).await, (200, json!({"rules": 2})));
    square.send(emotion(2, "gate", 1_000, Expression::Anger)).await;
    assert_eq!(square.alert().await.1.rule, "filed");

    let gone = rules::RulesSettings { file: "/nowhere/rules.toml".to_owned(), ..with_file };
    let problems = stage.settings.propose(gone).await.unwrap_err();
    assert!(problems.to_string().contains("file: cannot read /nowhere/rules.toml"), "{problems}");
    stage.stop().await;
}
