//! Deployment manifests of IoT Edge: expand a template, read the routes, and find what is wrong before a device does.
//!
//! It promises:
//!
//! - [`expand()`] gives what iotedgedev and the VS Code extension generate from a template: environment put in, images named
//!   after `module.json`, `createOptions` turned into texts of at most 512 characters;
//! - [`check()`] applies the published schemas as the real tools do (iotedgedev's, and those of `az iot edge set-modules`),
//!   and finds what these let pass: placeholders nobody filled, a schema version nobody knows, routes that edgeHub would
//!   refuse or that lead nowhere, variables of the environment that rewrite the manifest, secrets, and more;
//! - [`routes`] is the language of routes, with edgeHub's rules.
//!
//! It deliberately does not write files, fetch anything, or talk to a hub. One thing it does otherwise than the tools: a
//! variable named like a word of the manifest (`upstream`, `edgeHub`, ...) is told of and not put in.
//!
//! # Example
//!
//! ```
//! use shunt_manifest::{Environment, Options, Severity, check_text};
//!
//! # fn main() -> Result<(), shunt_manifest::ManifestError> {
//! let manifest = r#"{"modulesContent": {
//!     "$edgeAgent": {"properties.desired": {"schemaVersion": "1.1"}},
//!     "$edgeHub": {"properties.desired": {"schemaVersion": "1.2", "routes": {"all": "FROM /messages/* INTO $cloud"}}}
//! }}"#;
//! let options = Options { environment: Environment::default(), ..Options::default() };
//! let report = check_text(manifest, std::path::Path::new("."), &options)?;
//! assert!(report.has_errors());
//! let route = report.findings.iter().find(|finding| finding.rule == "route");
//! let route = route.map(|finding| (finding.severity, finding.path.as_str()));
//! assert_eq!(route, Some((Severity::Error, "/modulesContent/$edgeHub/properties.desired/routes/all")));
//! # Ok(())
//! # }
//! ```

mod check;
mod content;
mod duplicates;
mod environment;
mod expand;
mod finding;
pub mod routes;
mod schema;

pub use self::{
    check::{check, check_text},
    content::create_options,
    environment::{Environment, EnvironmentOrigin},
    expand::{Expansion, Options, expand, expand_text},
    finding::{Finding, ManifestError, Report, Severity},
};
