//! Judges texts: checks each, asks the container or the local model, and keeps the order.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    sync::Arc,
    time::Instant,
};

use shunt_text::{Language, TextModel};
use shunt_wire::seed::{TextDocument, TextError, TextScore, TextScores};
use tokio::sync::{Semaphore, watch};
use unicode_segmentation::UnicodeSegmentation;

use crate::{cognitive::Container, tally::Tally};

/// Most texts in a request.
pub(crate) const TEXTS: usize = 1_000;
/// Most characters of a text, as a reader counts them.
pub(crate) const CHARACTERS: usize = 5_120;
/// Most requests and events in work at a time on threads for heavy work; the others wait for their turn. How many may
/// wait is bounded by the connections of the HTTP interface and by the intake.
const AT_WORK: usize = 4;
/// Digits behind the point of a score.
const PRECISION: f64 = 1e6;

/// Why a text is not judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    NoId,
    Empty,
    TooLong,
    Language,
    /// The container refused it.
    Container,
}

/// What the judge works with; exchanged as a whole.
#[derive(Debug, Clone)]
pub(crate) struct Bench {
    pub(crate) model: Arc<TextModel>,
    /// Who is asked first.
    pub(crate) container: Option<Container>,
    /// Of texts that name none.
    pub(crate) language: Language,
}

/// Judges texts. Clones share all.
#[derive(Debug, Clone)]
pub(crate) struct Judge {
    bench: Arc<watch::Sender<Option<Arc<Bench>>>>,
    work: Arc<Semaphore>,
    tally: Tally,
}

/// Texts judged.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) scores: TextScores,
    /// The local model's name, or `cognitive`.
    pub(crate) model: String,
    /// Why the local model judged although the container was wanted.
    pub(crate) fallback: Option<String>,
    /// Milliseconds that judging took.
    pub(crate) ms: f64,
}

/// Why nothing was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoVerdict {
    #[error("no model is loaded")]
    NoModel,
    #[error("the module is ending")]
    Ending,
    /// It would fail at these texts again.
    #[error("the model failed at the texts")]
    Failed,
}

// === impl Fault ===

impl Fault {
    pub(crate) const ALL: [Self; 5] =
        [Self::NoId, Self::Empty, Self::TooLong, Self::Language, Self::Container];

    /// The label of the metric.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::NoId => "id",
            Self::Empty => "empty",
            Self::TooLong => "too_long",
            Self::Language => "language",
            Self::Container => "container",
        }
    }

    /// What the Text Analytics API says of it. Its words are kept where they are known: recorded answers of v2.0 for
    /// the language, the documents of v1 and v2 for the others.
    fn message(self) -> String {
        match self {
            Self::NoId => "Document id is missing. Make sure each document has a unique Id.".to_owned(),
            Self::Empty => "Record cannot be null/empty".to_owned(),
            Self::TooLong => format!(
                "A document within the request was too large to be processed. Limit document size to: {CHARACTERS} text elements. For additional details on the data limitations see https://aka.ms/text-analytics-data-limits"
            ),
            Self::Language => {
                let codes: Vec<_> = Language::ALL.iter().map(|language| language.code()).collect();
                format!("Supplied language not supported. Pass in one of:{}", codes.join(","))
            }
            Self::Container => String::new(),
        }
    }
}

// === impl Judge ===

impl Judge {
    pub(crate) fn new(tally: Tally) -> Self {
        Self { bench: Arc::default(), work: Arc::new(Semaphore::new(AT_WORK)), tally }
    }

    /// What is worked with; nothing as long as no model is loaded.
    pub(crate) fn bench(&self) -> Option<Arc<Bench>> {
        self.bench.borrow().clone()
    }

    /// Returns when there is something to work with.
    pub(crate) async fn is_ready(&self) {
        // The sender lives in what we hold, so this does not fail.
        drop(self.bench.subscribe().wait_for(Option::is_some).await);
    }

    /// From now on this.
    pub(crate) fn set(&self, bench: Bench) {
        self.bench.send_replace(Some(Arc::new(bench)));
    }

