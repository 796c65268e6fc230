//! `shunt doctor`: is everything there that the chain needs?

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use shunt_infer::{Backends, ModelStore};
use tokio::process::Command;

use crate::{
    bus::{self, BusArgs},
    chain::{self, Chain},
    child::find_program,
    control::Control,
    output,
    up::ports,
};

/// Look at what is installed, built and free, and say how to mend what is not.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The folder of the chain.
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    /// Something will not work that not everybody needs.
    Warn,
    /// The chain will not run.
    Fail,
}

/// What was looked at, one line each.
#[derive(Debug, Default)]
struct Findings {
    failed: bool,
}

/// What a program has to tell its version in.
const LIMIT: Duration = Duration::from_secs(5);
/// Frames of one camera take a few MB; below that, something else fills the memory.
const SHARED_MEMORY_MB: u64 = 32;

// === impl Findings ===

impl Findings {
    fn line(&mut self, verdict: Verdict, what: &str, found: &str, mend: &str) -> anyhow::Result<()> {
        let word = match verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        self.failed |= verdict == Verdict::Fail;
        let mend = if verdict == Verdict::Ok { String::new() } else { format!(" -> {mend}") };
        output::line(format_args!("{word}  {what:<14} {found}{mend}"))
    }
}

// === impl Doctor ===

