//! `shunt up`: the whole chain on this machine.

pub(crate) mod board;
pub(crate) mod deployment;
pub(crate) mod ledger;
pub(crate) mod lines;
mod logs;
pub(crate) mod metrics;
pub(crate) mod ports;
pub(crate) mod running;
mod supervisor;
mod view;

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use serde_json::Value;
use shunt_wire::Mono;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::{
    board::{Board, State},
    deployment::{Broker, Selection},
    ports::Ports,
    running::{Options, Running, Setting},
};
use crate::{
    chain::{self, Chain},
    output,
};

/// Start the bus, the stand-in for IoT Edge and IoT Hub, and the modules of the manifest; show what they do.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Start only these modules of the manifest.
    #[arg(long, value_delimiter = ',', value_name = "MODULES")]
    only: Vec<String>,
    /// Start these modules too, though the manifest does not name them.
    #[arg(long, value_delimiter = ',', value_name = "MODULES")]
    with: Vec<String>,
    /// Stop after this time: 20s, 500ms, 2m.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    r#for: Option<Duration>,
    /// Print one JSON object at the end, as the last line of standard output.
    #[arg(long)]
    json: bool,
    /// Show the camera the pictures of this folder.
    #[arg(long, value_name = "FOLDER", conflicts_with = "source")]
    pictures: Option<PathBuf>,
    /// Let the camera look at this: /dev/video0, rtsp://..., http://... (Motion JPEG), a video file.
    #[arg(long, value_name = "ADDRESS", env = "SHUNT_CAMERA_SOURCE")]
    source: Option<String>,
    /// Set desired properties of modules before they start: camera.fps=5.
    #[arg(long, value_name = "MODULE.FIELD=VALUE", value_parser = parse_setting)]
    set: Vec<Setting>,
    /// What serves as the bus [default: what the manifest names].
    #[arg(long, value_name = "BROKER")]
    bus: Option<Broker>,
    /// Listen on whatever ports are free, in a folder of its own: several chains can run side by side.
    #[arg(long)]
    fresh_ports: bool,
    /// Where the chain keeps its files [default: .shunt/run in the repository].
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// The deployment manifest or its template [default: deployment.template.json in the repository].
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
}

/// How long the terminal view's last look may take.
const VIEW_LIMIT: Duration = Duration::from_secs(1);

// === impl Up ===

impl Up {
    pub(crate) async fn run(self, started: Mono) -> anyhow::Result<ExitCode> {
        let stop = stop_on_signals()?;
        // Removed at the end, with its logs; a folder that the user names stays.
        let temporary = match (&self.folder, self.fresh_ports) {
            (None, true) => Some(tempfile::Builder::new().prefix("shunt-up-").tempdir()?),
            _ => None,
        };
        let options = self.options(temporary.as_ref().map(tempfile::TempDir::path))?;
        let folder = options.folder.clone();
        let running = tokio::select! {
            running = Running::start(options, started) => running?,
            () = stop.cancelled() => {
                if self.json {
                    output::line(Board::new(started, Chain::default(), folder).read(State::report))?;
                }
                return Ok(ExitCode::SUCCESS);
            }
        };
        let board = running.board.clone();
        let in_terminal = !self.json && std::io::stdout().is_terminal();
        if !in_terminal {
            board.say(format!("logs and data are in {}", folder.display()));
        }
        let viewing = CancellationToken::new();
        let view = if in_terminal {
            tokio::spawn(view::show(board.clone(), viewing.clone(), stop.clone()))
        } else {
            tokio::spawn(lines::show(board.clone(), viewing.clone(), self.json))
        };
        let time_is_up = async {
            match self.r#for {
                Some(time) => {
                    let so_far = shunt_bus::clock::now().since(started);
                    tokio::time::sleep(time.saturating_sub(so_far)).await;
                }
                None => std::future::pending().await,
            }
        };
        let mut broken = false;
        tokio::select! {
            () = time_is_up => {}
            () = stop.cancelled() => {}
            () = running.broken.cancelled() => broken = true,
        }
        board.say("stopping: camera first, the relay when its queue is empty, the broker last");
        running.stop().await;
        viewing.cancel();
        drop(tokio::time::timeout(VIEW_LIMIT, view).await);
        let report = board.read(State::report);
        if self.json {
            output::line(&report)?;
        } else {
            output::line(board.read(lines::summary))?;
        }
        Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn options(&self, temporary: Option<&Path>) -> anyhow::Result<Options> {
        let manifest = match &self.manifest {
            Some(file) => file.clone(),
            None => {
                chain::repository().map(|repository| repository.join("deployment.template.json")).context(
                    "there is no deployment.template.json here or above: name a manifest with --manifest",
                )?
            }
        };
        let folder = self.folder.clone().or_else(|| temporary.map(Path::to_path_buf));
        let manifest = crate::manifest::expand_file(&manifest)?;
        let source = self.shown(&manifest)?;
        Ok(Options {
            selection: Selection {
                only: self.only.iter().cloned().collect(),
                with: self.with.iter().cloned().collect(),
                broker: self.bus,
            },
            manifest,
            source,
            settings: self.set.clone(),
            ports: if self.fresh_ports { Ports::Fresh } else { Ports::Usual },
            folder: folder.unwrap_or_else(chain::default_folder),
        })
    }

