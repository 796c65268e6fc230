//! Emotions: finds the faces in frames and recognises their expression.
//!
//! It takes `frame` events from the bus (fast, the newest of each source wins), reads the pixels from shared memory
//! or from the JPEG in the event, and publishes for each face one `face` event (fast) and one `emotion` event
//! (assured) with the box, the score, the eight probabilities in FER+'s names and order, and a track number that
//! stays the same as long as the face is in view.
//!
//! Over HTTP it answers `POST /score` as gbaeke/emotion does, `POST /faces` (a picture file), and `GET /models`.
//!
//! It promises:
//!
//! - Decoding and inference happen on a thread of their own (law 6). While it works, older frames give way to newer
//!   ones and are counted (law 4).
//! - An event that cannot be used is counted, logged and told on `shunt/dead-letter/emotion`; the module goes on.
//! - A model that cannot be loaded is refused by twin with the reason, and the one in use serves on. Without any the
//!   module lives, is not ready, and says which file it misses.
//! - Track numbers are not given twice for a source, also not after a restart.
//!
//! It deliberately does not know who a face belongs to, and keeps no picture.
//!
//! ```
//! use emotion::EmotionSettings;
//! use shunt_module::Settings;
//!
//! assert_eq!(EmotionSettings::MODULE, "emotion");
//! assert_eq!(EmotionSettings::default().face_model, "blazeface-full-range");
//! ```

mod api;
mod judge;
mod models;
mod outlet;
mod settings;
mod tally;
mod tracks;

use std::{path::PathBuf, sync::Arc, thread, time::Duration};

use anyhow::{Context as _, anyhow};
use serde_json::{Value, json};
use shunt_module::{Context, Facts, FrameIntake, FrameMailbox, Health, Problems, Proposal};
use shunt_vision::FramePictures;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

pub use crate::settings::EmotionSettings;
use crate::{
    judge::Judge,
    models::{InUse, Models},
    outlet::Outlet,
    tally::Tally,
    tracks::Tracks,
};

/// Frames judged that wait for the bus. When it is full, the judge waits, and frames give way to newer ones.
const VERDICTS: usize = 8;

/// Dead letters of the intake, and those of the judge, come no faster than this: a camera whose frames are all broken
/// would fill the bus with them.
const LETTER_PAUSE: Duration = Duration::from_secs(1);

/// Runs the module until shutdown.
pub async fn run(mut context: Context<EmotionSettings>) -> anyhow::Result<()> {
    let tally = Tally::new()?;
    tally.register(&context.metrics)?;
    let in_use = InUse::default();
    let mut reloads = context.methods.queue("reload")?;
    context.serve(api::routes(in_use.clone(), context.common.models_dir.clone()));

    let mailbox = Arc::new(FrameMailbox::new(Arc::new(tally.clone())));
    let (verdicts, judged) = mpsc::channel(VERDICTS);
    let letters = || context.dead_letters().at_most_every(LETTER_PAUSE);
    let outlet = Outlet { bus: context.bus.clone(), letters: letters(), tally: tally.clone() };
    let outlet = context.tasks.spawn(outlet.run(judged));
    let intake = FrameIntake { bus: context.bus.clone(), mailbox: Arc::clone(&mailbox), letters: letters() };
    let mut intake = context.tasks.spawn(intake.run(context.shutdown.clone()));

    let loader = Loader {
        models_dir: context.common.models_dir.clone(),
        in_use: in_use.clone(),
        health: context.health.clone(),
        facts: context.facts.clone(),
        shutdown: context.shutdown.clone(),
    };
    context.health.set("models", Err("the models are being loaded".to_owned()));
    // Cancelled when the judge's thread ends, in whatever way.
    let judge_ended = CancellationToken::new();
    let guard = judge_ended.clone().drop_guard();
    let judge = {
        let (mailbox, events, tally) = (Arc::clone(&mailbox), context.events.clone(), tally.clone());
        let folder = context.common.data_dir.join(context.name.as_str());
        let pictures = FramePictures::new(context.common.frames_dir.as_deref());
        move || {
            let tracks = Tracks::open(&folder);
            Judge { mailbox, in_use, events, tally, tracks, pictures, verdicts }.run();
            drop(guard);
        }
    };
    thread::Builder::new()
        .name("judge".to_owned())
        .spawn(judge)
        .context("the judge's thread cannot be started")?;
    if let Err(problems) = loader.load(context.settings.current(), Reuse::Yes).await {
        tracing::error!("The models cannot be used; waiting for other settings: {problems}.");
    }

    let ended = loop {
        tokio::select! {
            // Ends at shutdown, and where the bus refuses the subscription: no work is left then.
            ended = &mut intake => break ended.map_err(Into::into).and_then(|ended| ended.map_err(Into::into)),
            () = judge_ended.cancelled() => break Err(anyhow!("the judge's thread has ended")),
            change = context.settings.change() => loader.change(change).await,
            call = reloads.next() => {
                let (status, answer) = loader.reload(context.settings.current()).await;
                call.answer(status, answer);
            }
        }
    };
    mailbox.close();
    // The judge finishes the frame it has, then its verdicts are published as far as time and the broker allow.
    let rest = async {
        judge_ended.cancelled().await;
        outlet.await
    };
    match timeout(context.common.drain_limit / 2, rest).await {
        Ok(result) => result?,
        Err(_) => {
            tracing::error!("The last emotion events were not published: the broker did not take them.");
        }
    }
    ended
}

