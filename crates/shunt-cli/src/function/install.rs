//! `shunt function install`: a file, or what an address gives, becomes a function.

use std::{
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context as Waking, Poll},
};

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use futures_core::Stream;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Body, Method, RequestBuilder, Response, header};
use serde_json::{Value, json};
use shunt_infer::digest;

use super::{
    Place,
    door::{self, Door, Lines},
    grants::{Grant, Grants},
};
use crate::output;

/// The largest file that is read here; what the module takes is for its settings to say.
const FILE: u64 = 256 * 1024 * 1024;
/// Bytes that are sent at a time.
const PIECE: usize = 64 * 1024;

/// Install a function, or replace it: a component or WASI program (.wasm), or text (.py, .js).
///
/// What it may reach besides its request must be granted: shunt function install count.py --grant state=counts
#[derive(Debug, Args)]
pub(super) struct Install {
    /// A file, or an address that the module fetches it from.
    #[arg(value_name = "FILE|URL")]
    from: String,
    /// Its name [default: that of the file without its extension].
    #[arg(long)]
    name: Option<String>,
    /// What it may reach, as in state=BUCKET, store=FUNCTION, publish=TOPIC, model=NAME, host=NAME[:PORT].
    #[arg(long = "grant", value_name = "WHAT=NAME")]
    grants: Vec<Grant>,
    /// Refuse it where the file has another sha256.
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    /// Milliseconds that a call may take [default: the module's].
    #[arg(long, value_name = "MS")]
    time_ms: Option<u32>,
    /// MiB that a call may use [default: the module's].
    #[arg(long, value_name = "MIB")]
    memory_mb: Option<u32>,
    /// KiB that a call may answer [default: the module's].
    #[arg(long, value_name = "KIB")]
    output_kb: Option<u32>,
    /// Print the module's entry for it as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

/// Bytes that are sent piece by piece, so that a bar can tell how far they are.
struct Pieces {
    left: Bytes,
    bar: ProgressBar,
}

// === impl Install ===

impl Install {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let grants = Grants::of(&self.grants)?;
        let bar = ProgressBar::new(0);
        let installed = if self.from.starts_with("http://") || self.from.starts_with("https://") {
            self.by_address(&grants, &bar).await
        } else {
            self.by_file(&grants, &bar).await
        };
        bar.finish_and_clear();
        let entry = installed?;
        if self.json {
            return output::words(&serde_json::to_string(&entry)?);
        }
        let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or("?");
        let size = entry.get("size").and_then(Value::as_u64).unwrap_or_default();
        output::line(format_args!(
            "{} is installed: {}, {size} bytes, sha256 {}",
            text("name"),
            text("kind"),
            text("digest")
        ))
    }

    /// Sends the file.
    async fn by_file(&self, grants: &Grants, bar: &ProgressBar) -> anyhow::Result<Value> {
        let file = PathBuf::from(&self.from);
        let bytes = read(&file).await?;
        let found = digest(&bytes);
        if let Some(expected) = &self.sha256 {
            let is_it = found.eq_ignore_ascii_case(expected);
            anyhow::ensure!(is_it, "{} has the sha256 {found}, not {expected}; it is not sent", self.from);
        }
        let name = self.name_or(file.file_name().and_then(|name| name.to_str()))?;
        let door = self.place()?;
        bar.set_length(bytes.len() as u64);
        style(bar, "sending    {bar:40} {bytes}/{total_bytes} {bytes_per_sec}");
        let mut url = door.at(&["functions", &name])?;
        let limits = self.limits().into_iter().map(|(key, value)| (key, value.to_string()));
        let query = [("sha256", found), ("file", name_of(&file))].into_iter().chain(limits);
        url.query_pairs_mut().extend_pairs(query);
        let mut request = door
            .request(Method::PUT, url)
            .header(header::CONTENT_TYPE, kind_of(&file))
            .header(header::CONTENT_LENGTH, bytes.len())
            .body(Body::wrap_stream(Pieces { left: bytes, bar: bar.clone() }));
        if !grants.is_empty() {
            request = request.header("shunt-grants", serde_json::to_string(grants)?);
        }
        watch(&door, request, bar).await
    }

