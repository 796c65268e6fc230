//! What a deployment manifest wants to run, and how that is done without containers.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde_json::{Map, Value, json};

/// What runs for a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Runs {
    /// Mosquitto: the module's image is our `bus`.
    Broker,
    /// This program of ours.
    Binary(PathBuf),
}

/// A module that shall run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Its id on the device.
    pub(crate) name: String,
    /// What runs for it.
    pub(crate) runs: Runs,
    /// The variables that the manifest sets.
    pub(crate) environment: BTreeMap<String, String>,
}

/// Which of the manifest's modules shall run, and more than those.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    /// Only these; all where it is empty. The bus always runs.
    pub(crate) only: BTreeSet<String>,
    /// These too, though the manifest does not name them.
    pub(crate) with: BTreeSet<String>,
}

/// The modules that a desired section of `$edgeAgent` wants to run.
///
/// A module whose program is not built is told of by name; the others run all the same.
pub(crate) fn wanted(
    agent: &Value,
    selection: &Selection,
    programs: &Path,
) -> anyhow::Result<(Vec<Wanted>, Vec<String>)> {
    let modules = agent.get("modules").and_then(Value::as_object).context("the manifest names no modules")?;
    let (mut all, mut missing) = (Vec::new(), Vec::new());
    for (name, module) in modules {
        let stopped = module.get("status").and_then(Value::as_str) == Some("stopped");
        let image = module.pointer("/settings/image").and_then(Value::as_str).unwrap_or(name);
        let program = program_of(image);
        let selected = selection.only.is_empty() || selection.only.contains(name) || program == "bus";
        if stopped || !selected {
            continue;
        }
        match runs(program, programs) {
            Some(runs) => {
                all.push(Wanted { name: name.clone(), runs, environment: environment(module) });
            }
            None => missing.push(not_built(name, program, programs)),
        }
    }
    for name in &selection.with {
        if all.iter().any(|wanted| wanted.name == *name) {
            continue;
        }
        match runs(name, programs) {
            Some(runs) => all.push(Wanted { name: name.clone(), runs, environment: BTreeMap::new() }),
            None => missing.push(not_built(name, name, programs)),
        }
    }
    if !all.iter().any(|wanted| wanted.runs == Runs::Broker) {
        all.insert(0, Wanted { name: "bus".to_owned(), runs: Runs::Broker, environment: BTreeMap::new() });
    }
    for name in &selection.only {
        let known = modules.contains_key(name) || selection.with.contains(name);
        let names = || modules.keys().cloned().collect::<Vec<_>>().join(", ");
        anyhow::ensure!(known, "--only names {name:?}, but the manifest has: {}", names());
    }
    Ok((all, missing))
}

fn not_built(name: &str, program: &str, programs: &Path) -> String {
    format!("{name} cannot run: there is no program {}", programs.join(program).display())
}

fn runs(program: &str, programs: &Path) -> Option<Runs> {
    if program == "bus" {
        return Some(Runs::Broker);
    }
    let file = programs.join(program);
    (!program.contains('/') && file.is_file()).then_some(Runs::Binary(file))
}

