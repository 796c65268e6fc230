//! What the deployment templates set is what the modules know: a misspelt setting fails here, not on a device.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
};

use serde_json::{Map, Value};
use shunt_manifest::{Environment, Options, expand};
use shunt_module::{Context, Problems, Settings, docs, live};
use shunt_testkit::repo_root;

/// What is known of a module here.
struct Module {
    name: &'static str,
    /// Are these desired properties settings of the module?
    check: fn(&Value) -> Result<(), String>,
    /// Starts it in this process, as far as its settings; its exit code.
    start: fn(BTreeMap<String, String>) -> ExitCode,
}

/// The exit code that a module will end with.
type ExitCode = Pin<Box<dyn Future<Output = u8>>>;

const MODULES: [Module; 9] = [
    module::<bus::BusSettings>(),
    module::<camera::CameraSettings>(),
    module::<emotion::EmotionSettings>(),
    module::<functions::FunctionsSettings>(),
    module::<gateway::GatewaySettings>(),
    module::<inference::InferenceSettings>(),
    module::<relay::RelaySettings>(),
    module::<rules::RulesSettings>(),
    module::<sentiment::SentimentSettings>(),
];

const fn module<S: Settings>() -> Module {
    Module { name: S::MODULE, check: check::<S>, start: |environment| Box::pin(start::<S>(environment)) }
}

fn find(name: &str) -> Option<&'static Module> {
    MODULES.iter().find(|module| module.name == name)
}

fn check<S: Settings>(desired: &Value) -> Result<(), String> {
    let settings: S = serde_json::from_value(desired.clone()).map_err(|error| error.to_string())?;
    let mut problems = Problems::default();
    settings.check(&mut problems);
    if problems.is_empty() { Ok(()) } else { Err(problems.to_string()) }
}

async fn start<S: Settings>(mut environment: BTreeMap<String, String>) -> u8 {
    let folder = tempfile::tempdir().unwrap();
    let ours = [
        ("SHUNT_BUS_URL", "memory:templates"),
        ("SHUNT_HTTP_LISTEN", "127.0.0.1:0"),
        ("SHUNT_DATA_DIR", folder.path().to_str().unwrap()),
    ];
    environment.extend(ours.map(|(name, value)| (name.to_owned(), value.to_owned())));
    live(&environment, std::future::ready("the test"), |_: Context<S>| async { Ok(()) }).await
}

fn manifest(template: &str) -> Value {
    let registry = ("CONTAINER_REGISTRY_ADDRESS".to_owned(), "registry.example".to_owned());
    let options = Options { environment: Environment::new([registry]), ..Options::default() };
    expand(&repo_root().join(template), &options).unwrap().manifest
}

