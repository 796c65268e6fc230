//! Where things are, and how the templates are expanded in tests.

use std::path::PathBuf;

use serde_json::Value;
use shunt_manifest::{Environment, Options, expand};
use shunt_testkit::repo_root;

pub(crate) const REGISTRY: &str = "registry.example:5000/shunt";

/// The modules that there are.
pub(crate) const MODULES: [&str; 9] =
    ["bus", "camera", "emotion", "functions", "gateway", "inference", "relay", "rules", "sentiment"];

pub(crate) fn options() -> Options {
    let registry = ("CONTAINER_REGISTRY_ADDRESS".to_owned(), REGISTRY.to_owned());
    Options { environment: Environment::new([registry]), ..Options::default() }
}

pub(crate) fn templates() -> [PathBuf; 2] {
    ["deployment.template.json", "deployment.debug.template.json"].map(|name| repo_root().join(name))
}

/// Our own manifest, expanded.
pub(crate) fn manifest() -> anyhow::Result<Value> {
    let [release, _] = templates();
    Ok(expand(&release, &options())?.manifest)
}
