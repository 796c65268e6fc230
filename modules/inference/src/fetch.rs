//! Fetches a model's file from the address that the catalog gives.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use shunt_infer::{ModelEntry, SourceKind, digest};
use tokio::{fs, io::AsyncWriteExt, task::spawn_blocking};

/// How long connecting may take, and how long the address may say nothing.
const SILENCE: Duration = Duration::from_secs(30);
/// How long it may take in all.
const LIMIT: Duration = Duration::from_mins(10);

/// Why a model's file could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("the catalog names no address and digest for its file; get it with `shunt models fetch`")]
    NoAddress,
    #[error("{url} cannot be fetched: {why}")]
    Request { url: String, why: String },
    #[error("{url} is larger than the {bytes} bytes that the catalog says")]
    TooLarge { url: String, bytes: u64 },
    #[error("what {url} sent has the sha256 {found}, the catalog says {expected}; it is not used")]
    Digest { url: String, expected: String, found: String },
    #[error("the file {} cannot be written: {source}", file.display())]
    File { file: PathBuf, source: std::io::Error },
}

/// Can this model's file be fetched? Only where the catalog pins address and digest: the twin names models, never
/// addresses, and what an address sends is used only if its digest is right.
pub(crate) fn is_fetchable(entry: &ModelEntry) -> bool {
    entry.source.kind == SourceKind::Url && entry.source.url.is_some() && entry.sha256.is_some()
}

/// Fetches the file of this model into a folder of models. It stands there whole and checked, or not at all.
pub(crate) async fn fetch(entry: &ModelEntry, folder: &Path) -> Result<PathBuf, FetchError> {
    let (Some(url), Some(expected)) = (&entry.source.url, &entry.sha256) else {
        return Err(FetchError::NoAddress);
    };
    let file = folder.join(&entry.file);
    // One load goes on at a time, so nobody else writes it; one left behind by a loss of power is written over.
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = file.with_file_name(name);
    let kept = keep(url, entry.bytes, &part).await;
    let checked = match kept {
        Ok(()) => check(url, expected, &part, &file).await,
        Err(error) => Err(error),
    };
    if let Err(error) = checked {
        fs::remove_file(&part).await.ok();
        return Err(error);
    }
    Ok(file)
}

/// Writes what the address sends, as long as it is no more than that.
async fn keep(url: &str, bytes: u64, part: &Path) -> Result<(), FetchError> {
    let failed =
        |error: reqwest::Error| FetchError::Request { url: url.to_owned(), why: chain(&error.without_url()) };
    let cannot = |source| FetchError::File { file: part.to_owned(), source };
    let too_large = || FetchError::TooLarge { url: url.to_owned(), bytes };
    // Without it no client can be made; a second call changes nothing.
    rustls::crypto::ring::default_provider().install_default().ok();
    // The proxies of the environment are in force: the address may be out in the internet.
    let client = reqwest::Client::builder()
        .tcp_nodelay(true)
        .connect_timeout(SILENCE)
        .read_timeout(SILENCE)
        .timeout(LIMIT)
        .redirect(reqwest::redirect::Policy::limited(5))
        .build()
        .map_err(failed)?;
    let answer = client.get(url).send().await.and_then(reqwest::Response::error_for_status);
    let mut answer = answer.map_err(failed)?;
    if answer.content_length().is_some_and(|length| length > bytes) {
        return Err(too_large());
    }
    fs::create_dir_all(part.parent().unwrap_or(Path::new("."))).await.map_err(cannot)?;
    let mut file = fs::File::create(part).await.map_err(cannot)?;
    let mut written = 0;
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        written += chunk.len() as u64;
        if written > bytes {
            return Err(too_large());
        }
        file.write_all(&chunk).await.map_err(cannot)?;
    }
    file.sync_all().await.map_err(cannot)
}

/// Gives the file its name, if its digest is right.
async fn check(url: &str, expected: &str, part: &Path, file: &Path) -> Result<(), FetchError> {
    let (url, expected) = (url.to_owned(), expected.to_owned());
    let (part, file) = (part.to_owned(), file.to_owned());
    let cannot = |source| FetchError::File { file: file.clone(), source };
    let checking = {
        let file = file.clone();
        spawn_blocking(move || {
            let cannot = |source| FetchError::File { file: file.clone(), source };
            let found = digest(&std::fs::read(&part).map_err(cannot)?);
            if found != expected {
                return Err(FetchError::Digest { url, expected, found });
            }
            std::fs::rename(&part, &file).map_err(cannot)?;
            let folder = file.parent().unwrap_or(Path::new("."));
            std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(cannot)
        })
    };
    checking.await.map_err(|error| cannot(std::io::Error::other(error)))?
}

/// An error and what is behind it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