fn both() -> [(&'static str, Value); 2] {
    ["deployment.template.json", "deployment.debug.template.json"].map(|file| (file, manifest(file)))
}

/// The modules of a manifest, each with the variables that it sets.
fn environments(manifest: &Value) -> BTreeMap<String, BTreeMap<String, String>> {
    let modules = &manifest["modulesContent"]["$edgeAgent"]["properties.desired"]["modules"];
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let variables = |module: &Value| {
        let variables = module["env"].as_object().cloned().unwrap_or_default();
        variables.iter().map(|(name, entry)| (name.clone(), text(&entry["value"]))).collect()
    };
    modules.as_object().unwrap().iter().map(|(name, module)| (name.clone(), variables(module))).collect()
}

/// The desired sections of a manifest's own modules.
fn sections(manifest: &Value) -> Map<String, Value> {
    let content = manifest["modulesContent"].as_object().unwrap().iter();
    let ours = content.filter(|(name, _)| !name.starts_with('$'));
    ours.map(|(name, section)| (name.clone(), section["properties.desired"].clone())).collect()
}

/// Everything wrong with the twin sections of a manifest.
fn findings(manifest: &Value) -> Vec<String> {
    let judge = |(name, desired): (&String, &Value)| match find(name) {
        Some(module) => (module.check)(desired).err().map(|problem| format!("{name}: {problem}")),
        None => Some(format!("{name}: there is no such module")),
    };
    sections(manifest).iter().filter_map(judge).collect()
}

#[test]
fn the_twin_sections_hold_only_settings_that_the_modules_know() {
    for (file, manifest) in both() {
        assert_eq!(findings(&manifest), Vec::<String>::new(), "{file}");
        assert!(sections(&manifest).contains_key("relay"), "{file} says what leaves the device");
    }
}

#[test]
fn a_misspelt_setting_in_a_twin_section_is_found() {
    let [(_, manifest), _] = both();
    let spoil = |pointer: &str, key: &str| {
        let mut spoilt = manifest.clone();
        let section = spoilt.pointer_mut(pointer).and_then(Value::as_object_mut).unwrap();
        section.insert(key.to_owned(), 1.into());
        findings(&spoilt)
    };
    let section = "/modulesContent/relay/properties.desired";
    for (place, key) in [("", "kind"), ("/kinds/emotion", "max_per_second")] {
        let found = spoil(&format!("{section}{place}"), key);
        assert!(found.len() == 1 && found[0].contains(key), "{key}: {found:?}");
    }
}

#[tokio::test]
async fn the_variables_are_those_that_the_modules_read() {
    let table = docs::variables_table();
    let common: BTreeSet<&str> =
        table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert!(common.contains("SHUNT_LOG"), "{common:?}");
    for (file, manifest) in both() {
        for (name, environment) in environments(&manifest) {
            // A module ends with 78 for a variable of its own that it does not know; of others it knows nothing.
            let own = format!("SHUNT_{}_", name.to_ascii_uppercase());
            for variable in environment.keys() {
                let known = common.contains(variable.as_str()) || variable.starts_with(&own);
                assert!(known, "{file}: {name} does not read {variable}");
            }
            let module = find(&name).unwrap_or_else(|| panic!("{name} is no module of ours"));
            assert_eq!((module.start)(environment).await, 0, "{file}: {name}");
        }
    }
}

#[tokio::test]
async fn a_misspelt_variable_of_a_module_is_found() {
    let misspelt = BTreeMap::from([("SHUNT_RELAY_MAX_QUEUE_EVENT".to_owned(), "5".to_owned())]);
    assert_eq!((find("relay").unwrap().start)(misspelt).await, 78);
}

#[test]
fn the_variant_with_a_gpu_that_the_docs_tell_of_expands_in_both_templates() {
    let page = std::fs::read_to_string(repo_root().join("docs/deployment.md")).unwrap();
    let (_, rest) = page.split_once("<!-- begin gpu -->\n```json\n").unwrap();
    let variant: Value = serde_json::from_str(rest.split_once("```").unwrap().0).unwrap();
    for file in ["deployment.template.json", "deployment.debug.template.json"] {
        let text = std::fs::read_to_string(repo_root().join(file)).unwrap();
        let mut template: Value = serde_json::from_str(&text).unwrap();
        let settings = "/modulesContent/$edgeAgent/properties.desired/modules/inference/settings";
        let settings = template.pointer_mut(settings).unwrap();
        settings["image"] = variant["image"].clone();
        let host = &mut settings["createOptions"]["HostConfig"];
        host["DeviceRequests"] = variant["createOptions"]["HostConfig"]["DeviceRequests"].clone();
        // Beside the modules, whose images the manifest names.
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(repo_root().join("modules"), folder.path().join("modules")).unwrap();
        std::fs::write(folder.path().join(file), template.to_string()).unwrap();
        let registry = ("CONTAINER_REGISTRY_ADDRESS".to_owned(), "registry.example".to_owned());
        let options = Options { environment: Environment::new([registry]), ..Options::default() };
        let manifest = expand(&folder.path().join(file), &options).unwrap().manifest;
        let inference =
            &manifest["modulesContent"]["$edgeAgent"]["properties.desired"]["modules"]["inference"];
        assert_eq!(inference["settings"]["image"], "registry.example/inference:0.1.0-amd64.gpu");
        // The deployment splits long options over several fields.
        let fields = inference["settings"].as_object().unwrap().iter();
        let options: String = fields
            .filter(|(name, _)| name.starts_with("createOptions"))
            .filter_map(|(_, part)| part.as_str())
            .collect();
        let options: Value = serde_json::from_str(&options).unwrap();
        assert_eq!(options["HostConfig"]["DeviceRequests"][0]["Capabilities"], serde_json::json!([["gpu"]]));
    }
}
