//! What a deployment manifest wants to run, and how that is done without containers.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::ValueEnum;
use serde_json::{Map, Value, json};

use crate::child;

/// What runs for a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Runs {
    /// This program of ours.
    Binary(PathBuf),
    /// Our bus: this program.
    Bus(PathBuf),
    /// A Redis server: this program.
    Redis(PathBuf),
}

/// What serves as the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Broker {
    /// Our module `bus`: Mosquitto, with TLS and clients that prove who they are.
    Mqtt,
    /// A Redis server that asks nobody who they are, for this machine only.
    Redis,
}

/// A module of the manifest whose program is not built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotBuilt {
    /// Its id on the device.
    pub(crate) name: String,
    /// The file that is not there.
    pub(crate) program: PathBuf,
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
    /// Only these; all where it is empty. A broker always runs.
    pub(crate) only: BTreeSet<String>,
    /// These too, though the manifest does not name them.
    pub(crate) with: BTreeSet<String>,
    /// What serves as the bus; nothing: what the manifest names.
    pub(crate) broker: Option<Broker>,
}

/// The modules that a desired section of `$edgeAgent` wants to run, brokers first, and those that are not built.
///
/// A broker that is not there is an error: nothing works without the bus.
pub(crate) fn wanted(
    agent: &Value,
    selection: &Selection,
    programs: &Path,
) -> anyhow::Result<(Vec<Wanted>, Vec<NotBuilt>)> {
    let modules = agent.get("modules").and_then(Value::as_object).context("the manifest names no modules")?;
    for name in &selection.only {
        let known = modules.contains_key(name) || selection.with.contains(name);
        let names = || modules.keys().cloned().collect::<Vec<_>>().join(", ");
        anyhow::ensure!(known, "--only names {name:?}, but the manifest has: {}", names());
    }
    let (mut brokers, mut others, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    let mut add = |name: &str, program: &str, environment| {
        let broker = Broker::of(program);
        if broker.is_some() && selection.broker.is_some_and(|chosen| broker != Some(chosen)) {
            return anyhow::Ok(());
        }
        let wanted = |runs| Wanted { name: name.to_owned(), runs, environment };
        if let Some(broker) = broker {
            brokers.push(wanted(broker.program(programs)?));
            return Ok(());
        }
        let file = programs.join(program);
        if !program.contains('/') && file.is_file() {
            others.push(wanted(Runs::Binary(file)));
        } else {
            missing.push(NotBuilt { name: name.to_owned(), program: file });
        }
        Ok(())
    };
    for (name, module) in modules {
        let stopped = module.get("status").and_then(Value::as_str) == Some("stopped");
        let image = module.pointer("/settings/image").and_then(Value::as_str).unwrap_or(name);
        let program = program_of(image);
        let selected = selection.only.is_empty()
            || selection.only.contains(name)
            || selection.with.contains(name)
            || Broker::of(program).is_some();
        if selected && !stopped {
            add(name, program, environment(module))?;
        }
    }
    for name in selection.with.iter().filter(|name| !modules.contains_key(*name)) {
        add(name, name, BTreeMap::new())?;
    }
    // Without a broker and without the address of one, the modules are given ours.
    let named = modules.values().any(|module| environment(module).contains_key("SHUNT_BUS_URL"));
    let added = selection.broker.or_else(|| (!named).then_some(Broker::Mqtt));
    if let Some(broker) = added.filter(|_| brokers.is_empty()) {
        let runs = broker.program(programs)?;
        brokers.push(Wanted { name: broker.module().to_owned(), runs, environment: BTreeMap::new() });
    }
    brokers.append(&mut others);
    Ok((brokers, missing))
}

// === impl Wanted ===

impl Wanted {
    /// By which name it is looked up where ports are told.
    pub(crate) fn place(&self) -> &str {
        match self.runs {
            Runs::Binary(_) => &self.name,
            Runs::Bus(_) => "bus",
            Runs::Redis(_) => "redis",
        }
    }

    /// Is it a broker?
    pub(crate) fn is_broker(&self) -> bool {
        !matches!(self.runs, Runs::Binary(_))
    }
}

// === impl Broker ===

impl Broker {
    /// The broker that this program is.
    fn of(program: &str) -> Option<Self> {
        match program {
            "bus" => Some(Self::Mqtt),
            "redis" => Some(Self::Redis),
            _ => None,
        }
    }

    /// The module's name where the manifest gives it none.
    fn module(self) -> &'static str {
        match self {
            Self::Mqtt => "bus",
            Self::Redis => "redis",
        }
    }

    /// What to run for it.
    fn program(self, programs: &Path) -> anyhow::Result<Runs> {
        match self {
            Self::Mqtt => {
                let file = programs.join("bus");
                anyhow::ensure!(
                    file.is_file(),
                    "the bus is not built, there is no program {}: cargo build -p bus, or scripts/demo",
                    file.display()
                );
                Ok(Runs::Bus(file))
            }
            Self::Redis => child::find_program("redis-server").map(Runs::Redis).context(
                "redis-server is not installed: apt-get install --no-install-recommends redis-server",
            ),
        }
    }
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

/// Replaces those of these desired properties that a manifest sets for a module: the twin is above the environment,
/// where the others are set. Of a map the entries are replaced.
pub(crate) fn replace_desired(manifest: &mut Value, module: &str, values: &Map<String, Value>) {
    let section = manifest
        .pointer_mut(&format!("/modulesContent/{module}/properties.desired"))
        .and_then(Value::as_object_mut);
    for (field, set) in section.into_iter().flatten() {
        if let Some(value) = values.get(field) {
            *set = laid_over(set.take(), value);
        }
    }
}

/// The value, or of two maps the entries of both, those of the upper one where both have one.
pub(crate) fn laid_over(lower: Value, upper: &Value) -> Value {
    match (lower, upper) {
        (Value::Object(mut lower), Value::Object(upper)) => {
            lower.extend(upper.clone());
            Value::Object(lower)
        }
        (_, upper) => upper.clone(),
    }
}

/// The bus that the modules' variables name.
pub(crate) fn bus_address(wanted: &[Wanted]) -> Option<String> {
    wanted.iter().find_map(|module| module.environment.get("SHUNT_BUS_URL").cloned())
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

    /// A folder with these programs.
    fn built(names: &[&str]) -> tempfile::TempDir {
        let programs = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(programs.path().join(name), "").unwrap();
        }
        programs
    }

    fn names(all: &[Wanted]) -> Vec<&str> {
        all.iter().map(|wanted| wanted.name.as_str()).collect()
    }

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
        let programs = built(&["bus", "camera"]);
        let (all, missing) = wanted(&agent(), &Selection::default(), programs.path()).unwrap();
        assert_eq!(names(&all), ["bus", "camera"]);
        assert_eq!(all[1].environment["SHUNT_CAMERA_FPS"], "5");
        assert_eq!(missing, [NotBuilt { name: "other".to_owned(), program: programs.path().join("other") }]);
        let with = Selection { with: ["relay".to_owned()].into(), ..Selection::default() };
        let (_, missing) = wanted(&agent(), &with, programs.path()).unwrap();
        assert_eq!(missing[1].name, "relay");
    }

    #[test]
    fn a_bus_is_added_where_the_manifest_names_none_and_no_address() {
        let programs = built(&["bus", "camera"]);
        let run = |agent: &Value, selection: &Selection| {
            let (all, _) = wanted(agent, selection, programs.path()).unwrap();
            names(&all).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let mut agent = agent();
        agent["modules"].as_object_mut().unwrap().remove("bus");
        assert_eq!(run(&agent, &Selection::default()), ["bus", "camera"]);
        agent["modules"]["camera"]["env"]["SHUNT_BUS_URL"] = json!({"value": "mqtts://broker.example"});
        assert_eq!(run(&agent, &Selection::default()), ["camera"]);
        // The command line is above the manifest.
        let mqtt = Selection { broker: Some(Broker::Mqtt), ..Selection::default() };
        assert_eq!(run(&agent, &mqtt), ["bus", "camera"]);
    }

    #[test]
    fn a_bus_that_is_not_built_is_an_error_that_says_how() {
        let programs = built(&["camera"]);
        let error = wanted(&agent(), &Selection::default(), programs.path()).unwrap_err().to_string();
        assert!(error.contains("cargo build -p bus"), "{error}");
    }

    #[test]
    fn a_wrong_selection_names_what_there_is() {
        let programs = built(&["bus"]);
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
