//! The camera: takes pictures from a source and publishes them as frames.
//!
//! Sources: a folder of pictures, a Motion JPEG file or HTTP stream, a V4L2 webcam, and with the feature `opencv`
//! video files and RTSP. Frames have the size, rotation and rate of the settings, which may change while it runs.
//!
//! It promises:
//! - Privacy areas are black before any pixel leaves: into shared memory, an event, or an HTTP answer (law 8). When
//!   a change of settings is accepted, no frame made by the old ones follows.
//! - The newest picture wins; those skipped are counted (law 4).
//! - A source that fails is reported and tried again with longer and longer pauses; it never ends the module.
//! - Pictures are decoded, turned and encoded on threads of their own (law 6).
//!
//! It does not recognise anything, record anything, or correct colours or lenses.
//!
//! Two threads do the work: the source's, which waits for pictures, and the studio's, which makes frames of them.
//! Between them is room for one picture.
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     shunt_module::main(camera::run)
//! }
//! ```

mod address;
mod control;
mod http;
mod intake;
mod jpeg_splitter;
mod latest;
mod metrics;
mod outlet;
mod settings;
mod shot;
mod snapshot;
mod source;
mod studio;
mod view;

use std::{sync::Arc, thread, time::Duration};

use anyhow::Context as _;
use parking_lot::RwLock;
use shunt_module::Context;
use tokio::{runtime::Handle, task::spawn_blocking, time::timeout};
use tokio_util::sync::CancellationToken;

pub use settings::{Area, CameraSettings, Motion};

use crate::{
    address::Address,
    control::{Control, Live, SourceState},
    intake::Intake,
    latest::Latest,
    metrics::Metrics,
    outlet::Outlet,
    snapshot::Snapshots,
    studio::Studio,
};

/// How long the studio may take for its last frame at the end.
const LAST_FRAME: Duration = Duration::from_secs(2);

/// Runs the camera until shutdown.
///
/// # Errors
///
/// The camera cannot start: its metrics or its thread. Sources that fail are no errors.
pub async fn run(mut context: Context<CameraSettings>) -> anyhow::Result<()> {
    let metrics = Metrics::new()?;
    metrics.register(&context.metrics).context("the metrics cannot be registered")?;
    let settings = context.settings.current();
    let live: Arc<Live> = Arc::new(RwLock::new(Arc::clone(&settings)));
    let state = SourceState::new(context.health.clone(), metrics.clone());
    let intake = Intake::new(metrics.clone());
    let latest = Latest::new(None);
    context.serve(http::routes(http::Pages {
        latest: latest.subscribe(),
        state: Arc::clone(&state),
        shutdown: context.shutdown.clone(),
        tasks: context.tasks.clone(),
    }));
    let snapshots = Snapshots { latest: latest.subscribe(), state: Arc::clone(&state) };
    context.methods.on("snapshot", move |payload| snapshots.clone().answer(payload))?;
    let mut reloads = context.methods.queue("reload")?;
    let studio = Studio {
        live: Arc::clone(&live),
        state: Arc::clone(&state),
        metrics,
        outlet: Outlet::new(context.common.frames_dir.clone(), context.health.clone()),
        events: context.events.clone(),
        bus: context.bus.clone(),
        latest: latest.clone(),
        runtime: Handle::current(),
    };
    let studio = thread::Builder::new().name("studio".to_owned()).spawn({
        let intake = Arc::clone(&intake);
        move || studio.work(&intake)
    })?;
    let sources = Sources { live: Arc::clone(&live), state, intake: Arc::clone(&intake) };
    let mut stop = sources.start(&settings);
    loop {
        let proposal = tokio::select! {
            () = context.shutdown.cancelled() => break,
            proposal = context.settings.change() => proposal,
            call = reloads.next() => {
                let settings = Arc::clone(&live.read());
                intake.end_source(&stop);
                stop = sources.start(&settings);
                tracing::info!("The source is opened anew.");
                call.answer(200, serde_json::json!({"message": "the source is opened anew"}));
                continue;
            }
        };
        let (new, old) = (Arc::clone(&proposal.settings), Arc::clone(&live.read()));
        // Waits until the frame that is being made is out; so not on this thread.
        spawn_blocking({
            let (live, new, latest) = (Arc::clone(&live), Arc::clone(&new), latest.clone());
            move || {
                let mut live = live.write();
                *live = new;
                // Whoever asks for a frame from now on gets one made by the new settings.
                latest.send_replace(None);
            }
        })
        .await?;
        if needs_new_source(&old, &new) {
            intake.end_source(&stop);
            stop = sources.start(&new);
        }
        proposal.accept();
    }
    intake.end_source(&stop);
    intake.close();
    let ended = timeout(LAST_FRAME, spawn_blocking(move || studio.join())).await;
    if !matches!(ended, Ok(Ok(Ok(())))) {
        tracing::warn!("The last frame was not finished in time.");
    }
    Ok(())
}

/// The table of the camera's metrics, in Markdown, for the reference.
pub fn metrics_table() -> anyhow::Result<String> {
    Ok(Metrics::new()?.table())
}

/// Starts sources.
struct Sources {
    live: Arc<Live>,
    state: Arc<SourceState>,
    intake: Arc<Intake>,
}

// === impl Sources ===

impl Sources {
    /// Starts the source of these settings; it runs until the token is cancelled.
    fn start(&self, settings: &CameraSettings) -> CancellationToken {
        let stop = CancellationToken::new();
        match settings.source.parse::<Address>() {
            Ok(address) => {
                let control = Control {
                    live: Arc::clone(&self.live),
                    state: Arc::clone(&self.state),
                    stop: stop.clone(),
                    runtime: Handle::current(),
                };
                source::start(address, control, Arc::clone(&self.intake));
            }
            // The settings' check refuses these; there is nothing to run.
            Err(error) => self.state.failed(&"the source", &error),
        }
        stop
    }
}

/// Must the source be opened anew? A webcam is told size and rate when it is opened.
fn needs_new_source(old: &CameraSettings, new: &CameraSettings) -> bool {
    let asked = |settings: &CameraSettings| {
        (settings.width, settings.height, settings.rotation, settings.fps.to_bits())
    };
    old.source != new.source
        || old.r#loop != new.r#loop
        || matches!(new.source.parse(), Ok(Address::Webcam(_))) && asked(old) != asked(new)
}
