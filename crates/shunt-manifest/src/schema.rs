//! The published schemas, applied as the real tools apply them.

use std::sync::LazyLock;

use jsonschema::{Draft, Registry, ValidationError, Validator, error::ValidationErrorKind};
use serde_json::{Value, json};

use crate::finding::Finding;

const DEPLOYMENT: &str = include_str!("../schemas/schemastore/azure-iot-edge-deployment-2.0.json");
const TEMPLATE: &str = include_str!("../schemas/schemastore/azure-iot-edge-deployment-template-4.0.json");
/// What the template's schema refers to.
const REFERRED: [&str; 2] = [
    include_str!("../schemas/schemastore/azure-iot-edgeagent-deployment-1.1.json"),
    include_str!("../schemas/schemastore/azure-iot-edgehub-deployment-1.2.json"),
];

/// The schema versions that `az iot edge set-modules` has a schema for.
const AGENT: [(&str, &str); 2] = [
    ("1.0", include_str!("../schemas/azure-iot-cli-extension/azure-iot-edgeagent-deployment-1.0.json")),
    ("1.1", include_str!("../schemas/azure-iot-cli-extension/azure-iot-edgeagent-deployment-1.1.json")),
];
const HUB: [(&str, &str); 3] = [
    ("1.0", include_str!("../schemas/azure-iot-cli-extension/azure-iot-edgehub-deployment-1.0.json")),
    ("1.1", include_str!("../schemas/azure-iot-cli-extension/azure-iot-edgehub-deployment-1.1.json")),
    ("1.2", include_str!("../schemas/azure-iot-cli-extension/azure-iot-edgehub-deployment-1.2.json")),
];

/// A schema version that edgeHub takes and no tool checks.
const HUB_UNCHECKED: &str = "1.3";

/// A schema that was read; none where the copy in this crate is broken, which a test rules out.
type Compiled = Option<Validator>;

static DEPLOYMENT_VALIDATOR: LazyLock<Compiled> = LazyLock::new(|| compile(DEPLOYMENT));
static TEMPLATE_VALIDATOR: LazyLock<Compiled> = LazyLock::new(|| compile(TEMPLATE));
static AGENT_VALIDATORS: LazyLock<[Compiled; 2]> = LazyLock::new(|| AGENT.map(|(_, schema)| compile(schema)));
static HUB_VALIDATORS: LazyLock<[Compiled; 3]> = LazyLock::new(|| HUB.map(|(_, schema)| compile(schema)));

fn compile(schema: &str) -> Compiled {
    let schema: Value = serde_json::from_str(schema).ok()?;
    let mut registry = Registry::new();
    for referred in REFERRED {
        let referred: Value = serde_json::from_str(referred).ok()?;
        let id = referred.get("id")?.as_str()?.to_owned();
        registry = registry.add(id, referred).ok()?;
    }
    let registry = registry.prepare().ok()?;
    jsonschema::options().with_draft(Draft::Draft4).with_registry(&registry).build(&schema).ok()
}

/// The template as it stands in the file, against the template's schema. No command of iotedgedev does this.
pub(crate) fn check_template(template: &Value) -> Vec<Finding> {
    run("template-schema", TEMPLATE_VALIDATOR.as_ref(), template, "")
}

/// The manifest against the schema that iotedgedev and the VS Code extension use.
pub(crate) fn check_deployment(manifest: &Value) -> Vec<Finding> {
    run("schema", DEPLOYMENT_VALIDATOR.as_ref(), manifest, "")
}