    /// Lets the module fetch it.
    async fn by_address(&self, grants: &Grants, bar: &ProgressBar) -> anyhow::Result<Value> {
        let url =
            reqwest::Url::parse(&self.from).with_context(|| format!("{:?} is no address", self.from))?;
        let name = self.name_or(url.path_segments().and_then(|mut segments| segments.next_back()))?;
        let mut asked = json!({"url": self.from, "grants": grants});
        if let Some(asked) = asked.as_object_mut() {
            asked.extend(self.sha256.iter().map(|sha256| ("sha256".to_owned(), json!(sha256))));
            asked.extend(self.limits().into_iter().map(|(key, value)| (key.to_owned(), json!(value))));
        }
        let door = self.place()?;
        style(bar, "fetching   {spinner}");
        let request = door.request(Method::PUT, door.at(&["functions", &name])?).json(&asked);
        watch(&door, request, bar).await
    }

    fn place(&self) -> anyhow::Result<Door> {
        Door::new(&self.place.address(), self.place.token.clone())
    }

    /// The limits that were asked for.
    fn limits(&self) -> Vec<(&'static str, u32)> {
        let asked = [("time_ms", self.time_ms), ("memory_mb", self.memory_mb), ("output_kb", self.output_kb)];
        asked.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }

    /// The name given, or that of the file without its extension.
    fn name_or(&self, file: Option<&str>) -> anyhow::Result<String> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let stem = file.map(|file| match file.rsplit_once('.') {
            Some((stem, "wasm" | "py" | "js" | "mjs")) => stem,
            _ => file,
        });
        let stem = stem.filter(|stem| !stem.is_empty());
        stem.map(str::to_owned).with_context(|| format!("{} gives no name: say --name", self.from))
    }
}

/// Sends the request and follows how far the module is; the function's entry.
async fn watch(door: &Door, request: RequestBuilder, bar: &ProgressBar) -> anyhow::Result<Value> {
    let answer = door.send(request.header(header::ACCEPT, "application/x-ndjson, application/json")).await?;
    if !door::is_lines(&answer) {
        let entry = door::whole(answer).await?;
        return serde_json::from_slice(&entry).context("the answer is not that of the module functions");
    }
    follow(answer, bar).await
}

/// Reads the lines of an installation to their end.
async fn follow(answer: Response, bar: &ProgressBar) -> anyhow::Result<Value> {
    let mut lines = Lines::of(answer);
    let mut compiles = false;
    while let Some(line) = lines.next().await? {
        if line.is_empty() {
            continue;
        }
        let mut line: Value = serde_json::from_slice(&line).context("a line of the answer is not JSON")?;
        if let Some(problem) = line.get("problem") {
            let told = door::told(problem).unwrap_or_else(|| problem.to_string());
            anyhow::bail!("{told}");
        }
        if let Some(entry) = line.get_mut("function") {
            return Ok(entry.take());
        }
        let Some(progress) = line.get("progress") else { continue };
        if !compiles {
            compiles = true;
            style(bar, "compiling  {bar:40} {pos}/{len} functions");
        }
        let number = |key: &str| progress.get(key).and_then(Value::as_u64).unwrap_or_default();
        bar.set_length(number("all"));
        bar.set_position(number("done"));
    }
    anyhow::bail!("the answer ended before the function was installed")
}

async fn read(file: &Path) -> anyhow::Result<Bytes> {
    let cannot = || format!("cannot read {}", file.display());
    let about = tokio::fs::metadata(file).await.with_context(cannot)?;
    anyhow::ensure!(about.is_file(), "{} is no file", file.display());
    anyhow::ensure!(
        about.len() <= FILE,
        "{} is larger than {FILE} bytes: that is no function",
        file.display()
    );
    Ok(tokio::fs::read(file).await.with_context(cannot)?.into())
}

fn name_of(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The content type, which tells the language of a text.
fn kind_of(file: &Path) -> &'static str {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("py") => "text/x-python",
        Some("js" | "mjs") => "text/javascript",
        Some("wasm") => "application/wasm",
        _ => "application/octet-stream",
    }
}

/// Another look of the bar. A template that is wrong leaves it as it was.
fn style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

// === impl Pieces ===

impl Stream for Pieces {
    type Item = Result<Bytes, std::io::Error>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Waking<'_>) -> Poll<Option<Self::Item>> {
        let pieces = self.get_mut();
        if pieces.left.is_empty() {
            return Poll::Ready(None);
        }
        let length = pieces.left.len().min(PIECE);
        let piece = pieces.left.split_to(length);
        pieces.bar.inc(length as u64);
        Poll::Ready(Some(Ok(piece)))
    }
}