/// May a model that is in use already stay as it is?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reuse {
    Yes,
    /// Its file is read anew.
    No,
}

/// Loads models on a thread for heavy work and puts them in use.
#[derive(Debug)]
struct Loader {
    models_dir: PathBuf,
    in_use: InUse,
    health: Health,
    facts: Facts,
    shutdown: CancellationToken,
}

// === impl Loader ===

impl Loader {
    /// Puts the models of these settings in use, or says why it cannot. Returns at once on shutdown.
    async fn load(&self, settings: Arc<EmotionSettings>, reuse: Reuse) -> Result<(), Problems> {
        let before = self.in_use.get().map(|(models, _)| models);
        let (models_dir, options) = (self.models_dir.clone(), settings.face_options());
        let had_models = before.is_some();
        let loading = tokio::task::spawn_blocking(move || {
            let before = before.as_deref().filter(|_| reuse == Reuse::Yes);
            Models::load(&models_dir, &settings, before).map(Arc::new)
        });
        let loaded = tokio::select! {
            loaded = loading => loaded,
            () = self.shutdown.cancelled() => return Ok(()),
        };
        let loaded = loaded.unwrap_or_else(|error| {
            let mut problems = Problems::default();
            problems.note("face_model", format!("loading ended early: {error}"));
            Err(problems)
        });
        match loaded {
            Ok(models) => {
                let report = models.report();
                // First, so that what is told is so.
                self.in_use.set(models, options);
                self.facts.set("serving", report);
                self.health.set("models", Ok(()));
                Ok(())
            }
            Err(problems) => {
                if !had_models {
                    self.health.set("models", Err(problems.to_string()));
                }
                Err(problems)
            }
        }
    }

    /// The direct method `reload`: reads the files of both models anew.
    async fn reload(&self, settings: Arc<EmotionSettings>) -> (u16, Value) {
        match self.load(settings, Reuse::No).await {
            Ok(()) => {
                let models = self.in_use.get().map(|(models, _)| models.names());
                (200, json!({ "models": models }))
            }
            Err(problems) => (409, json!({"message": format!("the models in use serve on: {problems}")})),
        }
    }

    async fn change(&self, change: Proposal<EmotionSettings>) {
        match self.load(Arc::clone(&change.settings), Reuse::Yes).await {
            Ok(()) => change.accept(),
            Err(problems) => {
                tracing::warn!("New settings are refused, the models in use serve on: {problems}.");
                change.refuse(problems);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use shunt_module::docs;

    use super::*;

    #[test]
    fn the_metrics_have_names_of_our_form() {
        for family in Tally::new().unwrap().collectors().iter().flat_map(|collector| collector.collect()) {
            assert!(family.name().starts_with("shunt_emotion_"), "{}", family.name());
        }
    }

    #[test]
    fn the_reference_tables_are_what_the_code_says() {
        let docs_folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        docs::check_section(
            &docs_folder.join("settings.md"),
            "emotion",
            &docs::settings_table::<EmotionSettings>(),
        )
        .unwrap();
        let collectors = Tally::new().unwrap().collectors();
        let collectors: Vec<_> = collectors.iter().map(AsRef::as_ref).collect();
        docs::check_section(&docs_folder.join("metrics.md"), "emotion", &docs::metrics_table(&collectors))
            .unwrap();
    }
}
