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

fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The demo's cup of coffee.
fn coffee() -> std::path::PathBuf {
    shunt_testkit::repo_root().join(".shunt/pictures/coffee.png")
}

#[test]
fn a_picture_is_classified_in_words_with_the_time_of_each_step() {
    if !coffee().is_file() {
        assert!(std::env::var_os("CI").is_none(), "the demo's pictures are missing: scripts/setup");
        println!("skipped: the demo's pictures are not there");
        return;
    }
    let classify = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shunt"));
        command.arg("classify").arg(coffee()).args(arguments).output().unwrap()
    };
    let answer = json(&classify(&["--json", "--top", "3"]));
    let classes = answer["classes"].as_array().unwrap();
    assert_eq!(classes.len(), 3);
    let words: Vec<&str> = classes.iter().map(|class| class["label"].as_str().unwrap()).collect();
    assert!(words.contains(&"espresso"), "{answer}");
    assert!(classes[0]["probability"].as_f64() >= classes[1]["probability"].as_f64(), "{answer}");
    for step in ["load the model", "read and decode", "fit", "infer"] {
        assert!(answer["ms"][step].as_f64().unwrap() > 0.0, "{answer}");
    }
    let text = String::from_utf8(classify(&["--backend", "tract"]).stdout).unwrap();
    assert!(text.contains("espresso") && text.contains("tract"), "{text}");

    let refused = classify(&["--model", "ferplus-small"]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && text.contains("not for Classify"), "{text}");
    let refused = classify(&["--backend", "abacus"]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && text.contains("no back end \"abacus\""), "{text}");
}

#[test]
fn every_back_end_is_measured_beside_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let lines = json(&models(&["bench", "ferplus-small", "--runs", "3", "--json"], folder.path()));
    let lines = lines.as_array().unwrap();
    let tract = lines.iter().find(|line| line["backend"] == "tract").unwrap();
    assert!(tract["median_ms"].as_f64().unwrap() > 0.0, "{tract}");
    assert!(tract["golden_difference"].as_f64().unwrap() < 0.01, "{tract}");
    if std::env::var_os("CI").is_some() {
        assert!(lines.iter().any(|line| line["backend"] == "onnxruntime"), "{lines:?}");
    }
    let refused = models(&["bench", "no-such-model"], folder.path());
    assert!(String::from_utf8(refused.stderr).unwrap().contains("no-such-model"));
}

#[test]
fn an_imported_model_is_in_the_catalog_and_classifies() {
    let Some(shared) = shunt_testkit::shared_dir() else {
        println!("skipped: there is no TFLite file");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = shared.join("models/classify/mobilenet_v1_1.0_224_quant.tflite");
    let labels = shunt_testkit::repo_root().join("models/labels/imagenet_labels_1001.txt");
    let pictures = shared.join("models/images");
    let imported = models(
        &[
            "import",
            file.to_str().unwrap(),
            "--name",
            "my-mobilenet",
            "--labels",
            labels.to_str().unwrap(),
            "--pictures",
            pictures.to_str().unwrap(),
        ],
        folder.path(),
    );
    let complaint = String::from_utf8_lossy(&imported.stderr).into_owned();
    if complaint.contains("LiteRT is not there") {
        assert!(std::env::var_os("CI").is_none(), "{complaint}");
        println!("skipped: LiteRT is not installed");
        return;
    }
    assert!(imported.status.success(), "{complaint}");
    let answer = Command::new(env!("CARGO_BIN_EXE_shunt"))
        .arg("classify")
        .arg(pictures.join("parrot.jpg"))
        .args(["--model", "my-mobilenet", "--json"])
        .env("SHUNT_MODELS_DIR", folder.path())
        .output()
        .unwrap();
    let answer = json(&answer);
    assert_eq!(answer["classes"][0]["label"], "macaw", "{answer}");
    assert!(answer["classes"][0]["probability"].as_f64().unwrap() > 0.5, "{answer}");
}
