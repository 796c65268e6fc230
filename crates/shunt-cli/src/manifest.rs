//! `shunt manifest`: deployment manifests and their templates.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::Value;
use shunt_manifest::{Environment, Options, check, expand};

use crate::output;

/// Check a deployment manifest, or make one from a template.
#[derive(Debug, Args)]
pub(crate) struct Manifest {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Find what is wrong, also what the official tools let pass. Exit code 1 where something is.
    Check {
        /// Manifests or templates.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The platform that templates are expanded for.
        #[arg(long, default_value = "amd64")]
        platform: String,
        /// Print each file's findings as a line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the manifest that a template makes.
    Expand {
        /// The template.
        file: PathBuf,
        /// The platform to expand for.
        #[arg(long, default_value = "amd64")]
        platform: String,
    },
}

// === impl Manifest ===

impl Manifest {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.action {
            Action::Check { files, platform, json } => {
                let mut wrong = false;
                for file in &files {
                    let report = check(file, &options(file, &platform)?)
                        .with_context(|| format!("cannot check {}", file.display()))?;
                    wrong |= report.has_errors();
                    if json {
                        let findings = serde_json::json!({"file": file, "findings": report.findings});
                        output::line(findings)?;
                        continue;
                    }
                    for finding in &report.findings {
                        output::line(format_args!("{}: {finding}", file.display()))?;
                    }
                    if !report.has_errors() {
                        output::line(format_args!("{}: ok", file.display()))?;
                    }
                }
                Ok(if wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS })
            }
            Action::Expand { file, platform } => {
                let manifest = expand(&file, &options(&file, &platform)?)?.manifest;
                output::line(serde_json::to_string_pretty(&manifest)?)?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// Reads a manifest; a template is expanded.
pub(crate) fn expand_file(file: &Path) -> anyhow::Result<Value> {
    Ok(expand(file, &options(file, "amd64")?)?.manifest)
}

/// The variables of the process and of `.env` beside the file, as the official tools take them.
fn options(file: &Path, platform: &str) -> anyhow::Result<Options> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let environment = Environment::load(folder, std::env::vars())
        .with_context(|| format!("cannot read the .env file in {}", folder.display()))?;
    Ok(Options { platform: platform.to_owned(), environment })
}
