//! The official tools as judges: iotedgedev from the Python index, and the check that `az iot edge set-modules` makes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::Context;
use serde_json::{Value, json};
use shunt_manifest::expand;
use shunt_testkit::repo_root;

use crate::places::{self, REGISTRY};

/// The Python of the tests with a client script of ours, or none where the clients are not installed.
fn python(script: &str) -> Option<Command> {
    let python = repo_root().join(".shunt/venv/bin/python");
    let installed = fs::read_dir(repo_root().join(".shunt/venv/lib")).ok().is_some_and(|versions| {
        versions.flatten().any(|version| version.path().join("site-packages/iotedgedev").is_dir())
    });
    if !installed {
        assert!(std::env::var_os("CI").is_none(), "iotedgedev is not installed: run scripts/setup test");
        eprintln!("skipped: iotedgedev is not installed; run scripts/setup test");
        return None;
    }
    let mut command = Command::new(python);
    command.arg(repo_root().join("tests/clients/python").join(script));
    Some(command)
}

/// The schemas beside the repository where they are, else the copies in this crate.
fn schemas(source: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas").join(source);
    let shared = repo_root().parent().map(|parent| parent.join("shared/schemas").join(source));
    shared.filter(|folder| folder.is_dir()).unwrap_or(here)
}

/// A solution of its own with our modules, so that the tool writes nothing into the repository.
fn solution(templates: &[(&str, Value)]) -> anyhow::Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    for (name, template) in templates {
        fs::write(folder.path().join(name), serde_json::to_string_pretty(template)?)?;
    }
    for module in places::MODULES {
        let into = folder.path().join("modules").join(module);
        fs::create_dir_all(&into)?;
        fs::copy(repo_root().join("modules").join(module).join("module.json"), into.join("module.json"))?;
    }
    // It asks on the first run whether it may send usage data.
    let settings = folder.path().join(".iotedgedev");
    fs::create_dir_all(&settings)?;
    fs::write(settings.join("setting.ini"), "[DEFAULT]\nfirsttime = no\ncollect_telemetry = no\n")?;
    Ok(folder)
}

fn genconfig(mut iotedgedev: Command, folder: &Path, template: &str) -> anyhow::Result<Output> {
    let output = iotedgedev
        .arg(schemas("schemastore"))
        .args(["solution", "genconfig", "-f", template, "-P", "amd64", "--fail-on-validation-error"])
        .current_dir(folder)
        .env_clear()
        .env("HOME", folder)
        .env("LC_ALL", "C.UTF-8")
        .env("PATH", "/usr/bin:/bin")
        .env("CONTAINER_REGISTRY_ADDRESS", REGISTRY)
        .output()?;
    Ok(output)
}

fn said(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn template(name: &str) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&fs::read_to_string(repo_root().join(name))?)?)
}

#[test]
fn iotedgedev_expands_both_templates_to_what_we_expand_them_to() -> anyhow::Result<()> {
    for (name, generated) in [
        ("deployment.template.json", "config/deployment.amd64.json"),
        ("deployment.debug.template.json", "config/deployment.debug.amd64.json"),
    ] {
        let Some(iotedgedev) = python("iotedgedev_offline.py") else { return Ok(()) };
        let folder = solution(&[(name, template(name)?)])?;
        let output = genconfig(iotedgedev, folder.path(), name)?;
        assert!(output.status.success(), "{}", said(&output));
        assert!(said(&output).contains("Deployment manifest schema validation passed."), "{}", said(&output));
        let theirs = fs::read_to_string(folder.path().join(generated)).context("the generated manifest")?;
        let theirs: Value = serde_json::from_str(&theirs)?;
        assert_eq!(expand(&repo_root().join(name), &places::options())?.manifest, theirs, "{name}");
    }
    Ok(())
}

