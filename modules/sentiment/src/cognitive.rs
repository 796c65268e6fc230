//! The Azure Cognitive Services container that is asked instead of the local model.

use std::{collections::HashSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use shunt_module::Health;
use shunt_text::Language;
use shunt_wire::seed::{TextDocument, TextDocuments, TextScores};
use tokio::time::Instant;

/// After it has failed, the container is left alone for so long: a request shall not wait for it each time.
const PAUSE: Duration = Duration::from_secs(5);
/// The largest answer in bytes: a thousand scores with long ids.
const ANSWER: usize = 4 * 1024 * 1024;
/// The part of the module's health that the container is.
const PART: &str = "cognitive";

/// The container. Clones share what is known of it.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    client: reqwest::Client,
    url: String,
    limit: Duration,
    health: Health,
    failed: Arc<Mutex<Option<(Instant, String)>>>,
}

/// Why the container did not judge.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ContainerError {
    #[error("the container did not answer within {} ms", .0.as_millis())]
    Late(Duration),
    #[error("the container cannot be asked: {0}")]
    Asking(String),
    #[error("the container answered {0}")]
    Status(u16),
    #[error("the container's answer is not that of Text Analytics v2.0: {0}")]
    Answer(String),
    #[error("{0}; it is asked again later")]
    Paused(String),
}

// === impl Container ===

impl Container {
    /// The container at this address (`http://host:port`).
    pub(crate) fn new(address: &str, limit: Duration, health: Health) -> Result<Self, reqwest::Error> {
        // Two providers could be compiled in; the first call of the process names one, later ones change nothing.
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = reqwest::Client::builder().tcp_nodelay(true).no_proxy().timeout(limit).build()?;
        let url = format!("{}/text/analytics/v2.0/sentiment", address.trim_end_matches('/'));
        Ok(Self { client, url, limit, health, failed: Arc::default() })
    }

    /// Asks; each text that names no language gets this one.
    pub(crate) async fn ask(
        &self,
        mut documents: Vec<TextDocument>,
        language: Language,
    ) -> Result<TextScores, ContainerError> {
        if documents.is_empty() {
            return Ok(TextScores::default());
        }
        if let Some((_, reason)) = self.failed.lock().as_ref().filter(|(since, _)| since.elapsed() < PAUSE) {
            return Err(ContainerError::Paused(reason.clone()));
        }
        for document in &mut documents {
            // An empty one is none, as for the local model.
            if document.language.as_deref().unwrap_or_default().is_empty() {
                document.language = Some(language.code().to_owned());
            }
        }
        // The client's own limit tells less; this one is the same and covers all.
        let asking = tokio::time::timeout(self.limit, self.ask_now(documents));
        let answer = asking.await.unwrap_or(Err(ContainerError::Late(self.limit)));
        match &answer {
            Ok(_) => {
                if self.failed.lock().take().is_some() {
                    tracing::info!("The container judges again.");
                }
                self.health.note(PART, "the container judges");
            }
            Err(error) => {
                let reason = error.to_string();
                if self.failed.lock().replace((Instant::now(), reason.clone())).is_none() {
                    tracing::warn!(reason, "The container does not judge; the local model does.");
                }
                self.health.note(PART, format!("the local model judges: {reason}"));
            }
        }
        answer
    }

    async fn ask_now(&self, documents: Vec<TextDocument>) -> Result<TextScores, ContainerError> {
        let asked: Vec<_> = documents.iter().filter_map(|document| document.id.clone()).collect();
        let body = TextDocuments { documents: Some(documents) };
        let failed = |error: reqwest::Error| {
            if error.is_timeout() {
                return ContainerError::Late(self.limit);
            }
            // The address may hold a password, and the cause says more than the outermost sentence.
            let error = error.without_url();
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(inner) = cause {
                text = format!("{text}: {inner}");
                cause = inner.source();
            }
            ContainerError::Asking(text)
        };
        let mut response = self.client.post(&self.url).json(&body).send().await.map_err(failed)?;
        if !response.status().is_success() {
            return Err(ContainerError::Status(response.status().as_u16()));
        }
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if answer.len() + chunk.len() > ANSWER {
                return Err(ContainerError::Answer(format!("it has more than {ANSWER} bytes")));
            }
            answer.extend_from_slice(&chunk);
        }
        let scores: TextScores =
            serde_json::from_slice(&answer).map_err(|error| ContainerError::Answer(error.to_string()))?;
        if let Some(wrong) = scores.documents.iter().find(|score| !(0.0..=1.0).contains(&score.score)) {
            return Err(ContainerError::Answer(format!("the score {} is not from 0 to 1", wrong.score)));
        }
        let mut answered: HashSet<&str> = scores.documents.iter().map(|score| score.id.as_str()).collect();
        answered.extend(scores.errors.iter().map(|error| error.id.as_str()));
        match asked.iter().find(|id| !answered.contains(id.as_str())) {
            Some(missing) => Err(ContainerError::Answer(format!("the document {missing:?} is not in it"))),
            None => Ok(scores),
        }
    }
}