/// The program in an image: the last part of its name, without tag or digest. A placeholder of a template
/// (`${MODULES.camera.debug}`) names the folder.
fn program_of(image: &str) -> &str {
    if let Some(folder) = image.strip_prefix("${MODULES.") {
        return folder.split(['.', '}']).next().unwrap_or(folder);
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    let name = last.split([':', '@']).next().unwrap_or(last);
    name.strip_prefix("shunt-").unwrap_or(name)
}

fn environment(module: &Value) -> BTreeMap<String, String> {
    let variables = module.get("env").and_then(Value::as_object);
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    variables
        .into_iter()
        .flatten()
        .filter_map(|(name, setting)| Some((name.clone(), text(setting.get("value")?))))
        .collect()
}

/// The desired properties of `$edgeAgent` in a manifest.
pub(crate) fn agent_section(manifest: &Value) -> Option<&Value> {
    manifest.pointer("/modulesContent/$edgeAgent/properties.desired")
}

/// Does the manifest say what its camera looks at: in the twin's section, or by the camera's environment?
pub(crate) fn names_source(manifest: &Value) -> bool {
    let in_twin = manifest.pointer("/modulesContent/camera/properties.desired/source");
    let in_environment = agent_section(manifest)
        .and_then(|agent| agent.pointer("/modules/camera/env/SHUNT_CAMERA_SOURCE/value"));
    [in_twin, in_environment].into_iter().flatten().any(|source| !source.is_null())
}

/// Sets a desired property of a module in a manifest. Says whether the manifest has a section for the module;
/// without one its twin is left alone, and so is the manifest.
pub(crate) fn set_desired(manifest: &mut Value, module: &str, property: &str, value: Value) -> bool {
    let section = manifest
        .pointer_mut(&format!("/modulesContent/{module}/properties.desired"))
        .and_then(Value::as_object_mut);
    section.is_some_and(|section| {
        section.insert(property.to_owned(), value);
        true
    })
}

/// Gives a module a section of desired properties, where the manifest has none.
pub(crate) fn add_section(manifest: &mut Value, module: &str) {
    let content = manifest.pointer_mut("/modulesContent").and_then(Value::as_object_mut);
    if let Some(content) = content {
        content.entry(module).or_insert_with(|| json!({"properties.desired": {}}));
    }
}

/// The names of a manifest's modules, to make one more of them known to the stand-in.
pub(crate) fn add_module(manifest: &mut Value, name: &str) {
    let modules = manifest
        .pointer_mut("/modulesContent/$edgeAgent/properties.desired/modules")
        .and_then(Value::as_object_mut);
    if let Some(modules) = modules.filter(|modules: &&mut Map<String, Value>| !modules.contains_key(name)) {
        let module = json!({
            "version": "1.0",
            "type": "docker",
            "status": "running",
            "restartPolicy": "always",
            "settings": {"image": format!("{name}:0.1.0-amd64"), "createOptions": "{}"},
        });
        modules.insert(name.to_owned(), module);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> Value {
        json!({"modules": {
            "bus": {"settings": {"image": "registry:5000/shunt/bus:0.1.0-amd64"}},
            "camera": {
                "settings": {"image": "${MODULES.camera.debug}"},
                "env": {"SHUNT_CAMERA_FPS": {"value": 5}, "SHUNT_LOG": {"value": "debug"}},
            },
            "old": {"status": "stopped", "settings": {"image": "camera:1"}},
            "other": {"settings": {"image": "other:1"}},
        }})
    }

    #[test]
    fn the_manifest_decides_what_runs() {
        let programs = tempfile::tempdir().unwrap();
        std::fs::write(programs.path().join("camera"), "").unwrap();
        let (all, missing) = wanted(&agent(), &Selection::default(), programs.path()).unwrap();
        let names: Vec<&str> = all.iter().map(|wanted| wanted.name.as_str()).collect();
        assert_eq!(names, ["bus", "camera"]);
        assert_eq!(all[1].environment["SHUNT_CAMERA_FPS"], "5");
        assert!(missing[0].starts_with("other cannot run: there is no program"), "{missing:?}");
    }

    #[test]
    fn a_wrong_selection_names_what_there_is() {
        let programs = tempfile::tempdir().unwrap();
        let selection = Selection { only: ["kamera".to_owned()].into(), ..Selection::default() };
        let error = wanted(&agent(), &selection, programs.path()).unwrap_err().to_string();
        assert_eq!(error, r#"--only names "kamera", but the manifest has: bus, camera, old, other"#);
    }

    #[test]
    fn images_name_their_programs() {
        for (image, program) in [
            ("camera:0.1.0-amd64", "camera"),
            ("localhost:5000/camera:0.1", "camera"),
            ("r.example/shunt/shunt-relay@sha256:00", "relay"),
            ("${MODULES.emotion}", "emotion"),
            ("${MODULES.emotion.debug}", "emotion"),
        ] {
            assert_eq!(program_of(image), program, "{image}");
        }
    }
}
