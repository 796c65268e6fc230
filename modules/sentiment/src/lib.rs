//! Sentiment: tells how positive texts are, offline.
//!
//! Over HTTP it answers `POST /text/analytics/v2.0/sentiment` as gbaeke/sentiment and the container of Azure Cognitive
//! Services do, with their errors a document, `/ready`, `/status` and a page at `/swagger`. Over the bus it takes
//! `text` events (assured; plain text, or JSON with text and language) and publishes a `sentiment` event for each.
//!
//! It promises:
//!
//! - No network is needed: the model is part of the program. Another one is taken by twin, by name or as a file whose
//!   digest is right; where it cannot be used, the last good one serves on.
//! - With the backend `cognitive` a container beside it is asked; where that does not answer in time, the local model
//!   judges and says so, in the event or in the header `x-shunt-fallback`.
//! - A text on the bus is acknowledged only when its sentiment is published. What can never be judged is told on
//!   `shunt/dead-letter/sentiment`.
//! - Texts are read and judged on threads for heavy work (law 6), and appear in no log and no event of ours, but for
//!   the first bytes of one that cannot be judged, in its dead letter.
//!
//! It deliberately finds no language, no key phrases and no entities, and keeps no text.
//!
//! ```
//! use sentiment::SentimentSettings;
//! use shunt_module::Settings;
//!
//! assert_eq!(SentimentSettings::MODULE, "sentiment");
//! assert_eq!(SentimentSettings::default().model, "shunt-sentiment");
//! ```

mod api;
mod cognitive;
mod intake;
mod judge;
mod settings;
mod tally;

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use shunt_module::{Context, Health, Problems, Proposal};
use shunt_text::TextModel;
use tokio_util::sync::CancellationToken;

pub use crate::settings::{Backend, SentimentSettings};
use crate::{
    api::Api,
    cognitive::Container,
    intake::Intake,
    judge::{Bench, Judge},
    tally::Tally,
};

/// The largest file of a model in bytes.
const MODEL_FILE: u64 = 64 * 1024 * 1024;

/// Runs the module until shutdown.
pub async fn run(mut context: Context<SentimentSettings>) -> anyhow::Result<()> {
    let tally = Tally::new()?;
    tally.register(&context.metrics)?;
    let judge = Judge::new(tally.clone());
    context.serve(api::routes(Api {
        judge: judge.clone(),
        health: context.health.clone(),
        tally: tally.clone(),
    }));
    let mut reloads = context.methods.queue("reload")?;

    let loader = Loader {
        models_dir: context.common.models_dir.clone(),
        judge: judge.clone(),
        health: context.health.clone(),
        shutdown: context.shutdown.clone(),
    };
    let settings = context.settings.current();
    context.health.set("model", Err("the model is being loaded".to_owned()));
    if let Err(problems) = loader.load(&settings).await {
        tracing::error!("The model cannot be used; the one that is built in judges: {problems}.");
        loader.load_default(&settings, &problems).await;
    }
    let intake = Intake {
        bus: context.bus.clone(),
        events: context.events.clone(),
        judge,
        letters: context.dead_letters(),
        tally,
    };
    let mut intake = context.tasks.spawn(intake.run(context.shutdown.clone()));
    loop {
        tokio::select! {
            // Ends at shutdown, and where the bus refuses the subscription: no work is left then.
            ended = &mut intake => return ended?,
            change = context.settings.change() => loader.change(change).await,
            call = reloads.next() => {
                let (status, answer) = loader.reload(&context.settings.current()).await;
                call.answer(status, answer);
            }
        }
    }
}

/// The table of the module's metrics, in Markdown, for the reference.
pub fn metrics_table() -> anyhow::Result<String> {
    let collectors = Tally::new()?.collectors();
    let collectors: Vec<_> = collectors.iter().map(AsRef::as_ref).collect();
    Ok(shunt_module::docs::metrics_table(&collectors))
}

/// Loads models on a thread for heavy work and hands them to the judge.
#[derive(Debug)]
struct Loader {
    models_dir: PathBuf,
    judge: Judge,
    health: Health,
    shutdown: CancellationToken,
}

