//! What every module needs: settings with a verdict per field, health, metrics, traces, drain.
//!
//! SKELETON: signatures are the contract; bodies are to be written.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use shunt_bus::Bus;
use shunt_hub::Hub;
use shunt_wire::{Envelope, Kind, Name};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The settings of a module: one flat typed struct with `#[serde(default, deny_unknown_fields)]`, whose doc
/// comments and defaults make the reference table, whose fields are the twin's desired properties, and whose
/// environment variables are `SHUNT_<MODULE>_<FIELD>` (for example `SHUNT_CAMERA_SOURCE`).
pub trait Settings:
    Serialize + DeserializeOwned + JsonSchema + Default + Clone + PartialEq + Send + Sync + 'static
{
    /// The module's name: `camera`.
    const MODULE: &'static str;

    /// Rules that types cannot tell: notes each broken one.
    fn check(&self, problems: &mut Problems);
}

/// What is wrong with settings, field by field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(Vec<(String, String)>);

impl Problems {
    /// Notes a problem: the field, and a sentence that says what was wrong and what is allowed.
    pub fn note(&mut self, field: &str, problem: impl Into<String>) {
        self.0.push((field.to_owned(), problem.into()));
    }

    /// Nothing wrong?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All notes: field, problem.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(field, problem)| (field.as_str(), problem.as_str()))
    }
}

/// New settings that passed all checks and wait for the module's word. Dropping it counts as accepted.
#[derive(Debug)]
pub struct Proposal<S> {
    /// The settings proposed.
    pub settings: Arc<S>,
}

impl<S: Settings> Proposal<S> {
    /// They are in force now.
    pub fn accept(self) {}

    /// They cannot be used (a model that does not load, ...): the old ones stay in force; the reported twin says why.
    pub fn refuse(self, problems: Problems) {
        let _ = problems;
    }
}

/// The settings in force, and the changes that come by twin.
#[derive(Debug)]
pub struct SettingsHandle<S>(std::marker::PhantomData<S>);

impl<S: Settings> SettingsHandle<S> {
    /// Settings that never change, for tests.
    pub fn fixed(settings: S) -> Self {
        let _ = settings;
        todo!()
    }

    /// Settings whose changes the test itself proposes; the function resolves to the module's verdict.
    pub fn channel(settings: S) -> (Self, SettingsSender<S>) {
        let _ = settings;
        todo!()
    }

    /// Those in force.
    pub fn current(&self) -> Arc<S> {
        todo!()
    }

    /// The next change. Cancel-safe. Never resolves if there can be none any more.
    pub async fn change(&mut self) -> Proposal<S> {
        todo!()
    }
}

/// The other end of [`SettingsHandle::channel`].
#[derive(Debug)]
pub struct SettingsSender<S>(std::marker::PhantomData<S>);

impl<S: Settings> SettingsSender<S> {
    /// Proposes; resolves to the module's verdict.
    pub async fn propose(&self, settings: S) -> Result<(), Problems> {
        let _ = settings;
        todo!()
    }
}

/// Is the module alive, and ready to work? Parts report by name; `/readyz` lists those that are not ready.
#[derive(Debug, Clone)]
pub struct Health(());

impl Health {
    /// Says whether a part of the module is ready, and if not, why.
    pub fn set(&self, part: &'static str, ready: Result<(), String>) {
        let _ = (part, ready);
    }
}

/// Folders and limits that every module shares, from `SHUNT_...` variables.
#[derive(Debug, Clone)]
pub struct Common {
    /// `SHUNT_DATA_DIR`: what must survive a restart (default `/data`).
    pub data_dir: PathBuf,
    /// `SHUNT_FRAMES_DIR`: frames in shared memory; unset: JPEG in the event.
    pub frames_dir: Option<PathBuf>,
    /// `SHUNT_MODELS_DIR`: model files (default `/models`).
    pub models_dir: PathBuf,
    /// `SHUNT_DRAIN_LIMIT`: seconds to finish work after SIGTERM (default 8).
    pub drain_limit: Duration,
}

/// What a module's `run` gets.
#[derive(Debug)]
pub struct Context<S> {
    /// The module's name on the device (`IOTEDGE_MODULEID`, else [`Settings::MODULE`]).
    pub name: Name,
    /// Its settings.
    pub settings: SettingsHandle<S>,
    /// The bus.
    pub bus: Bus,
    /// The hub, where there is an identity for it. Twin and methods are served by shunt-module; only `relay`
    /// sends telemetry (law 2).
    pub hub: Option<Hub>,
    /// Folders and limits.
    pub common: Common,
    /// Health.
    pub health: Health,
    /// Metrics: names `shunt_<module>_<name>_<unit>[_total]`.
    pub metrics: prometheus::Registry,
    /// The listener of the module's HTTP interface, bound already.
    pub listener: tokio::net::TcpListener,
    /// Cancelled when the module has to stop.
    pub shutdown: CancellationToken,
    /// Spawn tasks here; the drain waits for them.
    pub tasks: TaskTracker,
}

impl<S: Settings> Context<S> {
    /// An event of this module: fresh id, the time now.
    pub fn event(&self, kind: Kind, source: Name) -> Envelope {
        let _ = (kind, source);
        todo!()
    }

    /// Serves `/healthz`, `/readyz`, `/metrics` and the module's own routes on the listener until shutdown.
    /// Call once.
    pub fn serve(&self, routes: axum::Router) {
        let _ = routes;
        todo!()
    }
}

/// The main function of every module: logging, environment, settings (exit code 78 naming every bad one), bus,
/// hub, twin, methods, signals, `run`, drain.
pub fn main<S, F, R>(run: F) -> ExitCode
where
    S: Settings,
    F: FnOnce(Context<S>) -> R,
    R: Future<Output = anyhow::Result<()>> + Send,
{
    let _ = run;
    todo!()
}
