use std::process::{Command, Output};

fn models(arguments: &[&str], folder: &std::path::Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shunt"))
        .arg("models")
        .args(arguments)
        .env("SHUNT_MODELS_DIR", folder)
        .output()
        .unwrap()
}

#[test]
fn what_cannot_be_quantised_is_refused_before_anything_is_fetched() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, said) in [
        (&["quantize", "no-such-model"][..], "no-such-model"),
        (&["quantize", "ferplus-small-int8"], "is quantised already"),
        (&["quantize", "mobilenet-v1-quant"], "is a TFLite file"),
        (
            &["quantize", "ferplus-small", "--calibration", "/no/such/folder"],
            "there is no folder /no/such/folder",
        ),
    ] {
        let refused = models(arguments, folder.path());
        let text = String::from_utf8(refused.stderr).unwrap();
        assert!(!refused.status.success() && text.contains(said), "{arguments:?}: {text}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Fetches some 40 MB with pip on first use. Only where `SHUNT_SLOW_TESTS` is set.
#[test]
fn an_int8_model_is_made_anew_the_same_twice_and_no_worse_than_the_float_one() {
    if std::env::var_os("SHUNT_SLOW_TESTS").is_none() {
        println!("skipped: SHUNT_SLOW_TESTS is not set");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let make = || {
        let made = models(&["quantize", "ferplus-small"], folder.path());
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        std::fs::read(folder.path().join("emotion/ferplus_small_int8.onnx")).unwrap()
    };
    let first = make();
    assert_eq!(first, make());
    let faces = shunt_testkit::shared_dir().map(|shared| shared.join("models/checks/fer"));
    let Some(faces) = faces.filter(|faces| faces.is_dir()) else {
        println!("skipped: there are no labelled faces");
        return;
    };
    let share = |model: &str| {
        let checked = models(&["check", faces.to_str().unwrap(), "--model", model, "--json"], folder.path());
        assert!(checked.status.success(), "{model}: {}", String::from_utf8_lossy(&checked.stderr));
        let answer: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
        answer["share"].as_f64().unwrap()
    };
    // Another kind of processor may make another file; then the committed one is what is judged.
    assert!(share("ferplus-small-int8") > share("ferplus-small") - 0.02);
}
