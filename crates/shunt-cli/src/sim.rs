//! `shunt sim`: the stand-in for the IoT Edge runtime and IoT Hub as a process of its own.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use anyhow::Context;
use clap::Args;
use serde::{Deserialize, Serialize};
use shunt_sim::{Sim, SimOptions};

use crate::{manifest, output, up};

/// Run the stand-in for IoT Edge and IoT Hub alone, for modules and clients of your own.
#[derive(Debug, Args)]
pub(crate) struct SimArgs {
    /// Where its sockets and certificates are kept [default: a fresh folder].
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// The device's id.
    #[arg(long, default_value = "shunt-device")]
    device: String,
    /// MQTT over TLS, as edgeHub.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8883")]
    mqtt: SocketAddr,
    /// HTTPS: calls between modules, and the hub's own calls. The real port is 443.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    https: SocketAddr,
    /// Plain HTTP to steer it.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8880")]
    control: SocketAddr,
    /// Listen on whatever ports are free.
    #[arg(long)]
    fresh_ports: bool,
    /// Apply this deployment manifest (or template) at the start.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Print the addresses as one line of JSON, and nothing else.
    #[arg(long)]
    announce: bool,
}

/// Where the stand-in listens.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SimAddresses {
    /// The device's id.
    pub(crate) device: String,
    /// `http://host:port`
    pub(crate) control: String,
    /// `host:port`
    pub(crate) mqtt: String,
    /// `host:port`
    pub(crate) https: String,
}

// === impl SimArgs ===

impl SimArgs {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        start_log();
        let stop = up::stop_on_signals()?;
        let temporary = match self.folder {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("shunt-sim-").tempdir()?),
        };
        let folder = match (&self.folder, &temporary) {
            (Some(folder), _) => folder.clone(),
            (None, Some(temporary)) => temporary.path().to_path_buf(),
            (None, None) => PathBuf::from("."),
        };
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let at = |address: SocketAddr| {
            if self.fresh_ports { SocketAddr::from((Ipv4Addr::LOCALHOST, 0)) } else { address }
        };
        let sim = Sim::start(SimOptions {
            device_id: self.device.clone(),
            folder: folder.clone(),
            mqtt: at(self.mqtt),
            https: at(self.https),
            control: at(self.control),
            ..SimOptions::default()
        })
        .await
        .context("the stand-in cannot start")?;
        if let Some(file) = &self.manifest {
            sim.deploy(&manifest::expand_file(file)?).context("the manifest was refused")?;
        }
        let addresses = SimAddresses {
            device: self.device,
            control: format!("http://{}", sim.control()),
            mqtt: sim.mqtt().to_string(),
            https: sim.https().to_string(),
        };
        if self.announce {
            output::line(serde_json::to_string(&addresses)?)?;
        } else {
            output::line(format_args!("device    {}", addresses.device))?;
            output::line(format_args!("mqtt      {} (TLS)", addresses.mqtt))?;
            output::line(format_args!("https     {} (TLS)", addresses.https))?;
            output::line(format_args!("control   {}", addresses.control))?;
            output::line(format_args!("folder    {}", folder.display()))?;
            output::line(format_args!(
                "a module's environment: curl {}/modules/NAME/environment",
                addresses.control
            ))?;
        }
        stop.cancelled().await;
        sim.stop().await;
        Ok(())
    }
}

/// Log on standard error, by `SHUNT_LOG`.
pub(crate) fn start_log() {
    let filter = std::env::var("SHUNT_LOG").unwrap_or_else(|_| "warn".to_owned());
    let filter = tracing_subscriber::EnvFilter::builder().parse_lossy(filter);
    // Where a log is in force already, that one goes on.
    drop(tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).json().try_init());
}