/// `$edgeAgent` and `$edgeHub` one by one against the schema of their version, as `az iot edge set-modules` does.
/// `content` is the JSON Pointer of `modulesContent`.
pub(crate) fn check_sections(manifest: &Value, content: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (module, known, validators) in [
        ("$edgeAgent", AGENT.map(|(version, _)| version).to_vec(), AGENT_VALIDATORS.as_slice()),
        ("$edgeHub", HUB.map(|(version, _)| version).to_vec(), HUB_VALIDATORS.as_slice()),
    ] {
        let Some(section) = manifest.pointer(&format!("{content}/{module}")) else { continue };
        let place = format!("{content}/{module}/properties.desired/schemaVersion");
        let version = section.pointer("/properties.desired/schemaVersion");
        let allowed = format!("allowed: {}", known.join(", "));
        match version {
            // The schema of the whole manifest tells of a missing one.
            None => {}
            Some(Value::String(version)) => match known.iter().position(|known| known == version) {
                Some(index) => {
                    let instance = json!({ module: section });
                    let validator = validators.get(index).and_then(Option::as_ref);
                    findings.extend(run("schema", validator, &instance, content));
                }
                None if module == "$edgeHub" && version == HUB_UNCHECKED => {
                    let message = format!("schema version {version} of {module} is checked by no tool");
                    findings.push(Finding::warning("schema-version", place, message, &allowed));
                }
                None => {
                    let message = format!(
                        "{module} has the unknown schema version {version:?}, so tools skip its check"
                    );
                    findings.push(Finding::error("schema-version", place, message, &allowed));
                }
            },
            Some(other) => {
                let message = format!("the schema version {other} of {module} is no text");
                findings.push(Finding::error("schema-version", place, message, &allowed));
            }
        }
    }
    findings
}

fn run(rule: &'static str, validator: Option<&Validator>, instance: &Value, prefix: &str) -> Vec<Finding> {
    let Some(validator) = validator else {
        return vec![Finding::error(rule, prefix, "the built-in schema cannot be used".to_owned(), "")];
    };
    let mut findings = Vec::new();
    for error in validator.iter_errors(instance) {
        explain(rule, &error, prefix, &mut findings);
    }
    findings
}

/// Says what was wrong and what is allowed. Of the branches of an `anyOf`, the one that came furthest is told.
fn explain(rule: &'static str, error: &ValidationError<'_>, prefix: &str, findings: &mut Vec<Finding>) {
    let path = format!("{prefix}{}", error.instance_path());
    let instance = error.instance();
    let finding = match error.kind() {
        ValidationErrorKind::AnyOf { context } => {
            let same_kind = context.iter().find(|branch| {
                !branch.is_empty()
                    && branch.iter().all(|inner| {
                        !matches!(inner.kind(), ValidationErrorKind::Type { .. })
                            || !inner.instance_path().as_str().eq(error.instance_path().as_str())
                    })
            });
            if let Some(branch) = same_kind {
                for inner in branch {
                    explain(rule, inner, prefix, findings);
                }
                return;
            }
            Finding::error(rule, path, format!("{} has none of the allowed forms", short(instance)), "")
        }
        ValidationErrorKind::Enum { options } => {
            let allowed: Vec<String> =
                options.as_array().into_iter().flatten().map(ToString::to_string).collect();
            Finding::error(
                rule,
                path,
                format!("{} is not allowed", short(instance)),
                &format!("allowed: {}", allowed.join(", ")),
            )
        }
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            let message = format!(
                "unknown name{} {}",
                if unexpected.len() == 1 { "" } else { "s" },
                unexpected.join(", ")
            );
            Finding::error(
                rule,
                path,
                message,
                "the schema allows only the names that it lists, or names of its pattern",
            )
        }
        ValidationErrorKind::Required { property } => {
            Finding::error(rule, path, format!("{property} is missing"), "it is required")
        }
        ValidationErrorKind::Type { .. } => {
            let text = error.to_string();
            let allowed =
                text.rsplit(" is not of type").next().unwrap_or_default().trim_start_matches('s').trim();
            let allowed = format!("allowed: {}", allowed.replace('"', ""));
            Finding::error(rule, path, format!("{} has the wrong type", short(instance)), &allowed)
        }
        _ => Finding::error(rule, path, error.to_string(), ""),
    };
    findings.push(finding);
}

/// A value, cut so that a message stays readable.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_schema_can_be_used() {
        assert!(DEPLOYMENT_VALIDATOR.is_some());
        assert!(TEMPLATE_VALIDATOR.is_some());
        assert!(AGENT_VALIDATORS.iter().chain(HUB_VALIDATORS.iter()).all(Option::is_some));
    }
}
