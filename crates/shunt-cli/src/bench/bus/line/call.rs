//! Calls of HTTP routes, as modules make them: straight, or through the gateway. In a chain each process calls the
//! next one before it answers.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, State},
    http::{Method, Request, StatusCode, Uri, header},
    routing::post,
};
use http_body_util::{BodyExt, Limited};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shunt_module::{
    Context, Problems, Settings,
    services::{CallPolicy, Services},
};
use tokio::task::JoinSet;

use super::{
    super::note::{ANSWER, Kind, Note, Writer, content_type},
    CallWay,
};

/// The largest answer.
const LARGEST: usize = 1 << 20;

/// The name of the gateway among the addresses.
const GATEWAY: &str = "gateway";

/// Calls the next process.
#[derive(Debug)]
pub(in super::super) struct CallLine {
    caller: Caller,
    writer: Writer,
}

/// What a call needs.
#[derive(Debug, Clone)]
struct Caller {
    services: Services,
    app: String,
    path: Uri,
}

/// The settings of a process that answers: there are none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct NoSettings {}

// === impl NoSettings ===

impl Settings for NoSettings {
    const MODULE: &'static str = "bench";

    fn check(&self, _problems: &mut Problems) {}
}

// === impl CallLine ===

impl CallLine {
    pub(super) fn open(way: &CallWay, index: usize) -> anyhow::Result<Self> {
        let caller = Caller::new(way, index)?.context("there is nobody to call")?;
        Ok(Self { caller, writer: Writer::default() })
    }

    pub(super) async fn exchange(&mut self, note: Note, size: usize) -> anyhow::Result<Note> {
        Note::read(&self.caller.call(self.writer.write(note, size), content_type(size)).await?)
    }

    /// Calls as many times, or for this time, so many at once; calls a second.
    pub(in super::super) async fn flood(
        &mut self,
        most: usize,
        time: Duration,
        at_once: usize,
    ) -> anyhow::Result<f64> {
        let content = self.writer.write(Note::new(Kind::Ask), ANSWER);
        let (begin, mut calls, mut count) = (Instant::now(), JoinSet::new(), 0_usize);
        loop {
            while calls.len() < at_once && count < most && begin.elapsed() < time {
                let (caller, content) = (self.caller.clone(), content.clone());
                calls.spawn(async move { caller.call(content, content_type(ANSWER)).await });
                count += 1;
            }
            match calls.join_next().await {
                Some(answer) => drop(answer??),
                None => return Ok(count as f64 / begin.elapsed().as_secs_f64()),
            }
        }
    }
}

// === impl Caller ===

impl Caller {
    /// Calls the process after this one; nothing where this is the last.
    fn new(way: &CallWay, index: usize) -> anyhow::Result<Option<Self>> {
        // The first process has no address.
        let Some(next) = way.addresses.get(index) else { return Ok(None) };
        let services = Services::new(CallPolicy::default());
        let name = format!("bench-{}", index + 1);
        let (app, address, path) = match &way.gateway {
            None => (name, next, "/answer".to_owned()),
            Some(gateway) => (GATEWAY.to_owned(), gateway, format!("/v1.0/invoke/{name}/method/answer")),
        };
        services.set_addresses([(app.as_str(), address.as_str())])?;
        Ok(Some(Self { services, app, path: path.parse()? }))
    }

    async fn call(&self, content: Bytes, content_type: &'static str) -> anyhow::Result<Bytes> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.path.clone())
            .header(header::CONTENT_TYPE, content_type)
            .body(Body::from(content))?;
        let response = self.services.call(&self.app, request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?.to_bytes();
        anyhow::ensure!(status == StatusCode::OK, "{status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }
}

/// Answers calls, with all that a module has around its routes, until it is ended.
pub(in super::super) async fn serve(
    way: &CallWay,
    index: usize,
    ready: impl FnOnce() -> anyhow::Result<()> + Send,
) -> anyhow::Result<()> {
    let next = Caller::new(way, index)?;
    let address = index.checked_sub(1).and_then(|index| way.addresses.get(index));
    let address = address.context("a process has no address")?.clone();
    let environment = [
        ("SHUNT_BUS_URL", "memory:bench".to_owned()),
        ("SHUNT_HTTP_LISTEN", address),
        ("SHUNT_DATA_DIR", way.folder.display().to_string()),
    ];
    let environment: BTreeMap<_, _> =
        environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let run = |context: Context<NoSettings>| async move {
        let answer = Writer::default().write(Note::new(Kind::Answer), ANSWER);
        let routes = Router::new()
            .route("/answer", post(answer_call))
            .layer(DefaultBodyLimit::max(LARGEST))
            .with_state(Arc::new((next, answer)));
        context.serve(routes);
        ready()?;
        context.shutdown.cancelled().await;
        Ok(())
    };
    let code = shunt_module::live(&environment, std::future::pending(), run).await;
    anyhow::ensure!(code == 0, "it ended with code {code}");
    Ok(())
}

/// In a chain, what the next process answers is the answer.
async fn answer_call(
    State(state): State<Arc<(Option<Caller>, Bytes)>>,
    content: Bytes,
) -> Result<Bytes, (StatusCode, String)> {
    let (next, answer) = &*state;
    let refuse = |error: anyhow::Error| (StatusCode::BAD_GATEWAY, format!("{error:#}"));
    Note::read(&content).map_err(refuse)?;
    match next {
        None => Ok(answer.clone()),
        Some(next) => next.call(content, content_type(ANSWER)).await.map_err(refuse),
    }
}