impl Doctor {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let mut findings = Findings::default();
        let folder = self.folder.unwrap_or_else(chain::default_folder);
        let version = format!("{} ({})", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
        findings.line(Verdict::Ok, "shunt", &version, "")?;
        program(
            &mut findings,
            "mosquitto",
            "-h",
            Verdict::Fail,
            "scripts/setup, or: apt-get install mosquitto",
        )
        .await?;
        program(
            &mut findings,
            "redis-server",
            "--version",
            Verdict::Warn,
            "apt-get install --no-install-recommends redis-server; only `shunt up --bus redis` and tests need it",
        )
        .await?;
        program(
            &mut findings,
            "python3",
            "--version",
            Verdict::Warn,
            "scripts/setup; models and pictures are fetched with it",
        )
        .await?;
        program(
            &mut findings,
            "npm",
            "--version",
            Verdict::Warn,
            "scripts/setup test; only tests and some models need it",
        )
        .await?;
        programs(&mut findings)?;
        models(&mut findings)?;
        back_ends(&mut findings)?;
        pictures(&mut findings)?;
        manifest(&mut findings)?;
        folders(&mut findings, &folder)?;
        webcams(&mut findings)?;
        match Chain::read(&folder) {
            Ok(chain) => running(&mut findings, &folder, &chain).await?,
            Err(_) => free_ports(&mut findings)?,
        }
        Ok(if findings.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

async fn program(
    findings: &mut Findings,
    name: &str,
    ask: &str,
    without: Verdict,
    mend: &str,
) -> anyhow::Result<()> {
    let Some(file) = find_program(name) else {
        return findings.line(without, name, "not installed", mend);
    };
    let asked = Command::new(&file).arg(ask).kill_on_drop(true).output();
    let said = match tokio::time::timeout(LIMIT, asked).await {
        Ok(Ok(said)) => String::from_utf8_lossy(&said.stdout).lines().next().unwrap_or_default().to_owned(),
        _ => "does not tell its version".to_owned(),
    };
    findings.line(Verdict::Ok, name, &format!("{said} ({})", file.display()), "")
}

fn programs(findings: &mut Findings) -> anyhow::Result<()> {
    let ours = std::env::current_exe()?;
    let folder = ours.parent().unwrap_or(Path::new("."));
    let missing: Vec<&str> = ["bus", "camera", "emotion", "relay"]
        .into_iter()
        .filter(|name| !folder.join(name).is_file())
        .collect();
    if missing.is_empty() {
        return findings.line(
            Verdict::Ok,
            "modules",
            &format!("bus, camera, emotion, relay in {}", folder.display()),
            "",
        );
    }
    let found = format!("{} not built beside this program", missing.join(", "));
    findings.line(
        Verdict::Fail,
        "modules",
        &found,
        &format!("cargo build -p {}, or scripts/demo", missing.join(" -p ")),
    )
}

fn models(findings: &mut Findings) -> anyhow::Result<()> {
    let folder = chain::models_folder();
    let store = match ModelStore::open(&folder) {
        Ok(store) => store,
        Err(error) => return findings.line(Verdict::Fail, "models", &error.to_string(), "mend the catalog"),
    };
    let defaults = store.catalog().defaults.clone();
    for name in [defaults.face, defaults.expression] {
        match store.find(&name) {
            Ok(file) => findings.line(Verdict::Ok, "model", &format!("{name} ({})", file.display()), "")?,
            Err(error) => {
                findings.line(
                    Verdict::Fail,
                    "model",
                    &error.to_string(),
                    &format!("shunt models fetch {name}"),
                )?;
            }
        }
    }
    Ok(())
}

fn back_ends(findings: &mut Findings) -> anyhow::Result<()> {
    let backends = Backends::installed();
    for backend in backends.found() {
        findings.line(Verdict::Ok, "back end", &backend.version(), "")?;
    }
    for missing in backends.missing() {
        // What mends it is part of the reason.
        let found = format!("{} is not there: {}", missing.name, missing.why);
        findings.line(
            Verdict::Warn,
            "back end",
            &found,
            "without it models run more slowly, or not at all",
        )?;
    }
    Ok(())
}

fn pictures(findings: &mut Findings) -> anyhow::Result<()> {
    let folder = chain::repository().unwrap_or_default().join(".shunt/pictures");
    let count = fs::read_dir(&folder).map_or(0, Iterator::count);
    let verdict = if count > 0 { Verdict::Ok } else { Verdict::Warn };
    let found = format!("{count} in {}", folder.display());
    findings.line(verdict, "pictures", &found, "scripts/setup, or give `shunt up` --pictures or --source")
}

fn manifest(findings: &mut Findings) -> anyhow::Result<()> {
    let Some(repository) = chain::repository() else {
        return findings.line(
            Verdict::Warn,
            "manifest",
            "no deployment.template.json here or above",
            "use --manifest",
        );
    };
    let file = repository.join("deployment.template.json");
    let environment = shunt_manifest::Environment::load(&repository, std::env::vars())?;
    let options = shunt_manifest::Options { environment, ..shunt_manifest::Options::default() };
    match shunt_manifest::check(&file, &options) {
        Ok(report) if !report.has_errors() => {
            findings.line(Verdict::Ok, "manifest", &file.display().to_string(), "")
        }
        Ok(_) => {
            let mend = format!("shunt manifest check {}", file.display());
            findings.line(Verdict::Fail, "manifest", "it has errors", &mend)
        }
        Err(error) => findings.line(Verdict::Fail, "manifest", &error.to_string(), "mend it"),
    }
}

fn folders(findings: &mut Findings, folder: &Path) -> anyhow::Result<()> {
    let place = folder.ancestors().find(|place| place.is_dir()).unwrap_or(Path::new("."));
    match tempfile::tempfile_in(place) {
        Ok(_) => findings.line(Verdict::Ok, "folder", &format!("{} can be written", place.display()), "")?,
        Err(error) => findings.line(
            Verdict::Fail,
            "folder",
            &format!("{} cannot be written: {error}", place.display()),
            "give --folder",
        )?,
    }
    let shared = Path::new("/dev/shm");
    match (tempfile::tempfile_in(shared), rustix::fs::statvfs(shared)) {
        (Ok(_), Ok(space)) => {
            let free = space.f_bavail * space.f_frsize / (1024 * 1024);
            let verdict = if free < SHARED_MEMORY_MB { Verdict::Fail } else { Verdict::Ok };
            findings.line(
                verdict,
                "shared memory",
                &format!("{free} MB free in /dev/shm"),
                "make room in /dev/shm",
            )
        }
        _ => findings.line(
            Verdict::Warn,
            "shared memory",
            "/dev/shm cannot be written",
            "frames go through a plain folder",
        ),
    }
}

fn webcams(findings: &mut Findings) -> anyhow::Result<()> {
    let mut cameras: Vec<String> = fs::read_dir("/dev")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("video"))
        .collect();
    cameras.sort();
    let found =
        if cameras.is_empty() { "none; the demo shows pictures".to_owned() } else { cameras.join(", ") };
    findings.line(Verdict::Ok, "webcams", &found, "")
}

fn free_ports(findings: &mut Findings) -> anyhow::Result<()> {
    for module in ["bus", "camera", "emotion", "relay"] {
        let ports = [ports::usual(module), ports::for_clients(module)];
        for port in ports.into_iter().flatten() {
            let free = ports::is_free(port);
            let verdict = if free { Verdict::Ok } else { Verdict::Fail };
            let found = format!("{port} for {module} is {}", if free { "free" } else { "in use" });
            findings.line(verdict, "port", &found, "stop that program, or shunt up --fresh-ports")?;
        }
    }
    Ok(())
}

async fn running(findings: &mut Findings, folder: &Path, chain: &Chain) -> anyhow::Result<()> {
    findings.line(Verdict::Ok, "chain", &format!("runs, process {}", chain.pid), "")?;
    match BusArgs::of_chain(folder).open().await {
        Ok(client) => {
            client.bus.close(Duration::from_secs(1)).await;
            findings.line(Verdict::Ok, "bus", &bus::hide(&chain.bus), "")?;
        }
        Err(error) => findings.line(Verdict::Fail, "bus", &format!("{error:#}"), "see the log of bus")?,
    }
    let status = match Control::new(&chain.control) {
        Ok(control) => control.status().await,
        Err(error) => Err(error),
    };
    match status {
        Ok(status) => {
            for module in status.modules.iter().filter(|module| !module.id.starts_with('$')) {
                if !chain.processes.contains_key(&module.id) {
                    continue;
                }
                let (verdict, word) = if module.connected {
                    (Verdict::Ok, "connected")
                } else {
                    (Verdict::Warn, "not connected")
                };
                let found = format!("{} is {word} to the hub", module.id);
                findings.line(verdict, "hub", &found, &format!("see the log of {}", module.id))?;
            }
        }
        Err(error) => findings.line(Verdict::Fail, "hub", &format!("{error:#}"), "see the log of sim")?,
    }
    Ok(())
}
