//! `shunt bench functions`: what a call of a function takes inside the module and over HTTP, beside a process a call.

use std::{
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use crate::{
    chain, output,
    up::{
        self,
        deployment::Selection,
        ports::Ports,
        running::{Options, Running},
    },
};

/// Calls of functions in the running module `functions`, each in a fresh instance, beside the same work as a process a
/// call, turn by turn in one run; and what installing a text takes. Fails where a bar is missed.
#[derive(Debug, Args)]
pub(crate) struct FunctionsBench {
    /// Calls of each function.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(50..=1_000_000))]
    calls: u32,
    /// Processes started for each peer, and texts installed.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    processes: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Make the picture on standard input grey and end: the peer of greyscale.
    #[arg(long, hide = true)]
    grayscale: bool,
}

/// How long a call, and the module's start, may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How often it is looked whether the module is there.
const PAUSE: Duration = Duration::from_millis(50);
/// So many turns; in each, every contestant has its share of the calls.
const TURNS: u32 = 10;

/// What is called, and what the same is as a process.
struct Contest {
    /// As it is installed.
    name: &'static str,
    /// What it is, for the table.
    title: &'static str,
    /// Its file below the repository; nothing for what is always there.
    file: Option<&'static str>,
    body: Vec<u8>,
    /// The same work as a process; nothing where there is none.
    peer: Option<Peer>,
    /// Of the calls, this share is made: pictures take long.
    share: u32,
}

/// A process a call.
struct Peer {
    title: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
}

/// Milliseconds.
#[derive(Debug, Default)]
struct Times(Vec<f64>);

/// What was measured of one contest.
struct Row {
    name: &'static str,
    title: &'static str,
    inside: Times,
    http: Times,
    peer: Option<(&'static str, Times)>,
}

/// A bar of our own.
struct Bar {
    what: &'static str,
    limit: f64,
    value: f64,
    unit: &'static str,
}

/// The module that runs.
struct Module {
    client: reqwest::Client,
    address: String,
}

// === impl FunctionsBench ===

impl FunctionsBench {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        if self.grayscale {
            return grey_once();
        }
        let stop = up::stop_on_signals()?;
        let (rows, install, native) = tokio::select! {
            measured = self.measure() => measured?,
            () = stop.cancelled() => anyhow::bail!("stopped"),
        };
        let bars = bars(&rows, &install, &native);
        if self.json {
            let told: Vec<_> = rows.iter().map(Row::to_json).collect();
            let bars: Vec<_> = bars.iter().map(Bar::to_json).collect();
            output::line(json!({
                "rows": told, "install_text_ms": install.to_json(), "grayscale_native_ms": native.to_json(),
                "bars": bars,
            }))?;
        } else {
            let head = ["function", "inside the module", "over HTTP", "a process a call", "times"];
            let cells: Vec<_> = rows.iter().map(Row::cells).collect();
            output::line(output::table(&head, &cells))?;
            output::line(format_args!(
                "installing a text: {} ms; greyscale in this process, native: {} ms (p50 / p99)",
                install.cell(1.0),
                native.cell(1.0)
            ))?;
            for bar in &bars {
                let verdict = if bar.is_met() { "met" } else { "missed" };
                output::line(format_args!(
                    "{}: {:.3} {} (bar {}): {verdict}",
                    bar.what, bar.value, bar.unit, bar.limit
                ))?;
            }
        }
        Ok(if bars.iter().all(Bar::is_met) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Starts the module alone and makes all calls.
    async fn measure(&self) -> anyhow::Result<(Vec<Row>, Times, Times)> {
        let folder = tempfile::Builder::new().prefix("shunt-bench-").tempdir()?;
        let repository = chain::repository().context("there is no deployment.template.json here or above")?;
        let options = Options {
            selection: Selection { only: ["functions".to_owned()].into(), ..Selection::default() },
            manifest: crate::manifest::expand_file(&repository.join("deployment.template.json"))?,
            source: None,
            settings: Vec::new(),
            ports: Ports::Fresh,
            folder: folder.path().to_path_buf(),
        };
        let running = Running::start(options, shunt_bus::clock::now()).await?;
        let measured = self.contests(&running, &repository, folder.path()).await;
        running.stop().await;
        measured
    }

    async fn contests(
        &self,
        running: &Running,
        repository: &Path,
        folder: &Path,
    ) -> anyhow::Result<(Vec<Row>, Times, Times)> {
        let module = Module::find(running).await?;
        let contests = contests(repository, folder)?;
        for contest in &contests {
            if let Some(file) = contest.file {
                output::complain(format_args!("installing {file}"));
                module.install(contest.name, &repository.join(file)).await?;
            }
        }
        let picture = picture(repository)?;
        let mut native = Times::default();
        let mut rows: Vec<Row> = contests.iter().map(Row::new).collect();
        for turn in 0..TURNS {
            output::complain(format_args!("turn {} of {TURNS}", turn + 1));
            for (contest, row) in contests.iter().zip(&mut rows) {
                for _ in 0..(self.calls / contest.share / TURNS).max(1) {
                    module.call(contest, row).await?;
                }
                let (Some(peer), Some((_, times))) = (&contest.peer, &mut row.peer) else { continue };
                for _ in 0..(self.processes / TURNS).max(1) {
                    times.0.push(tokio::task::block_in_place(|| peer.run(&contest.body))?);
                }
            }
            for _ in 0..(self.processes / TURNS).max(1) {
                let begun = Instant::now();
                std::hint::black_box(tokio::task::block_in_place(|| grey(&picture))?);
                native.0.push(begun.elapsed().as_secs_f64() * 1e3);
            }
        }
        let install = module.install_texts(repository, self.processes).await?;
        Ok((rows, install, native))
    }
}

/// What is called, in the order of the table.
fn contests(repository: &Path, folder: &Path) -> anyhow::Result<Vec<Contest>> {
    let index = folder.join("index.py");
    std::fs::write(&index, include_str!("functions/index.py"))?;
    let text = |path: &Path| path.display().to_string();
    let ours = std::env::current_exe().context("cannot find the file of this program")?;
    let python = |file: &str| Peer {
        title: "python3",
        program: PathBuf::from("/usr/bin/python3"),
        arguments: vec![text(&index), text(&repository.join(file))],
    };
    let cat = || Peer { title: "cat", program: PathBuf::from("/bin/cat"), arguments: Vec::new() };
    let grayscale = Peer {
        title: "native program",
        program: ours,
        arguments: ["bench", "functions", "--grayscale"].map(str::to_owned).to_vec(),
    };
    let hello = b"Welcome to the edge!".to_vec();
    let numbers = b"0,1,1".to_vec();
    Ok(vec![
        Contest {
            name: "echo",
            title: "echo, built in",
            file: None,
            body: hello.clone(),
            peer: Some(cat()),
            share: 1,
        },
        Contest {
            name: "echo-component",
            title: "echo, a component",
            file: Some("functions/builds/echo.wasm"),
            body: hello,
            peer: Some(cat()),
            share: 1,
        },
        Contest {
            name: "average",
            title: "average, Python text",
            file: Some("functions/average/average.py"),
            body: numbers.clone(),
            peer: Some(python("functions/average/average.py")),
            share: 4,
        },
        Contest {
            name: "average-rust",
            title: "average, a component",
            file: Some("functions/builds/average.wasm"),
            body: numbers,
            peer: None,
            share: 1,
        },
        Contest {
            name: "grayscale",
            title: "greyscale of 640x480",
            file: Some("functions/builds/grayscale.wasm"),
            body: picture(repository)?,
            peer: Some(grayscale),
            share: 10,
        },
    ])
}

/// A picture of 640x480 as JPEG: one of the demo's.
fn picture(repository: &Path) -> anyhow::Result<Vec<u8>> {
    let folder = repository.join(".shunt/pictures");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .with_context(|| format!("{}: scripts/setup fetches the demo's pictures", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    files.sort();
    let file = files.first().with_context(|| format!("{} is empty", folder.display()))?;
    let picture = image::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    let picture = picture.resize_to_fill(640, 480, image::imageops::FilterType::Triangle).into_rgb8();
    let mut jpeg = Vec::new();
    picture.write_with_encoder(image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 90))?;
    Ok(jpeg)
}

/// The code of the function `grayscale`, native.
fn grey(picture: &[u8]) -> anyhow::Result<Vec<u8>> {
    let (file, _) = grayscale::grey(picture).map_err(anyhow::Error::msg)?;
    Ok(file)
}

/// A process a call, as the article's service has it, but native.
fn grey_once() -> anyhow::Result<ExitCode> {
    let mut picture = Vec::new();
    std::io::stdin().lock().read_to_end(&mut picture)?;
    std::io::stdout().lock().write_all(&grey(&picture)?)?;
    Ok(ExitCode::SUCCESS)
}

/// What is asked for.
fn bars(rows: &[Row], install: &Times, native: &Times) -> Vec<Bar> {
    let inside =
        |name: &str| rows.iter().find(|row| row.name == name).map_or(f64::NAN, |row| row.inside.at(0.5));
    let http = |name: &str| rows.iter().find(|row| row.name == name).map_or(f64::NAN, |row| row.http.at(0.5));
    let bar = |what, limit, value, unit| Bar { what, limit, value, unit };
    vec![
        bar("echo inside the module, p50", 60.0, inside("echo-component") * 1e3, "us"),
        bar("echo over HTTP, p50", 200.0, http("echo-component") * 1e3, "us"),
        bar("a Python text inside the module, p50", 5.0, inside("average"), "ms"),
        bar("greyscale, times native, p50", 1.3, inside("grayscale") / native.at(0.5), "times"),
        bar("installing a text, p50", 50.0, install.at(0.5), "ms"),
    ]
}

// === impl Peer ===

impl Peer {
    /// Starts it, gives it the body, takes its answer, and tells the milliseconds from start to end.
    fn run(&self, body: &[u8]) -> anyhow::Result<f64> {
        let begun = Instant::now();
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        child.stdin.take().context("it has no standard input")?.write_all(body)?;
        let ended = child.wait_with_output()?;
        anyhow::ensure!(
            ended.status.success() && !ended.stdout.is_empty(),
            "{} failed: {}",
            self.program.display(),
            ended.status
        );
        Ok(begun.elapsed().as_secs_f64() * 1e3)
    }
}

// === impl Module ===

impl Module {
    /// The running module, once it answers.
    async fn find(running: &Running) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder().tcp_nodelay(true).no_proxy().timeout(LIMIT).build()?;
        let begun = Instant::now();
        let address = loop {
            if let Some(address) =
                running.board.read(|state| state.processes.get("functions")?.address.clone())
            {
                break address;
            }
            anyhow::ensure!(begun.elapsed() < LIMIT, "the module functions does not run: is it built?");
            tokio::time::sleep(PAUSE).await;
        };
        let module = Self { client, address };
        while let Err(error) = module.client.get(module.url("readyz")).send().await {
            anyhow::ensure!(begun.elapsed() < LIMIT, "the module does not answer: {error}");
            tokio::time::sleep(PAUSE).await;
        }
        Ok(module)
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    async fn install(&self, name: &str, file: &Path) -> anyhow::Result<()> {
        let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let kind = match file.extension().and_then(|extension| extension.to_str()) {
            Some("py") => "text/x-python",
            Some("js") => "text/javascript",
            _ => "application/wasm",
        };
        self.put(name, kind, bytes).await
    }

    async fn put(&self, name: &str, kind: &str, bytes: Vec<u8>) -> anyhow::Result<()> {
        let request = self.client.put(self.url(&format!("functions/{name}"))).header("content-type", kind);
        let answer = request.body(bytes).send().await?;
        let status = answer.status();
        anyhow::ensure!(status.is_success(), "{name} is not installed: {status}: {}", answer.text().await?);
        Ok(())
    }

    /// Calls it once, notes what the call took inside and what the request took.
    async fn call(&self, contest: &Contest, row: &mut Row) -> anyhow::Result<()> {
        let request = self.client.post(self.url(contest.name)).body(contest.body.clone());
        let begun = Instant::now();
        let answer = request.send().await?;
        let (status, inside) = (answer.status(), server_timing(&answer));
        let body = answer.bytes().await?;
        row.http.0.push(begun.elapsed().as_secs_f64() * 1e3);
        anyhow::ensure!(
            status.is_success() && !body.is_empty(),
            "{} answered {status}: {}",
            contest.name,
            String::from_utf8_lossy(&body)
        );
        row.inside.0.push(inside.with_context(|| format!("{} did not tell what it took", contest.name))?);
        Ok(())
    }

    /// Milliseconds of installing a text that was not there before, again and again.
    async fn install_texts(&self, repository: &Path, count: u32) -> anyhow::Result<Times> {
        let text = std::fs::read_to_string(repository.join("functions/average/average.py"))?;
        let mut times = Times::default();
        for number in 0..count {
            // Each has a digest of its own.
            let bytes = format!("{text}\n# {number}\n").into_bytes();
            let begun = Instant::now();
            self.put("installed", "text/x-python", bytes).await?;
            times.0.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        Ok(times)
    }
}

/// The milliseconds of `Server-Timing: call;dur=0.046`.
fn server_timing(answer: &reqwest::Response) -> Option<f64> {
    let text = answer.headers().get("server-timing")?.to_str().ok()?;
    text.split(';').find_map(|part| part.trim().strip_prefix("dur="))?.parse().ok()
}

// === impl Times ===

impl Times {
    /// What this share of them did not exceed.
    fn at(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let index = (sorted.len() as f64 * share) as usize;
        sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }

    /// `p50 / p99`, in this many parts of a millisecond.
    fn cell(&self, parts: f64) -> String {
        format!("{:.1} / {:.1}", self.at(0.5) * parts, self.at(0.99) * parts)
    }

    fn to_json(&self) -> Value {
        json!({"p50": self.at(0.5), "p99": self.at(0.99), "count": self.0.len()})
    }
}

// === impl Row ===

impl Row {
    fn new(contest: &Contest) -> Self {
        let peer = contest.peer.as_ref().map(|peer| (peer.title, Times::default()));
        Self {
            name: contest.name,
            title: contest.title,
            inside: Times::default(),
            http: Times::default(),
            peer,
        }
    }

    fn cells(&self) -> Vec<String> {
        let us = |times: &Times| format!("{} us", times.cell(1e3));
        let (peer, times) = match &self.peer {
            Some((title, times)) => (
                format!("{} us ({title})", times.cell(1e3)),
                format!("{:.0}", times.at(0.5) / self.inside.at(0.5)),
            ),
            None => Default::default(),
        };
        vec![self.title.to_owned(), us(&self.inside), us(&self.http), peer, times]
    }

    fn to_json(&self) -> Value {
        json!({
            "function": self.name,
            "inside_ms": self.inside.to_json(),
            "http_ms": self.http.to_json(),
            "process_ms": self.peer.as_ref().map(|(_, times)| times.to_json()),
            "process": self.peer.as_ref().map(|(title, _)| title),
        })
    }
}

// === impl Bar ===

impl Bar {
    fn is_met(&self) -> bool {
        self.value < self.limit
    }

    fn to_json(&self) -> Value {
        json!({"what": self.what, "limit": self.limit, "value": self.value, "unit": self.unit, "met": self.is_met()})
    }
}
