//! A chain of `shunt up` under test.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use shunt_testkit::{binary, eventually, found, repo_root, sample_picture};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    sync::{Semaphore, SemaphorePermit},
};

/// One chain at a time: each has five processes, and the machine may have two cores.
static ONE: Semaphore = Semaphore::const_new(1);

/// What a busy machine may need for a step.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A running `shunt up`.
pub(crate) struct Chain {
    process: Child,
    folder: TempDir,
    client: reqwest::Client,
    _turn: SemaphorePermit<'static>,
}

/// What a command printed, and its exit code.
#[derive(Debug)]
pub(crate) struct Printed {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Waits until no chain runs, for a command that starts one by itself.
pub(crate) async fn turn() -> SemaphorePermit<'static> {
    ONE.acquire().await.unwrap()
}

/// Runs `shunt` with these arguments to its end.
pub(crate) async fn shunt(arguments: &[&str]) -> Printed {
    shunt_in(&[], arguments).await
}

/// The same with more environment.
pub(crate) async fn shunt_in(environment: &[(&str, &str)], arguments: &[&str]) -> Printed {
    let mut command = Command::new(binary("shunt"));
    command.args(arguments).current_dir(repo_root()).stdin(Stdio::null()).kill_on_drop(true);
    command.env_remove("SHUNT_CAMERA_SOURCE").envs(environment.iter().copied());
    let output =
        tokio::time::timeout(LIMIT * 2, command.output()).await.expect("it ends").expect("it starts");
    Printed {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A folder with the one picture that has one plain face; nothing where scripts/setup was not run and there is no
/// sample picture.
pub(crate) fn astronaut() -> Option<TempDir> {
    let ours = repo_root().join(".shunt/pictures/astronaut.png");
    let Some(picture) = ours.is_file().then_some(ours).or_else(|| sample_picture("astronaut.png")) else {
        println!("Skipped: no pictures here; scripts/setup fetches them.");
        return None;
    };
    Some(folder_of(&[picture]))
}

/// A folder with these pictures.
pub(crate) fn folder_of(pictures: &[PathBuf]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for picture in pictures {
        std::fs::copy(picture, folder.path().join(picture.file_name().unwrap())).unwrap();
    }
    folder
}

impl Chain {
    /// Starts a chain on what the arguments name.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let turn = turn().await;
        let folder = tempfile::tempdir().unwrap();
        let process = Command::new(binary("shunt"))
            .args(["up", "--json", "--fresh-ports", "--folder"])
            .arg(folder.path().join("run"))
            .args(arguments)
            .current_dir(repo_root())
            .env_remove("SHUNT_CAMERA_SOURCE")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        // Only the first of the tests can, and one is enough.
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = reqwest::Client::builder().no_proxy().timeout(LIMIT).build().unwrap();
        let chain = Self { process, folder, client, _turn: turn };
        eventually(LIMIT, || async { chain.note().is_some() }).await;
        chain
    }

    /// On a folder of pictures.
    pub(crate) async fn on_pictures(pictures: &Path, arguments: &[&str]) -> Self {
        let mut all = vec!["--pictures", pictures.to_str().unwrap()];
        all.extend(arguments);
        Self::start(&all).await
    }

    /// Its folder, as text.
    pub(crate) fn folder(&self) -> String {
        self.folder.path().join("run").to_str().unwrap().to_owned()
    }

    /// What it says of itself to other commands.
    pub(crate) fn note(&self) -> Option<Value> {
        let text = std::fs::read(self.folder.path().join("run/up.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// The process of a module.
    pub(crate) fn pid(&self, module: &str) -> Option<i32> {
        Some(self.note()?["processes"][module]["pid"].as_i64()? as i32)
    }

    /// All processes, by module.
    pub(crate) fn pids(&self) -> BTreeMap<String, i32> {
        let note = self.note().unwrap();
        let processes = note["processes"].as_object().unwrap();
        processes.iter().map(|(name, note)| (name.clone(), note["pid"].as_i64().unwrap() as i32)).collect()
    }

    /// The variables that IoT Edge gives to a module, as soon as it is deployed.
    pub(crate) async fn environment(&self, module: &str) -> BTreeMap<String, String> {
        let url = self.control(&format!("/modules/{module}/environment"));
        found(LIMIT, || async {
            let answer = self.client.get(&url).send().await.ok()?.error_for_status().ok()?;
            answer.json().await.ok()
        })
        .await
        .expect("the module is deployed")
    }

    /// Asks a module by HTTP; the status and the text. Nothing where it does not answer (yet).
    pub(crate) async fn get(&self, module: &str, path: &str) -> Option<(u16, String)> {
        let address = self.note()?["processes"][module]["address"].as_str()?.to_owned();
        let answer = self.client.get(format!("http://{address}{path}")).send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    fn control(&self, path: &str) -> String {
        format!("{}{path}", self.note().unwrap()["control"].as_str().unwrap())
    }

    /// Messages at the hub.
    pub(crate) async fn at_hub(&self) -> u64 {
        let status = self.client.get(self.control("/status")).send().await.unwrap();
        status.json::<Value>().await.unwrap()["messages"].as_u64().unwrap()
    }

    /// Waits until so many more messages are at the hub.
    pub(crate) async fn more_at_hub(&self, more: u64) {
        let before = self.at_hub().await;
        eventually(LIMIT, || async { self.at_hub().await >= before + more }).await;
    }

    /// Makes a fault of the stand-in.
    pub(crate) async fn fault(&self, fault: Value) {
        let answer = self.client.post(self.control("/faults")).json(&fault).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }

    /// Deploys a manifest as `az iot edge set-modules` does.
    pub(crate) async fn deploy(&self, manifest: &Value) {
        let device = self.note().unwrap()["device"].as_str().unwrap().to_owned();
        let url = self.control(&format!("/devices/{device}/applyConfigurationContent"));
        let answer = self.client.post(url).json(manifest).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }

    /// Runs a `shunt` command against this chain.
    pub(crate) async fn shunt(&self, arguments: &[&str]) -> Printed {
        let folder = self.folder();
        let mut all = arguments.to_vec();
        all.extend(["--folder", &folder]);
        shunt(&all).await
    }

    /// Sends a signal to `shunt up` itself.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.id().unwrap() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> (Printed, TempDir) {
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        let output = tokio::time::timeout(LIMIT * 2, self.process.wait_with_output()).await;
        let output = output.expect("it ends").unwrap();
        let printed = Printed {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        (printed, folder)
    }

    /// Stops it as Ctrl-C does; its report.
    pub(crate) async fn stop(self) -> Value {
        self.signal(Signal::INT);
        self.report().await
    }

    /// Its report, when it ends.
    pub(crate) async fn report(self) -> Value {
        let (printed, _folder) = self.ended().await;
        assert_eq!(printed.code, Some(0), "{}", printed.err);
        let last = printed.out.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {last:?}\n{}", printed.err))
    }
}

/// The processes that a process has started by any of its threads.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    children
        .flat_map(|pids| pids.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
        .collect()
}

/// Is there a process of this number (and not only what is left of it)?
pub(crate) fn is_alive(pid: i32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = state.rsplit(") ").next().unwrap_or_default().chars().next();
    state.is_some_and(|state| state != 'Z')
}

/// Ends a process without warning.
pub(crate) fn kill(pid: i32) {
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// Nothing that the relay accepted is missing at the hub.
#[track_caller]
pub(crate) fn nothing_lost(report: &Value) {
    assert_eq!((&report["lost"], &report["queued"]), (&json!(0), &json!(0)), "{report}");
}