// === impl Loader ===

impl Loader {
    /// Puts the model and the container of these settings in use, or says why it cannot.
    async fn load(&self, settings: &SentimentSettings) -> Result<(), Problems> {
        let problem = |field: &str, text: String| {
            let mut problems = Problems::default();
            problems.note(field, text);
            problems
        };
        let container = match (&settings.cognitive_url, settings.backend) {
            (Some(url), Backend::Cognitive) => {
                let limit = Duration::from_millis(settings.cognitive_timeout_ms);
                let container = Container::new(url, limit, self.health.clone());
                Some(container.map_err(|error| problem("cognitive_url", error.to_string()))?)
            }
            _ => None,
        };
        let (folder, wanted) = (self.models_dir.clone(), settings.clone());
        let loading = tokio::task::spawn_blocking(move || model(&folder, &wanted));
        let loaded = tokio::select! {
            loaded = loading => loaded,
            () = self.shutdown.cancelled() => return Ok(()),
        };
        let loaded = loaded.unwrap_or_else(|error| Err(format!("loading ended early: {error}")));
        let model = Arc::new(loaded.map_err(|text| problem("model", text))?);
        let language = settings.default_language();
        if !model.languages().contains(&language) {
            return Err(problem("language", format!("the model {} has no {language}", model.name())));
        }
        if container.is_none() {
            self.health.note("cognitive", "not asked: the backend is local");
        }
        self.judge.set(Bench { model, container, language });
        self.health.set("model", Ok(()));
        Ok(())
    }

    /// At the start: the model that is built in, where the one wanted cannot be used.
    async fn load_default(&self, settings: &SentimentSettings, why: &Problems) {
        let model = SentimentSettings::default().model;
        let instead = SentimentSettings { model, model_sha256: None, ..settings.clone() };
        match self.load(&instead).await {
            Ok(()) => self.health.note("model", format!("the model that is built in judges: {why}")),
            Err(problems) => self.health.set("model", Err(problems.to_string())),
        }
    }

    async fn change(&self, change: Proposal<SentimentSettings>) {
        match self.load(&change.settings).await {
            Ok(()) => change.accept(),
            Err(problems) => {
                tracing::warn!("New settings are refused, the model in use serves on: {problems}.");
                change.refuse(problems);
            }
        }
    }

    /// The direct method `reload`.
    async fn reload(&self, settings: &SentimentSettings) -> (u16, Value) {
        match self.load(settings).await {
            Ok(()) => {
                let model = self.judge.bench().map(|bench| Arc::clone(&bench.model));
                let (name, digest) =
                    (model.as_ref().map(|model| model.name()), model.as_ref().map(|model| model.digest()));
                (200, json!({"model": name, "sha256": digest}))
            }
            Err(problems) => (409, json!({"message": format!("the model in use serves on: {problems}")})),
        }
    }
}

/// The model that the settings name. Heavy.
fn model(folder: &Path, settings: &SentimentSettings) -> Result<TextModel, String> {
    let name = settings.model.as_str();
    let Some(digest) = &settings.model_sha256 else {
        return TextModel::built_in(name).map_err(|error| error.to_string());
    };
    if TextModel::BUILT_IN.contains(&name) {
        let model = TextModel::built_in(name).map_err(|error| error.to_string())?;
        let found = model.digest();
        return if found.eq_ignore_ascii_case(digest) {
            Ok(model)
        } else {
            Err(format!("the text model {name:?} has the sha256 {found}, but {digest} is wanted"))
        };
    }
    let file = folder.join(name);
    let cannot = |error: std::io::Error| format!("cannot read {}: {error}", file.display());
    let mut bytes = Vec::new();
    std::fs::File::open(&file)
        .map_err(cannot)?
        .take(MODEL_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(cannot)?;
    if bytes.len() as u64 > MODEL_FILE {
        return Err(format!("{} has more than {MODEL_FILE} bytes", file.display()));
    }
    TextModel::parse_checked(name, &bytes, digest).map_err(|error| error.to_string())
}
