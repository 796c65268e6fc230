//! Where things are: the repository, the running chain.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// What a running chain leaves in its folder, so that other commands find it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Chain {
    /// The process of `shunt up`.
    pub(crate) pid: u32,
    /// The device's id at the hub.
    pub(crate) device: String,
    /// The stand-in's control address: `http://127.0.0.1:port`.
    pub(crate) control: String,
    /// The bus: `mqtts://localhost:port`, `redis://127.0.0.1:port`; empty where the manifest names none.
    pub(crate) bus: String,
    /// What runs.
    pub(crate) processes: BTreeMap<String, ProcessNote>,
}

/// A running process of the chain.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ProcessNote {
    /// Its process id.
    pub(crate) pid: i32,
    /// Its HTTP address: `127.0.0.1:port`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) address: Option<String>,
}

// === impl Chain ===

impl Chain {
    const FILE: &str = "up.json";

    /// Leaves the note, whole or not at all.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let (file, draft) = (folder.join(Self::FILE), folder.join("up.json.new"));
        std::fs::write(&draft, serde_json::to_vec_pretty(self)?)
            .and_then(|()| std::fs::rename(&draft, &file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// Takes the note away.
    pub(crate) fn remove(folder: &Path) {
        drop(std::fs::remove_file(folder.join(Self::FILE)));
    }

    /// The chain that runs in this folder.
    pub(crate) fn read(folder: &Path) -> anyhow::Result<Self> {
        let file = folder.join(Self::FILE);
        let text = std::fs::read(&file).with_context(|| {
            format!(
                "no chain runs in {} (start one with `shunt up`, or name another folder with --folder)",
                folder.display()
            )
        })?;
        let chain: Self =
            serde_json::from_slice(&text).with_context(|| format!("cannot read {}", file.display()))?;
        let alive = Path::new("/proc").join(chain.pid.to_string()).exists();
        anyhow::ensure!(alive, "the chain of {} is gone (start one with `shunt up`)", folder.display());
        Ok(chain)
    }
}

/// The folder with `deployment.template.json`: the current one or the nearest above it, else the one that this
/// program was built in.
pub(crate) fn repository() -> Option<PathBuf> {
    let here = std::env::current_dir().ok();
    let program = std::env::current_exe().ok();
    let is_one =
        |folder: &&Path| folder.join("deployment.template.json").is_file() && folder.join("modules").is_dir();
    [here, program, Some(PathBuf::from(env!("CARGO_MANIFEST_DIR")))]
        .into_iter()
        .flatten()
        .find_map(|start| start.ancestors().find(is_one).map(Path::to_path_buf))
}

/// Where a chain keeps its files unless told otherwise.
pub(crate) fn default_folder() -> PathBuf {
    repository().unwrap_or_else(|| PathBuf::from(".")).join(".shunt/run")
}

/// Where the interpreters of text functions are: `SHUNT_INTERPRETERS_DIR`, else where scripts/demo and scripts/test put
/// them.
pub(crate) fn interpreters_folder() -> PathBuf {
    match std::env::var_os("SHUNT_INTERPRETERS_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => repository().unwrap_or_else(|| PathBuf::from(".")).join(".shunt/interpreters"),
    }
}

/// Where model files are looked up: `SHUNT_MODELS_DIR`, else the repository's.
pub(crate) fn models_folder() -> PathBuf {
    match std::env::var_os("SHUNT_MODELS_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => repository().unwrap_or_else(|| PathBuf::from(".")).join("models"),
    }
}
