//! Processes of ours that may not outlive us.
//!
//! A process is started through `shunt child`, which asks the kernel to end it when its parent ends (also by
//! SIGKILL) and then becomes the program. So no code runs between fork and exec, which would need `unsafe`.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

/// Becomes another program, which ends when the parent ends.
#[derive(Debug, Args)]
pub(crate) struct ChildArgs {
    /// The parent: where it is gone already, nothing is started.
    #[arg(long)]
    parent: i32,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// A program to start.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The file.
    pub(crate) file: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
    /// Its whole environment; nothing is inherited.
    pub(crate) environment: Vec<(String, String)>,
}

/// A running process in a process group of its own, so that the terminal's Ctrl-C reaches only us and we decide
/// who stops when.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pid: Pid,
}

// === impl ChildArgs ===

impl ChildArgs {
    /// Only returns where it failed.
    pub(crate) fn run(&self) -> anyhow::Error {
        let prepare = || -> anyhow::Result<std::io::Error> {
            rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
            let parent = rustix::process::getppid().map(Pid::as_raw_nonzero).map(i32::from);
            anyhow::ensure!(parent == Some(self.parent), "the parent {} is gone", self.parent);
            let (program, arguments) = self.command.split_first().context("no program was given")?;
            Ok(std::process::Command::new(program).args(arguments).exec())
        };
        match prepare() {
            Ok(error) => anyhow::Error::new(error)
                .context(format!("cannot start {}", self.command.first().map_or("", String::as_str))),
            Err(error) => error,
        }
    }
}

// === impl Process ===

impl Process {
    /// Starts the program, its output piped to us.
    pub(crate) fn start(program: &Program) -> anyhow::Result<Self> {
        let ours = std::env::current_exe().context("cannot find the file of this program")?;
        anyhow::ensure!(program.file.is_file(), "the program {} is missing", program.file.display());
        let child = Command::new(ours)
            .args(["child", "--parent", &std::process::id().to_string(), "--"])
            .arg(&program.file)
            .args(&program.arguments)
            .env_clear()
            .envs(program.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.file.display()))?;
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).context("it ended at once")?;
        Ok(Self { child, pid })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Its standard output and standard error; nothing at the second call.
    pub(crate) fn take_output(
        &mut self,
    ) -> Option<(tokio::process::ChildStdout, tokio::process::ChildStderr)> {
        Some((self.child.stdout.take()?, self.child.stderr.take()?))
    }

    /// Its standard error was taken for a first look: here it is again.
    pub(crate) fn put_back_errors(&mut self, errors: tokio::process::ChildStderr) {
        self.child.stderr = Some(errors);
    }

    /// Its standard error; nothing at the second call.
    pub(crate) fn take_errors(&mut self) -> Option<tokio::process::ChildStderr> {
        self.child.stderr.take()
    }

    /// Has it ended?
    pub(crate) fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Waits for its end. Cancel-safe.
    pub(crate) async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks it to stop (SIGTERM), and ends it with all it has started where it does not within the limit.
    /// Says whether it stopped by itself.
    pub(crate) async fn stop(&mut self, limit: Duration) -> bool {
        rustix::process::kill_process(self.pid, Signal::TERM).ok();
        if tokio::time::timeout(limit, self.child.wait()).await.is_ok() {
            return true;
        }
        self.kill().await;
        false
    }

    /// Ends it with all it has started.
    pub(crate) async fn kill(&mut self) {
        rustix::process::kill_process_group(self.pid, Signal::KILL).ok();
        drop(self.child.kill().await);
    }
}

/// Memory of a process and of those it has started, in RAM, in MiB; nothing where it is gone.
pub(crate) fn resident_mb(pid: i32) -> Option<f64> {
    let kib = resident_kib(pid)? + children(pid).into_iter().filter_map(resident_kib).sum::<f64>();
    Some((kib / 102.4).round() / 10.0)
}

fn resident_kib(pid: i32) -> Option<f64> {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// The processes that a process has started by any of its threads.
fn children(pid: i32) -> Vec<i32> {
    let threads = std::fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task"));
    let children = threads
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    children
        .flat_map(|pids| pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Finds a program in `PATH`, and where system programs are.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_memory_is_seen() {
        let ours = resident_mb(std::process::id().cast_signed()).unwrap();
        assert!(ours > 0.5, "{ours} MiB");
        assert_eq!(resident_mb(i32::MAX), None);
    }
}
