//! Mosquitto, the broker that a device runs.

use std::{fmt::Write as _, net::SocketAddr, path::PathBuf, process::Command};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::{
    fresh_address,
    process::{Process, on_fresh_port},
};

/// What the broker's configuration says. The defaults are those of a test that needs nothing special.
#[derive(Debug, Clone)]
pub struct MosquittoOptions {
    /// Keep sessions, queued and retained messages on disk, so that they outlive a restart.
    pub persistence: bool,
    /// The most messages waiting for one client (assured ones; the broker drops what is beyond).
    pub max_queued_messages: u32,
    /// The most messages sent to one client and not yet acknowledged.
    pub max_inflight_messages: u32,
    /// The largest payload in bytes.
    pub message_size_limit: u32,
    /// Further lines of the configuration, for example TLS; they come after those of the listener.
    pub more: String,
}

impl Default for MosquittoOptions {
    fn default() -> Self {
        Self {
            persistence: false,
            max_queued_messages: 10_000,
            max_inflight_messages: 64,
            message_size_limit: 8 << 20,
            more: String::new(),
        }
    }
}

/// A running Mosquitto on a fresh loopback port, in a fresh folder. It is killed when this value is dropped.
#[derive(Debug)]
pub struct Mosquitto {
    addr: SocketAddr,
    folder: TempDir,
    process: Process,
}

// === impl Mosquitto ===

impl Mosquitto {
    /// Starts a broker that keeps nothing on disk; returns when it accepts connections.
    pub async fn start() -> anyhow::Result<Self> {
        Self::with(MosquittoOptions::default()).await
    }

    /// Starts a broker that keeps sessions and messages on disk, so that they outlive [`Mosquitto::restart`].
    pub async fn persistent() -> anyhow::Result<Self> {
        Self::with(MosquittoOptions { persistence: true, ..MosquittoOptions::default() }).await
    }

    /// Starts a broker with these options; returns when it accepts connections.
    pub async fn with(options: MosquittoOptions) -> anyhow::Result<Self> {
        on_fresh_port(async || {
            let process = Process::default();
            let mut broker = Self { addr: fresh_address()?, folder: tempfile::tempdir()?, process };
            std::fs::write(broker.configuration(), broker.text(&options)?)?;
            broker.launch().await?;
            Ok(broker)
        })
        .await
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The same as the address of a bus: `mqtt://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("mqtt://{}", self.addr)
    }

    /// What it wrote to its log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Stops it in order (SIGTERM), so that it writes down what it keeps; returns when it is gone.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.process.end(Signal::TERM).await
    }

    /// Kills it (SIGKILL), as a power cut does; returns when it is gone.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.process.end(Signal::KILL).await
    }

    /// Stops it if it runs, and starts it again on the same port; returns when it accepts connections.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.stop().await?;
        self.launch().await
    }

    fn configuration(&self) -> PathBuf {
        self.folder.path().join("mosquitto.conf")
    }

    fn text(&self, options: &MosquittoOptions) -> anyhow::Result<String> {
        let folder = self.folder.path().display();
        let MosquittoOptions { persistence, max_queued_messages, max_inflight_messages, .. } = options;
        let mut text = format!(
            "listener {} 127.0.0.1\n\
             set_tcp_nodelay true\n\
             allow_anonymous true\n\
             max_queued_messages {max_queued_messages}\n\
             max_inflight_messages {max_inflight_messages}\n\
             message_size_limit {}\n\
             persistence {persistence}\n\
             persistence_location {folder}/\n\
             log_dest file {folder}/log\n\
             log_type all\n",
            self.addr.port(),
            options.message_size_limit,
        );
        if rustix::process::geteuid().is_root() {
            // Otherwise Mosquitto becomes the user `mosquitto`, who cannot write into our folder.
            writeln!(text, "user root")?;
        }
        text.push_str(&options.more);
        Ok(text)
    }

    async fn launch(&mut self) -> anyhow::Result<()> {
        let program = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"]
            .into_iter()
            .find(|path| std::path::Path::new(path).is_file())
            .unwrap_or("mosquitto");
        let mut command = Command::new(program);
        command.arg("-c").arg(self.configuration());
        let mut process = std::mem::take(&mut self.process);
        let ready = async || TcpStream::connect(self.addr).await.is_ok();
        process.start("mosquitto", &mut command, ready, || self.log()).await?;
        self.process = process;
        Ok(())
    }
}
