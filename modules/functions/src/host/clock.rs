//! The clock of the guests: it makes those that compute look up now and then.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use wasmtime::{Engine, EngineWeak};

/// Between two ticks, where few calls run. A guest that computes lets the others on its thread go on at each of them,
/// and ends at the first one past its time.
const TICK: Duration = Duration::from_millis(5);

/// The least between two ticks.
const SHORTEST_TICK: Duration = Duration::from_millis(1);

/// A round of all calls of a thread takes so long at most where none of them waits: none is kept from ending longer
/// than that.
const ROUND: Duration = Duration::from_millis(40);

/// Ticks without a call after which the clock stands still: a device that does nothing is not woken for it, and calls
/// that follow one another need not wind it up each time.
const IDLE_TICKS: u32 = 200;

/// Ticks while calls run.
#[derive(Debug)]
pub(super) struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    threads: usize,
    running: AtomicUsize,
    stands: Mutex<bool>,
    wind: Condvar,
    /// The host has ended; the engine may live on in what it compiled.
    ended: AtomicBool,
}

/// While it lives, the clock ticks.
#[derive(Debug)]
pub(crate) struct Ticking(Arc<Inner>);

/// The time of a call is up.
#[derive(Debug, thiserror::Error)]
#[error("its time is up")]
pub(crate) struct TimeUp;

// === impl Clock ===

impl Clock {
    /// Begins a clock for the engine; its thread ends soon after the clock does.
    pub(super) fn begin(engine: &Engine, threads: usize) -> std::io::Result<Self> {
        let inner = Arc::new(Inner {
            threads: threads.max(1),
            running: AtomicUsize::new(0),
            stands: Mutex::new(false),
            wind: Condvar::new(),
            ended: AtomicBool::new(false),
        });
        let (ticked, engine) = (Arc::clone(&inner), engine.weak());
        std::thread::Builder::new().name("guest-clock".to_owned()).spawn(move || tick(&ticked, &engine))?;
        Ok(Self(inner))
    }

    /// Makes it tick.
    pub(super) fn ticking(&self) -> Ticking {
        self.0.running.fetch_add(1, Ordering::SeqCst);
        let mut stands = self.0.stands.lock();
        if *stands {
            *stands = false;
            self.0.wind.notify_one();
        }
        drop(stands);
        Ticking(Arc::clone(&self.0))
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::SeqCst);
        *self.0.stands.lock() = false;
        self.0.wind.notify_one();
    }
}

// === impl Inner ===

impl Inner {
    /// From one tick to the next.
    fn between(&self) -> Duration {
        let on_a_thread = self.running.load(Ordering::SeqCst).div_ceil(self.threads).max(1);
        (ROUND / u32::try_from(on_a_thread).unwrap_or(u32::MAX)).clamp(SHORTEST_TICK, TICK)
    }
}

// === impl Ticking ===

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

fn tick(inner: &Inner, engine: &EngineWeak) {
    let mut idle = 0_u32;
    let mut stands = inner.stands.lock();
    loop {
        let next = Instant::now() + inner.between();
        if idle < IDLE_TICKS {
            while !inner.wind.wait_until(&mut stands, next).timed_out() {}
        } else {
            *stands = true;
            while *stands {
                inner.wind.wait(&mut stands);
            }
        }
        // Calls that still run have to end too.
        if inner.ended.load(Ordering::SeqCst) && inner.running.load(Ordering::SeqCst) == 0 {
            return;
        }
        let Some(engine) = engine.upgrade() else { return };
        engine.increment_epoch();
        idle = if inner.running.load(Ordering::SeqCst) == 0 { idle.saturating_add(1) } else { 0 };
    }
}
