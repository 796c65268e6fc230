//! The broker's process.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, ChildStderr, Command},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use crate::{configuration::OPENSSL, tally::Tally};

/// What the broker has to come up in.
const START_LIMIT: Duration = Duration::from_secs(10);
/// What the rest of its log may take after its end.
const LOG_LIMIT: Duration = Duration::from_secs(1);
/// The newest lines of its log that are kept, to say why it did not start. Older ones go.
const KEPT_LINES: usize = 8;
/// The longest line of its log in bytes; its own limit is about 1,000.
const LINE: u64 = 4096;

/// The programs that we need.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    broker: PathBuf,
    /// Makes the kernel end the broker when we are killed; Debian always has it.
    setpriv: Option<PathBuf>,
}

/// A running broker. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Broker {
    child: Child,
    pid: Pid,
    lines: Arc<Mutex<VecDeque<String>>>,
    /// Reads its log; ends with it.
    reader: JoinHandle<()>,
}

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokerError {
    #[error("mosquitto is not installed: it is not in PATH, nor where system programs are")]
    Missing,
    #[error("mosquitto cannot be started: {0}")]
    Start(#[source] io::Error),
    #[error("mosquitto ended: {0}")]
    Ended(String),
    #[error("mosquitto takes no connections in time: {0}")]
    Silent(String),
}

// === impl Programs ===

impl Programs {
    pub(crate) fn find() -> Result<Self, BrokerError> {
        let setpriv = find("setpriv");
        if setpriv.is_none() {
            tracing::warn!(
                "The program setpriv is missing: were this module killed, the broker would go on alone."
            );
        }
        Ok(Self { broker: find("mosquitto").ok_or(BrokerError::Missing)?, setpriv })
    }

    fn command(&self) -> Command {
        match &self.setpriv {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(&self.broker);
                command
            }
            None => Command::new(&self.broker),
        }
    }
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

// === impl Broker ===

impl Broker {
    /// Starts it; returns when it takes connections. The settings of its TLS library lie beside its configuration.
    ///
    /// Not to be called from a thread that ends before the process: the kernel counts the end of that thread as ours.
    pub(crate) async fn start(
        programs: &Programs,
        configuration: &Path,
        tally: &Tally,
    ) -> Result<Self, BrokerError> {
        let mut child = programs
            .command()
            .arg("-c")
            .arg(configuration)
            .env("OPENSSL_CONF", configuration.with_file_name(OPENSSL))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // The terminal's Ctrl-C shall reach us only: the broker goes last.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(BrokerError::Start)?;
        let gone = || BrokerError::Start(io::ErrorKind::BrokenPipe.into());
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).ok_or_else(gone)?;
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let errors = child.stderr.take().ok_or_else(gone)?;
        let (says, running) = watch::channel(false);
        let reader = tokio::spawn(read_log(errors, Arc::clone(&lines), says, tally.clone()));
        let mut broker = Self { child, pid, lines, reader };
        broker.wait_until_it_runs(running).await?;
        Ok(broker)
    }

    /// Waits until it says that it takes connections. A connection would not do: another program may have the port.
    async fn wait_until_it_runs(&mut self, mut running: watch::Receiver<bool>) -> Result<(), BrokerError> {
        let runs = async {
            tokio::select! {
                running = running.wait_for(|running| *running) => running.is_ok(),
                _ = self.child.wait() => false,
            }
        };
        match timeout(START_LIMIT, runs).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(BrokerError::Ended(self.ended().await)),
            Err(_) => Err(BrokerError::Silent(log(&self.lines))),
        }
    }

    /// Waits for its end, and says how it ended. Cancel-safe.
    pub(crate) async fn ended(&mut self) -> String {
        let status = match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        // Its last words say why.
        timeout(LOG_LIMIT, &mut self.reader).await.ok();
        format!("{status}: {}", log(&self.lines))
    }

    /// Makes it read certificates, access rights and the bounds of its queues again, while its clients stay.
    pub(crate) fn reload(&self) -> io::Result<()> {
        Ok(kill_process(self.pid, Signal::HUP)?)
    }

    /// Asks it to stop, so that it writes down what it keeps; ends it where it does not within the limit.
    pub(crate) async fn stop(mut self, limit: Duration) {
        kill_process(self.pid, Signal::TERM).ok();
        if timeout(limit, self.child.wait()).await.is_err() {
            tracing::warn!("The broker did not stop in time and was killed.");
            self.child.kill().await.ok();
        }
    }
}

/// The newest lines of the log.
fn log(lines: &Mutex<VecDeque<String>>) -> String {
    let lines = lines.lock();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    if lines.is_empty() { "it said nothing".to_owned() } else { lines.join(" / ") }
}

/// Puts the broker's log into ours.
async fn read_log(
    errors: ChildStderr,
    lines: Arc<Mutex<VecDeque<String>>>,
    running: watch::Sender<bool>,
    tally: Tally,
) {
    let mut reader = BufReader::new(errors);
    loop {
        let mut line = Vec::new();
        match (&mut reader).take(LINE).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if line.starts_with("mosquitto version") && line.ends_with(" running") {
            running.send_replace(true);
        }
        tell(&line, &tally);
        let mut lines = lines.lock();
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// One line of the broker's log at the level that it has for us.
fn tell(line: &str, tally: &Tally) {
    if line.contains("does not contain '%c' or '%u'") {
        // We know: every module may read.
        return;
    }
    let refused = line.contains("<unknown>") || line.contains("not authorised");
    if refused {
        tally.refused();
    }
    if line.starts_with("Error") {
        tracing::error!(broker = line, "The broker has an error.");
    } else if refused || line.contains("OpenSSL Error") || line.starts_with("Warning") {
        tracing::warn!(broker = line, "The broker warns.");
    } else {
        tracing::debug!(broker = line, "The broker says.");
    }
}
