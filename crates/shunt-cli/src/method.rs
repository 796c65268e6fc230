//! `shunt method`: direct methods, as the cloud calls them.

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Args;
use serde_json::Value;

use crate::{output, twin::HubArgs, up};

/// Call a direct method of a module, playing the cloud's part.
#[derive(Debug, Args)]
pub(crate) struct Method {
    /// The module.
    module: String,
    /// The method.
    name: String,
    /// Its argument, JSON.
    #[arg(default_value = "null")]
    payload: String,
    /// How long the module may take.
    #[arg(long, value_name = "TIME", value_parser = up::parse_time, default_value = "10s")]
    timeout: Duration,
    #[command(flatten)]
    hub: HubArgs,
}

// === impl Method ===

impl Method {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let payload: Value = serde_json::from_str(&self.payload).context("the payload is not JSON")?;
        let (control, device) = self.hub.connect().await?;
        let (status, answer) =
            control.invoke(&device, &self.module, &self.name, &payload, self.timeout).await?;
        output::line(serde_json::to_string_pretty(
            &serde_json::json!({"status": status, "payload": answer}),
        )?)?;
        Ok(if (200..300).contains(&status) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
