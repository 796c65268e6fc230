//! Redis, the other broker that a device may run.

use std::{fmt::Write as _, net::SocketAddr, path::PathBuf, process::Command};

use anyhow::Context;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use crate::{
    fresh_address,
    process::{LIMIT, Process, on_fresh_port},
};

/// What the configuration says. The defaults are those of a test that needs nothing special.
#[derive(Debug, Clone, Default)]
pub struct RedisOptions {
    /// Write every change to disk before it is answered (`appendonly`, `appendfsync always`), so that streams outlive
    /// a restart and a kill.
    pub persistence: bool,
    /// Listen with TLS only; the lines of `more` name the certificates.
    pub tls: bool,
    /// Further lines of the configuration, for example `requirepass`.
    pub more: String,
}

/// A running Redis on a fresh loopback port and a Unix socket, in a fresh folder. It is killed when this value is
/// dropped.
#[derive(Debug)]
pub struct Redis {
    addr: SocketAddr,
    folder: TempDir,
    process: Process,
}

// === impl Redis ===

impl Redis {
    /// Starts a server that keeps nothing on disk; returns when it answers.
    pub async fn start() -> anyhow::Result<Self> {
        Self::with(RedisOptions::default()).await
    }

    /// Starts a server that keeps everything on disk, so that it outlives [`Redis::restart`] and [`Redis::kill`].
    pub async fn persistent() -> anyhow::Result<Self> {
        Self::with(RedisOptions { persistence: true, ..RedisOptions::default() }).await
    }

    /// Starts a server with these options; returns when it answers.
    pub async fn with(options: RedisOptions) -> anyhow::Result<Self> {
        on_fresh_port(async || {
            let process = Process::default();
            let mut server = Self { addr: fresh_address()?, folder: tempfile::tempdir()?, process };
            std::fs::write(server.configuration(), server.text(&options)?)?;
            server.launch().await?;
            Ok(server)
        })
        .await
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The same as the address of a bus: `redis://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// What it wrote to its log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Sends a command, its words separated by spaces, and returns the answer as it is on the wire, as much of it as
    /// came in one piece.
    pub async fn command(&self, words: &str) -> anyhow::Result<String> {
        let call = async {
            let mut stream = UnixStream::connect(self.socket()).await?;
            stream.write_all(format!("{words}\r\n").as_bytes()).await?;
            let mut answer = vec![0; 64 << 10];
            let length = stream.read(&mut answer).await?;
            anyhow::Ok(String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned())
        };
        timeout(LIMIT, call).await.context("redis did not answer")?
    }

    /// Stops it in order (SIGTERM); returns when it is gone.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.process.end(Signal::TERM).await
    }

    /// Kills it (SIGKILL), as a power cut does; returns when it is gone.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.process.end(Signal::KILL).await
    }

    /// Stops it if it runs, and starts it again on the same port; returns when it answers.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.stop().await?;
        self.launch().await
    }

    fn configuration(&self) -> PathBuf {
        self.folder.path().join("redis.conf")
    }

    fn text(&self, options: &RedisOptions) -> anyhow::Result<String> {
        let (folder, port) = (self.folder.path().display(), self.addr.port());
        let (plain, private) = if options.tls { (0, port) } else { (port, 0) };
        let mut text = format!(
            "bind 127.0.0.1\n\
             port {plain}\n\
             unixsocket {folder}/socket\n\
             dir {folder}\n\
             logfile {folder}/log\n\
             daemonize no\n\
             save \"\"\n"
        );
        if options.tls {
            writeln!(text, "tls-port {private}")?;
        }
        if options.persistence {
            text.push_str("appendonly yes\nappendfsync always\n");
        }
        text.push_str(&options.more);
        Ok(text)
    }

    async fn launch(&mut self) -> anyhow::Result<()> {
        // A killed server leaves its socket.
        std::fs::remove_file(self.socket()).ok();
        let mut command = Command::new("redis-server");
        command.arg(self.configuration());
        let mut process = std::mem::take(&mut self.process);
        // It answers also where it wants a password first; but not before it has read what is on disk.
        let ready = async || {
            self.socket().exists()
                && self
                    .command("PING")
                    .await
                    .is_ok_and(|answer| !answer.is_empty() && !answer.starts_with("-LOADING"))
        };
        process.start("redis-server", &mut command, ready, || self.log()).await?;
        self.process = process;
        Ok(())
    }
}