    /// Does heavy work on a thread for it, when its turn has come.
    async fn work<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoVerdict> {
        let turn = Arc::clone(&self.work).acquire_owned().await.map_err(|_| NoVerdict::Ending)?;
        let job = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            job()
        });
        job.await.map_err(|error| if error.is_panic() { NoVerdict::Failed } else { NoVerdict::Ending })
    }

    /// Judges texts. Their order is kept; each is in the scores or in the errors, once.
    pub(crate) async fn judge(&self, documents: Vec<TextDocument>) -> Result<Verdict, NoVerdict> {
        match self.judge_request(|| Ok::<_, Infallible>(documents)).await? {
            Ok(verdict) => Ok(verdict),
            Err(never) => match never {},
        }
    }

    /// The same of texts that must be read first, which is work too; both are done in one go where nobody else is
    /// asked.
    pub(crate) async fn judge_request<E: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<Vec<TextDocument>, E> + Send + 'static,
    ) -> Result<Result<Verdict, E>, NoVerdict> {
        let bench = self.bench().ok_or(NoVerdict::NoModel)?;
        let Some(container) = &bench.container else {
            let tally = self.tally.clone();
            return self.work(move || Ok(judge_here(&bench, read()?, None, &tally))).await;
        };
        let documents = match self.work(read).await? {
            Ok(documents) => documents,
            Err(problem) => return Ok(Err(problem)),
        };
        let started = Instant::now();
        let sound: Vec<_> = documents.iter().filter(|document| fault(document).is_none()).cloned().collect();
        match container.ask(sound, bench.language).await {
            Ok(answer) => {
                let scores = self.merge(documents, answer);
                self.tally.judged("cognitive", scores.documents.len() as u64);
                let ms = started.elapsed().as_secs_f64() * 1e3;
                Ok(Ok(Verdict { scores, model: "cognitive".to_owned(), fallback: None, ms }))
            }
            Err(error) => {
                self.tally.fallbacks.inc();
                let (bench, tally, reason) = (Arc::clone(&bench), self.tally.clone(), error.to_string());
                self.work(move || Ok(judge_here(&bench, documents, Some(reason), &tally))).await
            }
        }
    }

    /// The container's answer, and our own errors for what it was not asked; in the order of the request.
    fn merge(&self, documents: Vec<TextDocument>, answer: TextScores) -> TextScores {
        let mut scores: HashMap<_, _> =
            answer.documents.into_iter().map(|score| (score.id.clone(), score)).collect();
        let mut errors: HashMap<_, _> =
            answer.errors.into_iter().map(|error| (error.id.clone(), error)).collect();
        let mut merged = TextScores::default();
        for document in documents {
            if let Some(fault) = fault(&document) {
                self.tally.fault(fault);
                merged
                    .errors
                    .push(TextError { id: document.id.unwrap_or_default(), message: fault.message() });
                continue;
            }
            let id = document.id.unwrap_or_default();
            match (scores.remove(&id), errors.remove(&id)) {
                (Some(score), _) => merged.documents.push(score),
                (None, error) => {
                    self.tally.fault(Fault::Container);
                    let message = error.map_or_else(String::new, |error| error.message);
                    merged.errors.push(TextError { id, message });
                }
            }
        }
        merged
    }
}

/// The first id that two documents have.
pub(crate) fn duplicate_id(documents: &[TextDocument]) -> Option<&str> {
    let mut seen = HashSet::with_capacity(documents.len());
    documents
        .iter()
        .filter_map(|document| document.id.as_deref())
        .find(|id| !id.is_empty() && !seen.insert(*id))
}

/// What is wrong with a text, whoever judges it.
fn fault(document: &TextDocument) -> Option<Fault> {
    let text = document.text.as_deref().unwrap_or_default();
    if document.id.as_deref().unwrap_or_default().is_empty() {
        Some(Fault::NoId)
    } else if text.trim().is_empty() {
        Some(Fault::Empty)
    } else if is_too_long(text) {
        Some(Fault::TooLong)
    } else {
        None
    }
}

/// Has it more characters than allowed? A letter with its accents is one.
fn is_too_long(text: &str) -> bool {
    // Most texts are short: bytes are an upper bound of characters.
    text.len() > CHARACTERS && text.graphemes(true).nth(CHARACTERS).is_some()
}

/// The local model judges. Heavy.
fn judge_here(
    bench: &Bench,
    documents: Vec<TextDocument>,
    fallback: Option<String>,
    tally: &Tally,
) -> Verdict {
    let started = Instant::now();
    let mut scores = TextScores::default();
    for document in documents {
        let language = match document.language.as_deref().filter(|code| !code.is_empty()) {
            None => Ok(bench.language),
            Some(code) => {
                let known = code.parse().ok().filter(|code| bench.model.languages().contains(code));
                known.ok_or(Fault::Language)
            }
        };
        let found = fault(&document).map_or(language, Err);
        let (id, text) = (document.id.unwrap_or_default(), document.text.unwrap_or_default());
        match found {
            Ok(language) => {
                let score = (bench.model.score(language, &text) * PRECISION).round() / PRECISION;
                scores.documents.push(TextScore { id, score });
            }
            Err(fault) => {
                tally.fault(fault);
                scores.errors.push(TextError { id, message: fault.message() });
            }
        }
    }
    let took = started.elapsed().as_secs_f64();
    tally.inference.observe(took);
    tally.judged("local", scores.documents.len() as u64);
    Verdict { scores, model: bench.model.name().to_owned(), fallback, ms: took * 1e3 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_model_that_fails_is_not_taken_for_the_end_of_the_module() {
        let judge = Judge::new(Tally::new().unwrap());
        let failed: Result<(), _> = judge.work(|| panic!("a text that the model cannot bear")).await;
        assert_eq!(failed, Err(NoVerdict::Failed));
        assert_eq!(judge.work(|| 7).await, Ok(7));
    }

    #[test]
    fn characters_are_counted_as_a_reader_does() {
        assert!(!is_too_long(&"a".repeat(CHARACTERS)));
        assert!(is_too_long(&"a".repeat(CHARACTERS + 1)));
        // Each is three code points and six bytes.
        assert!(!is_too_long(&"e\u{301}\u{328}".repeat(CHARACTERS)));
        assert!(is_too_long(&"e\u{301}\u{328}".repeat(CHARACTERS + 1)));
    }
}
