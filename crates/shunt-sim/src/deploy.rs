//! A deployment manifest becomes identities, desired properties, routes and environments.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Map, Value};

use crate::{
    DeployError,
    state::{EDGE_AGENT, EDGE_HUB, Inner},
    twin, workload,
};

/// What one module's section asks for.
struct Plan {
    module: String,
    /// The whole desired section; none where only paths are set.
    replace: Option<Map<String, Value>>,
    /// `properties.desired.<path>`: values to set inside.
    paths: Vec<(Vec<String>, Value)>,
}

/// Checks all of the manifest, then applies all of it.
pub(crate) fn deploy(inner: &Arc<Inner>, manifest: &Value) -> Result<(), DeployError> {
    let content = manifest.get("content").unwrap_or(manifest);
    let content = content
        .get("modulesContent")
        .and_then(Value::as_object)
        .ok_or_else(|| DeployError::Form("modulesContent is missing or no object".to_owned()))?;
    let mut plans = Vec::new();
    for (module, sections) in content {
        plans.push(plan(inner, module, sections)?);
    }
    // The new desired properties of each module, checked before anything changes.
    let mut desired: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for plan in &plans {
        let current = {
            let state = inner.lock();
            let identity = state.identities.get(&inner.module_id(&plan.module));
            identity.map(|identity| identity.desired.properties.clone()).unwrap_or_default()
        };
        let mut properties = plan.replace.clone().unwrap_or(current);
        for (path, value) in &plan.paths {
            set(&mut properties, path, value.clone());
        }
        twin::check(&properties)
            .map_err(|source| DeployError::Limit { module: plan.module.clone(), source })?;
        desired.insert(plan.module.clone(), properties);
    }
    let agent = desired.get(EDGE_AGENT);
    let modules = agent.and_then(|agent| agent.get("modules")).and_then(Value::as_object);
    let mut wanted: BTreeSet<String> =
        modules.map(|modules| modules.keys().cloned().collect()).unwrap_or_default();
    wanted.extend(desired.keys().cloned());
    for module in wanted.iter().filter(|module| !runtime(module)) {
        check_name(module)?;
    }

    for module in &wanted {
        add_module(inner, module).map_err(DeployError::Start)?;
        if let Some(identity) = inner.lock().identities.get_mut(&inner.module_id(module)) {
            identity.deployed = true;
            if let Some(entry) = modules.and_then(|modules| modules.get(module)) {
                identity.environment = environment(entry);
            }
        }
    }
    if agent.is_some() {
        // What an earlier deployment named and this one does not is taken away.
        let state = inner.lock();
        let leftover: Vec<_> = state
            .identities
            .iter()
            .filter(|(client, identity)| {
                identity.deployed
                    && client
                        .module
                        .as_ref()
                        .is_some_and(|module| !wanted.contains(module) && !runtime(module))
            })
            .map(|(client, _)| client.clone())
            .collect();
        drop(state);
        for client in leftover {
            inner.remove_identity(&client);
        }
    }
    for (module, properties) in desired {
        inner.replace_desired(&inner.module_id(&module), properties);
    }
    Ok(())
}

/// Makes the module's identity and its workload socket, where they are not there.
pub(crate) fn add_module(inner: &Arc<Inner>, module: &str) -> Result<(), crate::SimError> {
    let client = inner.module_id(module);
    inner.add_identity(&client);
    let open = inner.lock().identities.get(&client).is_some_and(|identity| identity.workload.is_some());
    if open || runtime(module) { Ok(()) } else { workload::open(inner, module) }
}

pub(crate) fn runtime(module: &str) -> bool {
    matches!(module, EDGE_AGENT | EDGE_HUB)
}

/// A module id: letters, digits, `_`, `-`, at most 128.
pub(crate) fn check_name(module: &str) -> Result<(), DeployError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if module.is_empty() || module.len() > 128 || !module.chars().all(allowed) {
        return Err(DeployError::Form(format!(
            "the module name {module:?} is not allowed: 1 to 128 letters, digits, '_', '-'"
        )));
    }
    Ok(())
}

fn plan(inner: &Inner, module: &str, sections: &Value) -> Result<Plan, DeployError> {
    let sections = sections
        .as_object()
        .ok_or_else(|| DeployError::Form(format!("modulesContent.{module} is no object")))?;
    let mut plan = Plan { module: module.to_owned(), replace: None, paths: Vec::new() };
    for (name, value) in sections {
        let path = name.strip_prefix("properties.desired").ok_or_else(|| {
            DeployError::Form(format!(
                "modulesContent.{module} holds {name:?}, allowed is \"properties.desired\""
            ))
        })?;
        match (path.strip_prefix('.'), value) {
            (Some(path), value) => {
                plan.paths.push((path.split('.').map(str::to_owned).collect(), value.clone()));
            }
            (None, Value::Object(properties)) if path.is_empty() => plan.replace = Some(properties.clone()),
            _ => {
                return Err(DeployError::Form(format!(
                    "modulesContent.{module}: {name:?} must be an object"
                )));
            }
        }
    }
    tracing::debug!(device = inner.options.device_id, module, "A deployment names a module.");
    Ok(plan)
}

fn set(properties: &mut Map<String, Value>, path: &[String], value: Value) {
    match path {
        [] => {}
        [last] => {
            properties.insert(last.clone(), value);
        }
        [first, rest @ ..] => {
            let entry = properties.entry(first.clone()).or_insert_with(|| Value::Object(Map::new()));
            if !entry.is_object() {
                *entry = Value::Object(Map::new());
            }
            if let Value::Object(inner) = entry {
                set(inner, rest, value);
            }
        }
    }
}

/// The `env` of a module's entry: `{"K":{"value":v}}`.
fn environment(entry: &Value) -> BTreeMap<String, String> {
    let Some(env) = entry.get("env").and_then(Value::as_object) else { return BTreeMap::new() };
    env.iter()
        .filter_map(|(name, entry)| {
            let value = entry.get("value")?;
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            Some((name.clone(), text))
        })
        .collect()
}
