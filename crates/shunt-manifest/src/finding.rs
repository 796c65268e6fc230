//! What a check says.

use std::{fmt, io, path::PathBuf};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It works, and it will be regretted.
    Warning,
    /// A tool or the device refuses it, or it does not do what it says.
    Error,
}

/// One thing that is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The rule's short name, the same in every version: `route`, `schema`, ...
    pub rule: &'static str,
    /// Where, as a JSON Pointer into the file; empty for the file as a whole.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What is allowed instead.
    pub allowed: String,
}

/// All findings of a check, in the order of the file's parts, and the manifest that was checked.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Report {
    /// What was found.
    pub findings: Vec<Finding>,
    /// The manifest, expanded.
    pub manifest: serde_json::Value,
}

/// Why a file could not be expanded or checked at all.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A file could not be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is no JSON.
    #[error("{path} is no JSON", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A file is far larger than any manifest.
    #[error("{path} has {length} bytes; allowed are {limit}", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        length: u64,
        /// The largest size in bytes.
        limit: u64,
    },
    /// The text is JSON but no manifest.
    #[error(
        "there is neither modulesContent nor content.modulesContent in the file; a deployment manifest has one of them"
    )]
    NoModules,
    /// A module's createOptions do not fit into the pieces that the tools make.
    #[error("createOptions of {module} have {length} characters; allowed are 8 pieces of 512")]
    CreateOptionsTooLong {
        /// The module.
        module: String,
        /// Characters of the JSON text.
        length: usize,
    },
    /// A `module.json` lacks what a tag is made of.
    #[error("{path} has no {what}", path = path.display())]
    ModuleJson {
        /// The file.
        path: PathBuf,
        /// What it lacks: `image.repository`, ...
        what: &'static str,
    },
}

// === impl Severity ===

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

// === impl Finding ===

impl Finding {
    pub(crate) fn error(rule: &'static str, path: impl Into<String>, message: String, allowed: &str) -> Self {
        Self { severity: Severity::Error, rule, path: path.into(), message, allowed: allowed.to_owned() }
    }

    pub(crate) fn warning(
        rule: &'static str,
        path: impl Into<String>,
        message: String,
        allowed: &str,
    ) -> Self {
        Self { severity: Severity::Warning, ..Self::error(rule, path, message, allowed) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.severity)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if !self.allowed.is_empty() {
            write!(f, "; {}", self.allowed)?;
        }
        write!(f, " [{}]", self.rule)
    }
}

// === impl Report ===

impl Report {
    /// Is any finding an error?
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }
}