#[test]
fn iotedgedev_expands_long_and_foreign_create_options_as_we_do() -> anyhow::Result<()> {
    let Some(iotedgedev) = python("iotedgedev_offline.py") else { return Ok(()) };
    let mut long = template("deployment.template.json")?;
    let settings = long
        .pointer_mut("/modulesContent/$edgeAgent/properties.desired/modules/camera/settings")
        .context("the camera's settings")?;
    settings["createOptions"] =
        json!({"Env": ["größe=😀".repeat(40), "x".repeat(900)], "HostConfig": {"Memory": 1e3}});
    let folder = solution(&[("deployment.template.json", long)])?;
    let output = genconfig(iotedgedev, folder.path(), "deployment.template.json")?;
    assert!(output.status.success(), "{}", said(&output));
    let theirs: Value =
        serde_json::from_str(&fs::read_to_string(folder.path().join("config/deployment.amd64.json"))?)?;
    assert_eq!(expand(&folder.path().join("deployment.template.json"), &places::options())?.manifest, theirs);
    Ok(())
}

#[test]
fn iotedgedev_refuses_a_broken_manifest() -> anyhow::Result<()> {
    let Some(iotedgedev) = python("iotedgedev_offline.py") else { return Ok(()) };
    let mut broken = template("deployment.template.json")?;
    broken["modulesContent"]["$edgeAgent"]["properties.desired"]["modules"]["camera"]["restartPolicy"] =
        json!("sometimes");
    let folder = solution(&[("deployment.template.json", broken)])?;
    let output = genconfig(iotedgedev, folder.path(), "deployment.template.json")?;
    assert!(!output.status.success() && said(&output).contains("sometimes"), "{}", said(&output));
    Ok(())
}

/// What the real tool lets pass, and our check does not: the table in `broken.rs` shows ours.
#[test]
fn iotedgedev_lets_pass_what_our_check_finds() -> anyhow::Result<()> {
    let mut changed = template("deployment.template.json")?;
    let desired = &mut changed["modulesContent"]["$edgeAgent"]["properties.desired"];
    desired["modules"]["camera"]["settings"]["image"] = json!("${MODULES.kamera}");
    let hub = &mut changed["modulesContent"]["$edgeHub"]["properties.desired"];
    hub["schemaVersion"] = json!("1.9");
    hub["routes"]["more"] = json!("FROM /messages/modules/kamera/* INTO $upstream");
    let Some(iotedgedev) = python("iotedgedev_offline.py") else { return Ok(()) };
    let folder = solution(&[("deployment.template.json", changed)])?;
    let output = genconfig(iotedgedev, folder.path(), "deployment.template.json")?;
    assert!(output.status.success(), "{}", said(&output));

    let report = shunt_manifest::check(&folder.path().join("deployment.template.json"), &places::options())?;
    let rules: Vec<&str> = report.findings.iter().map(|finding| finding.rule).collect();
    for rule in ["image", "schema-version", "route"] {
        assert!(rules.contains(&rule), "{rule} is not in {rules:?}");
    }
    Ok(())
}

#[test]
fn the_check_of_az_iot_edge_set_modules_takes_ours_and_refuses_a_broken_one() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("manifest.json");
    let good = places::manifest()?;
    let mut broken = good.clone();
    broken["modulesContent"]["$edgeAgent"]["properties.desired"]["modules"]["camera"]["restartPolicy"] =
        json!("sometimes");
    for (manifest, taken) in [(good, true), (broken, false)] {
        let Some(mut az) = python("az_set_modules_check.py") else { return Ok(()) };
        fs::write(&file, manifest.to_string())?;
        let output = az.arg(schemas("azure-iot-cli-extension")).arg(&file).output()?;
        assert_eq!(output.status.success(), taken, "{}", said(&output));
        assert_eq!(said(&output).contains("'sometimes' is not one of"), !taken, "{}", said(&output));
    }
    Ok(())
}

#[test]
fn the_built_in_schemas_are_the_published_ones() -> anyhow::Result<()> {
    let shared =
        repo_root().parent().map(|parent| parent.join("shared/schemas")).filter(|folder| folder.is_dir());
    let Some(shared) = shared else {
        println!("skipped: there is no ../shared/schemas");
        return Ok(());
    };
    for source in ["schemastore", "azure-iot-cli-extension"] {
        for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas").join(source))? {
            let file = file?;
            let published = shared.join(source).join(file.file_name());
            assert_eq!(fs::read(file.path())?, fs::read(&published)?, "{}", published.display());
        }
    }
    Ok(())
}
