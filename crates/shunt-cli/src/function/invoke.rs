//! `shunt function invoke`: calls a function.

use std::{
    io::{IsTerminal, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use reqwest::{Method, Response, header};

use super::{
    Place,
    door::{self, Door},
};
use crate::output;

/// The largest body that is read here; what the module takes is for its settings to say.
const BODY: u64 = 256 * 1024 * 1024;

/// Call a function: shunt function invoke average 0,1,1
#[derive(Debug, Args)]
pub(super) struct Invoke {
    /// Its name; a path behind it goes to the function, as in NAME/some/path.
    name: String,
    /// What it is called with: a text, @FILE, or - for standard input.
    #[arg(value_name = "DATA|@FILE|-", allow_hyphen_values = true)]
    data: Option<String>,
    /// Write the answer into this file.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// What follows the `?`, as in model=mobilenet-v1-quant.
    #[arg(long, value_name = "QUERY")]
    query: Option<String>,
    /// The content type [default: by the file's extension; text/plain for a text].
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    #[command(flatten)]
    place: Place,
}

// === impl Invoke ===

impl Invoke {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let data = self.data.clone().unwrap_or_default();
        let (body, kind) = tokio::task::spawn_blocking(move || body(&data)).await??;
        // The token opens the management; a function has no need of it.
        let door = Door::new(&self.place.address(), None)?;
        let path: Vec<&str> = self.name.split('/').collect();
        let kind = self.content_type.as_deref().unwrap_or(kind);
        let mut url = door.at(&path)?;
        url.set_query(self.query.as_deref());
        let request = door.request(Method::POST, url).header(header::CONTENT_TYPE, kind).body(body);
        let answer = door.send(request).await?;
        match &self.out {
            Some(file) => save(answer, file).await,
            None => show(answer).await,
        }
    }
}

/// What the function is called with, and its content type.
fn body(data: &str) -> anyhow::Result<(Bytes, &'static str)> {
    let mut bytes = Vec::new();
    let (kind, name): (&str, &str) = match data.strip_prefix('@') {
        Some(file) => {
            let cannot = || format!("cannot read {file}");
            let open = std::fs::File::open(file).with_context(cannot)?;
            open.take(BODY + 1).read_to_end(&mut bytes).with_context(cannot)?;
            (kind_of(Path::new(file)), file)
        }
        None if data == "-" => {
            std::io::stdin()
                .lock()
                .take(BODY + 1)
                .read_to_end(&mut bytes)
                .context("cannot read standard input")?;
            ("application/octet-stream", "standard input")
        }
        None => {
            bytes.extend_from_slice(data.as_bytes());
            ("text/plain; charset=utf-8", "the text")
        }
    };
    anyhow::ensure!(bytes.len() as u64 <= BODY, "{name} is longer than {BODY} bytes");
    Ok((bytes.into(), kind))
}

fn kind_of(file: &Path) -> &'static str {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("png") => "image/png",
        Some("gif") => "image/gif",
        Some("json") => "application/json",
        Some("txt" | "csv") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// Writes the answer into the file, whole or not at all.
async fn save(mut answer: Response, file: &Path) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", file.display());
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut draft = tempfile::NamedTempFile::new_in(folder).with_context(cannot)?;
    while let Some(piece) = door::next_piece(&mut answer).await? {
        draft.write_all(&piece).with_context(cannot)?;
    }
    draft.persist(file).with_context(cannot)?;
    Ok(())
}

/// Prints the answer as it is; a terminal gets text only.
async fn show(answer: Response) -> anyhow::Result<()> {
    let in_terminal = std::io::stdout().is_terminal();
    let answer = door::whole(answer).await?;
    if !in_terminal {
        let mut out = std::io::stdout().lock();
        out.write_all(&answer)?;
        out.flush()?;
        return Ok(());
    }
    match std::str::from_utf8(&answer) {
        Ok(text) if !text.contains('\0') => output::words(text.trim_end()),
        _ => anyhow::bail!("the answer is no text but {} bytes: say --out FILE", answer.len()),
    }
}
