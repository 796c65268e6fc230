//! The servers that a measurement needs, each started when it is first needed.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};

use anyhow::Context;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::child::{self, Process, Program};

/// What a server has to come up in.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How long a server may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// A running server; it ends with this process.
#[derive(Debug)]
pub(super) struct Server {
    process: Process,
    pub(super) port: u16,
}

/// Why there is no server.
#[derive(Debug)]
pub(super) enum NoServer {
    /// A program is missing; the command that installs it.
    NotInstalled(&'static str),
    /// It did not start.
    Failed(anyhow::Error),
}

// === impl Server ===

impl Server {
    /// Mosquitto as a device has it: nothing waits for more data.
    pub(super) async fn mosquitto(folder: &Path) -> Result<Self, NoServer> {
        let port = fresh_port()?;
        let file = folder.join(format!("mosquitto-{port}.conf"));
        // Started by root, Mosquitto changes to a user of its own, who may not be able to read our folder.
        let user = if rustix::process::getuid().is_root() { "user root\n" } else { "" };
        let text = format!(
            "{user}listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nmax_queued_messages 10000\nmax_inflight_messages 64\nmax_packet_size 8388608\npersistence false\nlog_type error\n"
        );
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        Self::start("mosquitto", MOSQUITTO, vec!["-c".to_owned(), file.display().to_string()], port).await
    }

    /// Mosquitto as it is without any configuration.
    pub(super) async fn default_mosquitto() -> Result<Self, NoServer> {
        let port = fresh_port()?;
        Self::start("mosquitto", MOSQUITTO, vec!["-p".to_owned(), port.to_string()], port).await
    }

    /// Redis that keeps nothing on disk.
    pub(super) async fn redis(folder: &Path) -> Result<Self, NoServer> {
        let port = fresh_port()?;
        let folder = folder.display().to_string();
        let port_text = port.to_string();
        let arguments = [
            "--port",
            &port_text,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            &folder,
        ];
        Self::start("redis-server", REDIS, arguments.map(str::to_owned).to_vec(), port).await
    }

    /// The module `bus`, as on a device: TLS, and each client proves who it is. `environment` is what IoT Edge gives it.
    pub(super) async fn bus(
        folder: &Path,
        mut environment: BTreeMap<String, String>,
        modules: &Value,
    ) -> Result<Self, NoServer> {
        // It starts Mosquitto itself.
        child::find_program("mosquitto").ok_or(NoServer::NotInstalled(MOSQUITTO))?;
        let port = fresh_port()?;
        let ours = [
            ("SHUNT_BUS_ADDRESS", "127.0.0.1".to_owned()),
            ("SHUNT_BUS_TLS_PORT", port.to_string()),
            ("SHUNT_BUS_MODULES", modules.to_string()),
            ("SHUNT_BUS_URL", format!("mqtts://localhost:{port}")),
        ];
        environment.extend(ours.map(|(name, value)| (name.to_owned(), value)));
        Self::module("bus", folder, environment, format!("127.0.0.1:{}", fresh_port()?), port).await
    }

    /// The module `gateway`, which finds these apps at these addresses.
    pub(super) async fn gateway(folder: &Path, bus_url: &str, apps: &Value) -> Result<Self, NoServer> {
        let port = fresh_port()?;
        let environment = BTreeMap::from([
            ("SHUNT_BUS_URL".to_owned(), bus_url.to_owned()),
            ("SHUNT_GATEWAY_APPS".to_owned(), apps.to_string()),
        ]);
        Self::module("gateway", folder, environment, format!("127.0.0.1:{port}"), port).await
    }

    /// Starts a module that is built beside this program and waits for this port.
    async fn module(
        name: &str,
        folder: &Path,
        mut environment: BTreeMap<String, String>,
        listen: String,
        port: u16,
    ) -> Result<Self, NoServer> {
        let program = std::env::current_exe().context("cannot find the file of this program")?;
        let file = program.with_file_name(name);
        if !file.is_file() {
            return Err(NoServer::NotInstalled(BUILD));
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let ours = [
            ("PATH", path),
            ("SHUNT_DATA_DIR", folder.display().to_string()),
            ("SHUNT_HTTP_LISTEN", listen),
            ("SHUNT_LOG", "warn".to_owned()),
        ];
        environment.extend(ours.map(|(name, value)| (name.to_owned(), value)));
        let environment = environment.into_iter().collect();
        Self::run(name, Program { file, arguments: Vec::new(), environment }, port).await
    }

    /// Starts a program that listens on this port of the loopback interface.
    async fn start(
        program: &str,
        install: &'static str,
        arguments: Vec<String>,
        port: u16,
    ) -> Result<Self, NoServer> {
        let file = child::find_program(program).ok_or(NoServer::NotInstalled(install))?;
        Self::run(program, Program { file, arguments, environment: Vec::new() }, port).await
    }

    /// Starts a program and waits until this port takes connections.
    async fn run(name: &str, program: Program, port: u16) -> Result<Self, NoServer> {
        let mut process = Process::start(&program)?;
        swallow(&mut process);
        let mut server = Self { process, port };
        if let Err(error) = server.ready(name).await {
            server.stop().await;
            return Err(NoServer::Failed(error));
        }
        Ok(server)
    }

    async fn ready(&mut self, program: &str) -> anyhow::Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        let wait = async {
            while TcpStream::connect(address).await.is_err() {
                anyhow::ensure!(!self.process.has_ended(), "{program} ended at once");
                tick.tick().await;
            }
            Ok(())
        };
        tokio::time::timeout(START_LIMIT, wait)
            .await
            .with_context(|| format!("{program} does not listen on {address}"))?
    }

    pub(super) async fn stop(&mut self) {
        self.process.stop(STOP_LIMIT).await;
    }
}

/// What each program is installed with.
const MOSQUITTO: &str = "apt-get install mosquitto";
const REDIS: &str = "apt-get install redis-server";
/// A module that is not built beside this program.
const BUILD: &str = "cargo build --workspace";

// === impl NoServer ===

impl From<anyhow::Error> for NoServer {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

/// Reads what a process writes, so that it never waits for us.
pub(super) fn swallow(process: &mut Process) {
    if let Some((mut out, mut err)) = process.take_output() {
        tokio::spawn(async move {
            let (mut nowhere, mut too) = (tokio::io::sink(), tokio::io::sink());
            // Ends with the process; nothing of it is wanted.
            drop(tokio::join!(tokio::io::copy(&mut out, &mut nowhere), tokio::io::copy(&mut err, &mut too)));
        });
    }
}

pub(super) fn fresh_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
    Ok(listener.local_addr()?.port())
}