    /// What the camera is shown instead of what the manifest says. The demo's pictures only stand in where nobody
    /// names a source: not the command line, not the environment, not the manifest.
    fn shown(&self, manifest: &Value) -> anyhow::Result<Option<String>> {
        let on_command_line = self.source.is_some() || self.pictures.is_some();
        let is_set = self.set.iter().any(|setting| setting.module == "camera" && setting.field == "source");
        if !on_command_line && (is_set || deployment::names_source(manifest)) {
            return Ok(None);
        }
        source(self.source.as_deref(), self.pictures.as_deref()).map(Some)
    }
}

/// What the camera looks at: what the user names, else the demo's pictures.
pub(crate) fn source(address: Option<&str>, pictures: Option<&Path>) -> anyhow::Result<String> {
    if let Some(address) = address {
        // A file is named from here, the camera runs elsewhere.
        let file = Path::new(address).canonicalize();
        return Ok(file.map_or_else(|_| address.to_owned(), |file| file.display().to_string()));
    }
    let folder = match pictures {
        Some(folder) => folder.to_path_buf(),
        None => chain::repository().unwrap_or_default().join(".shunt/pictures"),
    };
    let has_files = std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some());
    anyhow::ensure!(
        has_files,
        "there are no pictures in {}: run scripts/setup, or give --pictures or --source",
        folder.display()
    );
    Ok(folder.canonicalize()?.display().to_string())
}

/// Cancelled at the first signal; the second ends us at once, and the kernel ends our children.
pub(crate) fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let told = stop.clone();
    let (mut interrupt, mut terminate, mut hang_up) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
            }
            if told.is_cancelled() {
                view::restore();
                output::complain("shunt: stopped at once; the modules drain by themselves");
                std::process::exit(130);
            }
            told.cancel();
        }
    });
    Ok(stop)
}

/// `module.field=value`; the value is JSON, else text.
fn parse_setting(text: &str) -> Result<Setting, String> {
    let parts = text.split_once('=').and_then(|(name, value)| Some((name.split_once('.')?, value)));
    let Some(((module, field), value)) = parts else {
        return Err("a setting is of the form module.field=value: camera.fps=5".to_owned());
    };
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok(Setting { module: module.to_owned(), field: field.to_owned(), value })
}

/// `20s`, `500ms`, `2m`, `1h`; a plain number is seconds.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let number: f64 = digits.parse().map_err(|_| "a time is a number and ms, s, m or h: 20s".to_owned())?;
    let unit = match text.get(digits.len()..).unwrap_or_default() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        other => return Err(format!("{other:?} is no unit of time; there are ms, s, m and h")),
    };
    Duration::try_from_secs_f64(number * unit).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        up: Up,
    }

    /// What the camera is shown with these arguments on a manifest with this twin section and environment.
    fn shown(arguments: &[&str], twin: &Value, environment: &Value) -> Option<String> {
        let manifest = json!({"modulesContent": {
            "$edgeAgent": {"properties.desired": {"modules": {"camera": {"env": environment}}}},
            "camera": {"properties.desired": twin},
        }});
        let mut all = vec!["up"];
        all.extend(arguments);
        let mut line = Line::try_parse_from(all).unwrap();
        if arguments.is_empty() {
            // That of the shell that runs the tests.
            line.up.source = None;
        }
        line.up.shown(&manifest).unwrap()
    }

    #[test]
    fn the_manifest_may_say_what_the_camera_looks_at() {
        let (twin, environment) =
            (json!({"source": "/videos"}), json!({"SHUNT_CAMERA_SOURCE": {"value": "/dev/video0"}}));
        assert_eq!(shown(&[], &twin, &json!({})), None);
        assert_eq!(shown(&[], &json!({}), &environment), None);
        // The command line is above both.
        for (twin, environment) in [(&twin, &json!({})), (&json!({}), &environment), (&json!({}), &json!({}))]
        {
            let source = shown(&["--source", "rtsp://cam/1"], twin, environment);
            assert_eq!(source.as_deref(), Some("rtsp://cam/1"));
        }
    }

    #[test]
    fn times_have_units() {
        for (text, millis) in
            [("20s", 20_000), ("500ms", 500), ("2m", 120_000), ("1.5h", 5_400_000), ("7", 7_000)]
        {
            assert_eq!(parse_time(text).unwrap().as_millis(), millis, "{text}");
        }
        for text in ["", "s", "5 days", "5d", "-1s"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn settings_name_module_and_field() {
        let setting = parse_setting("camera.source=http://x/?a=b").unwrap();
        assert_eq!((setting.module.as_str(), setting.field.as_str()), ("camera", "source"));
        assert_eq!(setting.value, "http://x/?a=b");
        assert_eq!(parse_setting("camera.fps=5").unwrap().value, 5);
        assert!(parse_setting("fps=5").is_err());
    }

    #[test]
    fn an_empty_folder_of_pictures_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let error = source(None, Some(folder.path())).unwrap_err().to_string();
        assert!(error.starts_with("there are no pictures in"), "{error}");
        assert_eq!(source(Some("rtsp://cam/1"), None).unwrap(), "rtsp://cam/1");
    }
}
