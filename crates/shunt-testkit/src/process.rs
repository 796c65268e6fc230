//! The process of a real server.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{sleep, timeout};

/// How long a server may take to answer, or to stop.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// How long to wait between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// A server's process, if it runs. It is killed when this value is dropped.
#[derive(Debug, Default)]
pub(crate) struct Process(Option<Child>);

/// Makes a server on a fresh port. Another process may take the port between our look and the server's bind; then the
/// next port serves.
pub(crate) async fn on_fresh_port<S>(make: impl AsyncFn() -> anyhow::Result<S>) -> anyhow::Result<S> {
    let mut problem = None;
    for _ in 0..5 {
        match make().await {
            Ok(server) => return Ok(server),
            Err(error) => problem = Some(error),
        }
    }
    Err(problem.context("no attempt was made")?)
}

// === impl Process ===

impl Process {
    /// Starts the program of this package; returns when it is ready. `log` gives what it told.
    pub(crate) async fn start(
        &mut self,
        package: &str,
        command: &mut Command,
        ready: impl AsyncFn() -> bool,
        log: impl Fn() -> String,
    ) -> anyhow::Result<()> {
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().with_context(
                || format!("{package} cannot be started; is the package {package} installed?"),
            )?;
        let child = self.0.insert(child);
        let answers = async {
            loop {
                if let Some(status) = child.try_wait()? {
                    bail!("{package} ended with {status}:\n{}", log());
                }
                if ready().await {
                    return Ok(());
                }
                sleep(LOOK).await;
            }
        };
        timeout(LIMIT, answers).await.with_context(|| format!("{package} did not answer"))?
    }

    /// Sends it this signal if it runs; returns when it is gone.
    pub(crate) async fn end(&mut self, signal: Signal) -> anyhow::Result<()> {
        let Some(child) = &mut self.0 else { return Ok(()) };
        kill_process(Pid::from_child(child), signal)?;
        let gone = async {
            while child.try_wait()?.is_none() {
                sleep(LOOK).await;
            }
            anyhow::Ok(())
        };
        timeout(LIMIT, gone).await.context("the server did not stop")??;
        self.0 = None;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // It may be gone already; then there is nothing to do.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
