use std::process::{Command, Output};

fn shunt(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shunt")).args(arguments).output().unwrap()
}

#[test]
fn help_names_every_command() {
    let help = shunt(&["--help"]);
    let text = String::from_utf8(help.stdout).unwrap();
    for command in [
        "up",
        "bench",
        "sim",
        "tail",
        "twin",
        "method",
        "publish",
        "bridge",
        "invoke",
        "models",
        "classify",
        "emotion",
        "sentiment",
        "rules",
        "manifest",
        "doctor",
    ] {
        assert!(text.lines().any(|line| line.trim_start().starts_with(command)), "{command} in {text}");
        assert!(shunt(&[command, "--help"]).status.success(), "{command}");
    }
}

#[test]
fn a_broken_manifest_is_refused_with_every_finding() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deployment.json");
    let manifest = r#"{"modulesContent": {
        "$edgeAgent": {"properties.desired": {"schemaVersion": "1.4"}},
        "$edgeHub": {"properties.desired": {"schemaVersion": "1.2", "routes": {"all": "FROM /messages/* INTO $cloud"}}}
    }}"#;
    std::fs::write(&file, manifest).unwrap();
    let checked = shunt(&["manifest", "check", file.to_str().unwrap()]);
    assert_eq!(checked.status.code(), Some(1));
    let text = String::from_utf8(checked.stdout).unwrap();
    assert!(text.contains("1.4") && text.contains("[route]"), "{text}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let script = format!("{} models list | head -n 1", env!("CARGO_BIN_EXE_shunt"));
    let piped = Command::new("bash").args(["-o", "pipefail", "-c", &script]).output().unwrap();
    assert!(piped.status.success(), "{}", String::from_utf8_lossy(&piped.stderr));
}

#[test]
fn a_child_without_its_parent_is_not_started() {
    let orphan = shunt(&["child", "--parent", "1", "--", "/bin/true"]);
    assert_eq!(orphan.status.code(), Some(1));
    assert!(String::from_utf8(orphan.stderr).unwrap().contains("is gone"));
}
