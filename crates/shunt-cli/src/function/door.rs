//! The module's HTTP interface, from outside.

use std::time::Duration;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use reqwest::{Method, RequestBuilder, Response, Url, header, redirect::Policy};
use serde_json::Value;
use tokio::time::timeout;

/// How long the module may take to be reached.
const CONNECT: Duration = Duration::from_secs(10);
/// How long it may say nothing: an interpreter of 18 MB compiles in half a minute.
const SILENCE: Duration = Duration::from_mins(5);
/// The longest answer, or line of one, that is kept in memory.
const ANSWER: usize = 16 * 1024 * 1024;

/// The module's HTTP interface.
#[derive(Debug)]
pub(super) struct Door {
    base: Url,
    token: Option<String>,
    client: reqwest::Client,
}

/// An answer that is read line by line.
#[derive(Debug)]
pub(super) struct Lines {
    answer: Response,
    /// May it say nothing for as long as it likes?
    is_patient: bool,
    begun: BytesMut,
}

// === impl Door ===

impl Door {
    pub(super) fn new(address: &str, token: Option<String>) -> anyhow::Result<Self> {
        let no_address = || format!("{address:?} is no address as in http://127.0.0.1:8080");
        let base = Url::parse(address).with_context(no_address)?;
        anyhow::ensure!(matches!(base.scheme(), "http" | "https") && base.has_host(), no_address());
        // A redirect would show the token to somebody else.
        let client = reqwest::Client::builder()
            .no_proxy()
            .tcp_nodelay(true)
            .redirect(Policy::none())
            .connect_timeout(CONNECT)
            .build()?;
        Ok(Self { base, token, client })
    }

    /// The address of the path of these segments.
    pub(super) fn at(&self, path: &[&str]) -> anyhow::Result<Url> {
        let mut url = self.base.clone();
        let segments = url.path_segments_mut();
        segments.map_err(|()| anyhow::anyhow!("{} has no path", self.base))?.pop_if_empty().extend(path);
        Ok(url)
    }

    /// A request with the token.
    pub(super) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.client.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends it; an answer that is not a success is an error with the module's own words.
    pub(super) async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let silent = || format!("no answer from {} within {} s", self.base, SILENCE.as_secs());
        let answer = timeout(SILENCE, request.send()).await.with_context(silent)?;
        let answer = answer.map_err(reqwest::Error::without_url);
        let answer = answer.with_context(|| format!("no answer from {}", self.base))?;
        if answer.status().is_success() { Ok(answer) } else { Err(refusal(answer).await) }
    }

    /// What is there, as JSON.
    pub(super) async fn get(&self, path: &[&str]) -> anyhow::Result<Value> {
        let answer = self.send(self.request(Method::GET, self.at(path)?)).await?;
        let bytes = whole(answer).await?;
        serde_json::from_slice(&bytes)
            .with_context(|| format!("the answer of {} is not that of the module functions", self.base))
    }

    pub(super) async fn delete(&self, path: &[&str]) -> anyhow::Result<()> {
        self.send(self.request(Method::DELETE, self.at(path)?)).await?;
        Ok(())
    }
}

/// The module's own words for what is wrong.
async fn refusal(answer: Response) -> anyhow::Error {
    let status = answer.status();
    let text = whole(answer).await.unwrap_or_default();
    let told = serde_json::from_slice(&text).ok().and_then(|problem: Value| told(&problem));
    match told.unwrap_or_else(|| String::from_utf8_lossy(&text).trim().to_owned()) {
        told if told.is_empty() => anyhow::anyhow!("the module answered {status}"),
        told => anyhow::anyhow!("{told} ({})", status.as_u16()),
    }
}

/// The sentence of a problem document.
pub(super) fn told(problem: &Value) -> Option<String> {
    let text = |key: &str| problem.get(key).and_then(Value::as_str);
    text("detail").or_else(|| text("title")).map(str::to_owned)
}

/// The whole body, where it is no larger than allowed.
pub(super) async fn whole(mut answer: Response) -> anyhow::Result<Bytes> {
    let mut body = BytesMut::new();
    while let Some(piece) = next_piece(&mut answer).await? {
        anyhow::ensure!(body.len() + piece.len() <= ANSWER, "the answer is longer than {ANSWER} bytes");
        body.extend_from_slice(&piece);
    }
    Ok(body.freeze())
}

/// The next piece of a body; nothing at its end.
pub(super) async fn next_piece(answer: &mut Response) -> anyhow::Result<Option<Bytes>> {
    let piece = timeout(SILENCE, answer.chunk()).await;
    piece.context("the answer stopped coming")?.context("the answer broke off")
}

/// Is it a stream of JSON lines?
pub(super) fn is_lines(answer: &Response) -> bool {
    let kind = answer.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/x-ndjson"))
}

// === impl Lines ===

impl Lines {
    pub(super) fn of(answer: Response) -> Self {
        Self { answer, is_patient: false, begun: BytesMut::new() }
    }

    /// Of an answer that goes on when there is something to tell.
    pub(super) fn without_end(answer: Response) -> Self {
        Self { is_patient: true, ..Self::of(answer) }
    }

    /// The next line without its end; nothing where the answer ends.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        loop {
            if let Some(end) = self.begun.iter().position(|&byte| byte == b'\n') {
                let line = self.begun.split_to(end + 1).freeze();
                return Ok(Some(line.slice(..end)));
            }
            anyhow::ensure!(self.begun.len() <= ANSWER, "a line of the answer is longer than {ANSWER} bytes");
            let piece = if self.is_patient {
                self.answer.chunk().await.context("the answer broke off")?
            } else {
                next_piece(&mut self.answer).await?
            };
            match piece {
                Some(piece) => self.begun.extend_from_slice(&piece),
                None if self.begun.is_empty() => return Ok(None),
                None => return Ok(Some(self.begun.split().freeze())),
            }
        }
    }
}
