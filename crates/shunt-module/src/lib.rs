//! What every module needs: settings with a verdict per field, health, metrics, logs, drain.
//!
//! A module is a settings struct and one function `run`. [`main`] does the rest: it reads the environment, opens the
//! bus and the hub, keeps the settings as the module twin wants them, answers direct methods (`ping`,
//! `getSettings`, `setLogLevel`, `diagnostics`, and those that `run` registers with [`Methods`]), and ends the process
//! in order.
//!
//! It promises:
//!
//! - Settings come from defaults, then the environment, then the twin (its last good state on disk, where the cloud
//!   is away). A change is all or nothing, and answered field by field in the reported twin (law 5).
//! - Bad settings at the start: every one is named, exit code 78. Bad settings by twin: the old ones stay in force.
//! - What a module tells of itself ([`Facts`]) stands in the reported twin beside the verdicts.
//! - `run` never reads the environment or binds a port, so a test runs a module in its own process:
//!   [`Context::for_test`].
//! - Queues, bodies and connections are bounded; the bound says what happens when it is reached (law 4).
//!
//! It deliberately does not send telemetry (law 2: only `relay` does), restart a failed module (IoT Edge does), or
//! know any module.
//!
//! ```no_run
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//! use shunt_module::{Context, Problems, Settings};
//!
//! /// What can be set.
//! #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
//! #[serde(default, deny_unknown_fields)]
//! struct HeartSettings {
//!     /// Beats a minute, 1 to 300.
//!     rate: f64,
//! }
//!
//! impl Default for HeartSettings {
//!     fn default() -> Self {
//!         Self { rate: 60.0 }
//!     }
//! }
//!
//! impl Settings for HeartSettings {
//!     const MODULE: &'static str = "heart";
//!
//!     fn check(&self, problems: &mut Problems) {
//!         if !(1.0..=300.0).contains(&self.rate) {
//!             problems.note("rate", format!("it is {}, but must be from 1 to 300", self.rate));
//!         }
//!     }
//! }
//!
//! async fn run(mut context: Context<HeartSettings>) -> anyhow::Result<()> {
//!     context.serve(axum::Router::new());
//!     loop {
//!         tokio::select! {
//!             () = context.shutdown.cancelled() => return Ok(()),
//!             change = context.settings.change() => change.accept(),
//!         }
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     shunt_module::main(run)
//! }
//! ```

mod bus_tls;
mod context;
mod dead_letters;
pub mod docs;
mod facts;
mod frames;
mod handle;
mod health;
mod http;
mod local_settings;
mod logging;
mod methods;
mod metrics;
mod patience;
mod recent;
mod redact;
mod report;
mod schema;
pub mod services;
mod settings;
mod standard_methods;
mod start;
mod store;
#[cfg(test)]
mod testing;
mod twin;

pub use context::{Common, Context, Events};
pub use dead_letters::DeadLetters;
pub use facts::Facts;
pub use frames::{FrameIntake, FrameJob, FrameMailbox, FrameTally};
pub use handle::{Proposal, SettingsHandle, SettingsSender};
pub use health::Health;
pub use http::HttpProblem;
pub use methods::{MethodError, MethodQueue, Methods, QueuedCall};
pub use metrics::check_page;
pub use settings::{BadVariable, Problems, Settings};
pub use start::{default_port, live, main};
