//! `shunt sentiment`: how positive a text is, asked as any client of Text Analytics asks.

use std::{io::BufRead, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Args;
use serde_json::Value;
use shunt_text::{Language, TextModel};
use shunt_wire::seed::{TextDocument, TextDocuments, TextError, TextScore, TextScores};

use crate::{
    chain::{self, Chain},
    output,
};

/// Tell how positive texts are: 0 (negative) to 1 (positive).
///
/// Asks the module `sentiment` of the chain that runs, or the address given; where there is none, the model that is
/// built in judges.
#[derive(Debug, Args)]
pub(crate) struct Sentiment {
    /// The texts; none: the lines of standard input.
    texts: Vec<String>,
    /// Their language: en or nl.
    #[arg(long, short, value_name = "CODE", default_value = "en")]
    language: String,
    /// Ask this address, as in http://localhost:5000; any Text Analytics v2.0 will do.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Ask nobody: the model that is built in judges.
    #[arg(long, conflicts_with = "url")]
    local: bool,
    /// Print the answer of the API.
    #[arg(long)]
    json: bool,
    /// The folder of the chain.
    #[arg(long, value_name = "DIR")]
    folder: Option<std::path::PathBuf>,
}

/// What a module has to answer in.
const LIMIT: Duration = Duration::from_secs(30);
/// Most texts, as the API has it.
const TEXTS: usize = 1_000;

// === impl Sentiment ===

impl Sentiment {
    pub(crate) async fn run(mut self) -> anyhow::Result<ExitCode> {
        if self.texts.is_empty() {
            let lines = tokio::task::spawn_blocking(|| {
                std::io::stdin().lock().lines().take(TEXTS + 1).collect::<Result<Vec<_>, _>>()
            });
            self.texts = lines.await?.context("standard input cannot be read")?;
        }
        if self.texts.len() > TEXTS {
            anyhow::bail!("{TEXTS} texts at once are allowed");
        }
        let scores = match self.address() {
            Some(url) => ask(&url, self.documents()).await?,
            None => {
                let documents = self.documents();
                tokio::task::spawn_blocking(move || judge(documents)).await??
            }
        };
        self.print(&scores)?;
        Ok(if scores.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Whom to ask; nothing where the built-in model shall judge.
    fn address(&self) -> Option<String> {
        if self.local {
            return None;
        }
        if let Some(url) = &self.url {
            return Some(url.clone());
        }
        let folder = self.folder.clone().unwrap_or_else(chain::default_folder);
        let address = Chain::read(&folder).ok()?.processes.get("sentiment")?.address.clone()?;
        Some(format!("http://{address}"))
    }

    fn documents(&self) -> Vec<TextDocument> {
        let texts = self.texts.iter().enumerate();
        texts
            .map(|(index, text)| TextDocument {
                language: Some(self.language.clone()),
                id: Some((index + 1).to_string()),
                text: Some(text.clone()),
            })
            .collect()
    }

    fn print(&self, scores: &TextScores) -> anyhow::Result<()> {
        if self.json {
            return output::line(serde_json::to_string(scores)?);
        }
        for (index, text) in self.texts.iter().enumerate() {
            let id = (index + 1).to_string();
            if let Some(TextScore { score, .. }) = scores.documents.iter().find(|one| one.id == id) {
                output::line(format_args!("{score:.3}  {}  {text}", word(*score)))?;
            }
            if let Some(TextError { message, .. }) = scores.errors.iter().find(|one| one.id == id) {
                output::complain(format_args!("{text:?}: {message}"));
            }
        }
        Ok(())
    }
}

/// What a score says, in words of equal width.
fn word(score: f64) -> &'static str {
    match score {
        score if score < 0.3 => "negative",
        score if score > 0.7 => "positive",
        _ => "neutral ",
    }
}

async fn ask(url: &str, documents: Vec<TextDocument>) -> anyhow::Result<TextScores> {
    let url = format!("{}/text/analytics/v2.0/sentiment", url.trim_end_matches('/'));
    let client = reqwest::Client::builder().no_proxy().tcp_nodelay(true).timeout(LIMIT).build()?;
    let answer = client.post(&url).json(&TextDocuments { documents: Some(documents) }).send().await;
    let answer = answer.with_context(|| format!("no answer from {url}"))?;
    if let Some(reason) = answer.headers().get("x-shunt-fallback").and_then(|reason| reason.to_str().ok()) {
        output::complain(format_args!("the module's local model judged: {reason}"));
    }
    let status = answer.status();
    let body: Value = answer.json().await.with_context(|| format!("{url} answered {status}, but no JSON"))?;
    if !status.is_success() {
        anyhow::bail!("{url} answered {status}: {body}");
    }
    serde_json::from_value(body)
        .with_context(|| format!("the answer of {url} is not that of Text Analytics v2.0"))
}

/// What the module answers, without the module.
fn judge(documents: Vec<TextDocument>) -> anyhow::Result<TextScores> {
    let model = TextModel::built_in(TextModel::DEFAULT)?;
    let mut scores = TextScores::default();
    for TextDocument { language, id, text } in documents {
        let (id, text) = (id.unwrap_or_default(), text.unwrap_or_default());
        let language: Language = language.unwrap_or_default().parse()?;
        if text.trim().is_empty() {
            scores.errors.push(TextError { id, message: "Record cannot be null/empty".to_owned() });
        } else {
            let score = model.score(language, &text);
            scores.documents.push(TextScore { id, score: (score * 1e6).round() / 1e6 });
        }
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_model_judges_where_nobody_is_asked() {
        let document = |id: &str, text: &str| TextDocument {
            language: Some("en".to_owned()),
            id: Some(id.to_owned()),
            text: Some(text.to_owned()),
        };
        let scores =
            judge(vec![document("1", "I love this!"), document("2", " "), document("3", "awful")]).unwrap();
        let words: Vec<_> = scores.documents.iter().map(|one| (one.id.as_str(), word(one.score))).collect();
        assert_eq!(words, [("1", "positive"), ("3", "negative")]);
        assert_eq!(scores.errors[0].id, "2");
        let unknown = TextDocument { language: Some("de".to_owned()), ..document("1", "gut") };
        assert!(judge(vec![unknown]).unwrap_err().to_string().contains("allowed are en and nl"));
    }
}
