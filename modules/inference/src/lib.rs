//! Inference: tells what pictures show, and serves any model of the catalog over three APIs on one port.
//!
//! It promises:
//!
//! - Decoding and inference happen on threads of their own (law 6). Requests wait in a bounded queue a model; a full one
//!   answers 503 with `Retry-After` (law 4).
//! - Frames of the bus are read from shared memory with one copy; of each source the newest wins, and each that is not
//!   judged is counted with its reason: rate, motion, a newer one.
//! - Models change in one step, between two requests: what has begun ends with the model it began with. A new one
//!   serves only after it was loaded beside the old, warmed up, and has given its golden answer; else the old one
//!   serves on, and the reported twin says why.
//! - A second model beside the first (the setting `shadow`) never delays it.
//!
//! It deliberately trains nothing, keeps no picture, and fetches no model's file but from the address that the catalog
//! gives together with its digest.
//!
//! ```
//! use inference::InferenceSettings;
//! use shunt_module::Settings;
//!
//! assert_eq!(InferenceSettings::MODULE, "inference");
//! assert_eq!(InferenceSettings::default().model, None);
//! ```

mod api;
mod batch;
mod engine;
mod fetch;
mod fetch_picture;
mod field_tally;
mod judge;
mod multipart;
mod open_inference;
mod openapi;
mod outlet;
mod picture;
mod problem;
mod score;
mod seen;
mod served;
mod settings;
mod shadow;
mod swap;
mod tally;
mod watch;

use std::{sync::Arc, thread, time::Duration};

use anyhow::{Context as _, anyhow};
use shunt_module::{Context, FrameIntake, FrameMailbox};
use shunt_vision::FramePictures;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

pub use crate::settings::{InferenceSettings, Motion, Region, Shadow, SourceSettings};
use crate::{
    api::Api, field_tally::FieldTally, judge::Judge, outlet::Outlet, served::Served, swap::Loader,
    tally::Tally, watch::Watch,
};

/// Labels that wait for the bus. When it is full, the judge waits, and frames give way to newer ones.
const VERDICTS: usize = 8;
/// Dead letters of the intake, and those of the judge, come no faster than this: a camera whose frames are all broken
/// would fill the bus with them.
const LETTER_PAUSE: Duration = Duration::from_secs(1);
/// How often the reported twin tells how the second model does.
const SHADOW_REPORT: Duration = Duration::from_mins(1);

/// Runs the module until shutdown.
pub async fn run(mut context: Context<InferenceSettings>) -> anyhow::Result<()> {
    let (tally, field_tally) = (Tally::new()?, FieldTally::new()?);
    tally.register(&context.metrics)?;
    field_tally.register(&context.metrics)?;
    let mut reloads = context.methods.queue("reload")?;
    let served = Served::new(context.settings.current());
    context.serve(api::routes(Api::new(served.clone(), tally.clone())));

    let mailbox = Arc::new(FrameMailbox::new(Arc::new(field_tally.clone())));
    let (verdicts, judged) = mpsc::channel(VERDICTS);
    let letters = || context.dead_letters().at_most_every(LETTER_PAUSE);
    let outlet = Outlet { bus: context.bus.clone(), letters: letters(), tally: field_tally.clone() };
    let outlet = context.tasks.spawn(outlet.run(judged));
    let intake = FrameIntake { bus: context.bus.clone(), mailbox: Arc::clone(&mailbox), letters: letters() };
    let mut intake = context.tasks.spawn(intake.run(context.shutdown.clone()));
    // Cancelled when the judge's thread ends, in whatever way.
    let judge_ended = CancellationToken::new();
    let guard = judge_ended.clone().drop_guard();
    let judge = Judge {
        mailbox: Arc::clone(&mailbox),
        served: served.clone(),
        events: context.events.clone(),
        tally: field_tally.clone(),
        pictures: FramePictures::new(context.common.frames_dir.as_deref()),
        watch: Watch::default(),
        verdicts,
    };
    let judging = move || {
        judge.run();
        drop(guard);
    };
    thread::Builder::new()
        .name("judge".to_owned())
        .spawn(judging)
        .context("the judge's thread cannot be started")?;

    let told = (served, context.health.clone(), context.facts.clone());
    let mut loader = Loader::new(&context.common, told, (tally, field_tally), context.shutdown.clone())
        .context("the loader's thread cannot be started")?;
    let mut fetching = loader.start(context.settings.current()).await;
    let mut reports = interval(SHADOW_REPORT);
    reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ended = loop {
        tokio::select! {
            // Ends at shutdown, and where the bus refuses the subscription: no work is left then.
            ended = &mut intake => break ended.map_err(Into::into).and_then(|ended| ended.map_err(Into::into)),
            () = judge_ended.cancelled() => break Err(anyhow!("the judge's thread has ended")),
            problems = fetching.ended() => loader.go_on(context.settings.current(), problems).await,
            change = context.settings.change() => {
                let unfinished = fetching.end();
                if !loader.change(change).await && unfinished {
                    fetching = loader.fetch(context.settings.current()).await;
                }
            }
            call = reloads.next() => {
                let unfinished = fetching.end();
                let (status, answer) = loader.reload(context.settings.current()).await;
                if status != 200 && unfinished {
                    fetching = loader.fetch(context.settings.current()).await;
                }
                call.answer(status, answer);
            }
            _ = reports.tick() => loader.report_shadow(),
        }
    };
    mailbox.close();
    // The judge finishes the frame it has, then its labels are published as far as time and the broker allow.
    let rest = async {
        judge_ended.cancelled().await;
        outlet.await
    };
    match timeout(context.common.drain_limit / 2, rest).await {
        Ok(result) => result?,
        Err(_) => {
            tracing::error!("The last label events were not published: the broker did not take them.");
        }
    }
    ended
}

/// The table of the module's metrics, in Markdown, for the reference.
pub fn metrics_table() -> anyhow::Result<String> {
    let collectors: Vec<_> =
        Tally::new()?.collectors().into_iter().chain(FieldTally::new()?.collectors()).collect();
    let collectors: Vec<_> = collectors.iter().map(AsRef::as_ref).collect();
    Ok(shunt_module::docs::metrics_table(&collectors))
}
