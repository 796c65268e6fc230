//! `shunt invoke`: a request straight to a module's HTTP port, or to an application through the gateway.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Args;

use crate::{
    chain::{self, Chain},
    control::encode,
    output,
    up::ports,
};

/// Send a request to a module's own HTTP interface: `shunt invoke relay /metrics`.
#[derive(Debug, Args)]
pub(crate) struct Invoke {
    /// The module; with --app the app id.
    module: String,
    /// The path: /healthz, /readyz, /metrics, /score.
    path: String,
    /// Call an app id through the gateway, as an application does, in place of a module by its own port.
    #[arg(long)]
    app: bool,
    /// POST the content of this file (a picture, JSON).
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// POST this text as JSON.
    #[arg(long, conflicts_with = "file")]
    json: Option<String>,
    /// The folder of the chain.
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// What a module has to answer in.
const LIMIT: Duration = Duration::from_secs(30);

// === impl Invoke ===

impl Invoke {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let chain = Chain::read(&self.folder.unwrap_or_else(chain::default_folder));
        let asked = if self.app { "gateway" } else { &self.module };
        let address = match chain {
            Ok(chain) => chain.processes.get(asked).and_then(|process| process.address.clone()),
            // A module that somebody else started listens on its usual port.
            Err(_) => ports::usual(asked).map(|port| format!("127.0.0.1:{port}")),
        };
        let address = address.with_context(|| format!("no module {asked:?} runs"))?;
        let client = reqwest::Client::builder().no_proxy().tcp_nodelay(true).timeout(LIMIT).build()?;
        let path = self.path.trim_start_matches('/');
        let url = if self.app {
            format!("http://{address}/v1.0/invoke/{}/method/{path}", encode(&self.module))
        } else {
            format!("http://{address}/{path}")
        };
        let request = match (self.file, self.json) {
            (Some(file), _) => {
                let bytes =
                    std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
                let kind = match file.extension().and_then(|extension| extension.to_str()) {
                    Some("jpg" | "jpeg") => "image/jpeg",
                    Some("png") => "image/png",
                    Some("json") => "application/json",
                    _ => "application/octet-stream",
                };
                client.post(&url).header("content-type", kind).body(bytes)
            }
            (None, Some(json)) => client.post(&url).header("content-type", "application/json").body(json),
            (None, None) => client.get(&url),
        };
        let answer = request.send().await.with_context(|| format!("no answer from {url}"))?;
        let status = answer.status();
        let text = answer.text().await?;
        output::line(text.trim_end())?;
        if !status.is_success() {
            output::complain(format_args!("{} answered {status}", self.module));
            return Ok(ExitCode::FAILURE);
        }
        Ok(ExitCode::SUCCESS)
    }
}
