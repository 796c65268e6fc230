//! What the camera's threads share: the settings in force, and how the source is.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use shunt_module::Health;
use tokio::{runtime::Handle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{metrics::Metrics, settings::CameraSettings, source::SourceError};

/// The part of the module's health that the source is.
const PART: &str = "source";
/// So many unreadable pictures one after another make a source that does not work.
const MANY_DAMAGED: u32 = 10;
/// Most file names remembered as reported; when there are more, all are forgotten, and so reported again.
const MAX_REPORTED: usize = 10_000;

/// The settings in force. The studio reads them for as long as it works on a frame, so that whoever has changed
/// them knows: no later frame was made by the old ones.
pub(crate) type Live = RwLock<Arc<CameraSettings>>;

/// How the source is: told once per change.
#[derive(Debug)]
pub(crate) struct SourceState {
    health: Health,
    metrics: Metrics,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Nothing known yet, working, or failing for that reason.
    known: Option<Result<(), String>>,
    damaged_in_a_row: u32,
    /// Files reported as unreadable, with the reason.
    reported: BTreeMap<PathBuf, String>,
}

/// What a source needs from the camera.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    pub(crate) live: Arc<Live>,
    pub(crate) state: Arc<SourceState>,
    pub(crate) stop: CancellationToken,
    /// To wait for time limits and the network from the source's own thread.
    pub(crate) runtime: Handle,
}

/// The rhythm of a source that has none of its own: that of the setting `fps`.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last: Option<Instant>,
}

// === impl SourceState ===

impl SourceState {
    pub(crate) fn new(health: Health, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { health, metrics, inner: Mutex::default() })
    }

    /// A frame came through.
    pub(crate) fn works(&self) {
        let mut inner = self.inner.lock();
        inner.damaged_in_a_row = 0;
        if inner.known != Some(Ok(())) {
            if matches!(inner.known, Some(Err(_))) {
                tracing::info!("The source works again.");
            }
            inner.known = Some(Ok(()));
            self.health.set(PART, Ok(()));
        }
    }

    /// The source failed and will be tried again.
    pub(crate) fn failed(&self, address: &dyn std::fmt::Display, reason: &dyn std::fmt::Display) {
        self.metrics.source_errors.inc();
        self.set_failing(address, &reason.to_string());
    }

    /// A picture of the source cannot be read. Said once until one can; many in a row make a failing source.
    pub(crate) fn damaged(&self, reason: &dyn std::fmt::Display) {
        self.metrics.damaged.inc();
        let count = {
            let mut inner = self.inner.lock();
            inner.damaged_in_a_row += 1;
            inner.damaged_in_a_row
        };
        if count == 1 {
            tracing::warn!(%reason, "A picture of the source cannot be read and is skipped.");
        } else if count == MANY_DAMAGED {
            let reason = format!("{count} pictures in a row cannot be read, the last: {reason}");
            self.set_failing(&"the source", &reason);
        }
    }

    /// A file cannot be read. Said once per file and reason, however often a folder is shown.
    pub(crate) fn unreadable(&self, path: &Path, reason: &str) {
        self.metrics.damaged.inc();
        let mut inner = self.inner.lock();
        if inner.reported.get(path).is_some_and(|known| known == reason) {
            return;
        }
        if inner.reported.len() >= MAX_REPORTED {
            inner.reported.clear();
        }
        inner.reported.insert(path.to_owned(), reason.to_owned());
        tracing::warn!(path = %path.display(), reason, "A picture cannot be read and is skipped.");
    }

    /// The source came to its end, as it should.
    pub(crate) fn ended(&self) {
        let mut inner = self.inner.lock();
        inner.known = Some(Ok(()));
        tracing::info!("The source has ended.");
        self.health.note(PART, "the source has ended");
    }

    /// Why the source does not work, if it does not.
    pub(crate) fn problem(&self) -> Option<String> {
        self.inner.lock().known.clone()?.err()
    }

    fn set_failing(&self, address: &dyn std::fmt::Display, reason: &str) {
        let reason = format!("{address}: {reason}");
        let mut inner = self.inner.lock();
        let known = inner.known.replace(Err(reason.clone()));
        match known {
            Some(Err(known)) if known == reason => {}
            Some(Err(_)) => {
                tracing::warn!(reason, "The source still does not work.");
                self.health.set(PART, Err(reason));
            }
            // Health tells of a part that was ready; this one never was.
            None => {
                tracing::warn!(reason, "The source does not work.");
                self.health.set(PART, Err(reason));
            }
            Some(Ok(())) => self.health.set(PART, Err(reason)),
        }
    }
}

// === impl Control ===

impl Control {
    /// The settings in force. A source may hold them for as long as it likes.
    pub(crate) fn settings(&self) -> Arc<CameraSettings> {
        let live: RwLockReadGuard<'_, _> = self.live.read();
        Arc::clone(&live)
    }

    /// Waits, from the source's thread, for something outside; but not once the source is to stop, and not longer
    /// than the limit.
    pub(crate) fn wait_for<T>(
        &self,
        limit: Duration,
        future: impl Future<Output = T>,
    ) -> Result<T, SourceError> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => Err(SourceError::Stopped),
                result = tokio::time::timeout(limit, future) => {
                    result.map_err(|_| SourceError::TimedOut { seconds: limit.as_secs() })
                }
            }
        })
    }

    /// Waits until that moment, or until the source is to stop.
    pub(crate) fn wait_until(&self, moment: Instant) -> Result<(), SourceError> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => Err(SourceError::Stopped),
                () = tokio::time::sleep_until(moment) => Ok(()),
            }
        })
    }
}

// === impl Pace ===

impl Pace {
    /// How soon a change of the rate is noticed.
    const NOTICE: Duration = Duration::from_millis(200);

    /// Waits for the next beat; the first one is at once.
    pub(crate) fn wait(&mut self, control: &Control) -> Result<(), SourceError> {
        let Some(last) = self.last else {
            self.last = Some(Instant::now());
            return if control.stop.is_cancelled() { Err(SourceError::Stopped) } else { Ok(()) };
        };
        loop {
            let interval = interval(control.settings().fps);
            let (now, due) = (Instant::now(), last + interval);
            if due <= now + Self::NOTICE {
                control.wait_until(due)?;
                // Beats that were missed are not made up for.
                self.last = Some(if now > due + interval { now } else { due });
                return Ok(());
            }
            control.wait_until(now + Self::NOTICE)?;
        }
    }
}

/// Time between frames at this rate.
pub(crate) fn interval(fps: f64) -> Duration {
    Duration::try_from_secs_f64(1.0 / fps).unwrap_or(Duration::from_secs(1))
}
