//! The threads that guests run on.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{runtime::Handle, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Threads, each of which runs the calls given to it in turns.
#[derive(Debug)]
pub(super) struct Workers {
    threads: Vec<Worker>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Worker {
    handle: Handle,
    in_flight: Arc<AtomicUsize>,
}

/// Work on a worker; it ends where this is dropped.
#[derive(Debug)]
pub(crate) struct Work<T>(JoinHandle<T>);

struct Counted(Arc<AtomicUsize>);

// === impl Workers ===

impl Workers {
    /// Begins so many threads; they end with this value.
    pub(super) fn begin(threads: usize) -> std::io::Result<Self> {
        let stop = CancellationToken::new();
        let threads = (0..threads.max(1))
            .map(|number| Worker::begin(number, stop.clone()))
            .collect::<Result<_, _>>()?;
        Ok(Self { threads, stop })
    }

    /// Ends the threads, and with them what they run.
    pub(super) fn end(&self) {
        self.stop.cancel();
    }

    /// Runs it on the thread that has the least to do.
    pub(super) fn run<F>(&self, work: F) -> Option<Work<F::Output>>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let worker = self.threads.iter().min_by_key(|worker| worker.in_flight.load(Ordering::Relaxed))?;
        worker.in_flight.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(Arc::clone(&worker.in_flight));
        Some(Work(worker.handle.spawn(async move {
            let _counted = counted;
            work.await
        })))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.end();
    }
}

// === impl Worker ===

impl Worker {
    fn begin(number: usize, stop: CancellationToken) -> std::io::Result<Self> {
        // Guests yield at each tick of the clock. Between any two of their turns the thread looks for what has become
        // ready and for new calls, so that no one waits for more than the turns of those before it.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .event_interval(1)
            .global_queue_interval(2)
            .max_blocking_threads(4)
            .build()?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new()
            .name(format!("guest-{number}"))
            .spawn(move || runtime.block_on(stop.cancelled_owned()))?;
        Ok(Self { handle, in_flight: Arc::default() })
    }
}

// === impl Work ===

impl<T> Work<T> {
    /// What came of it; nothing where its thread has ended or it panicked.
    pub(crate) async fn done(mut self) -> Option<T> {
        match (&mut self.0).await {
            Ok(done) => Some(done),
            Err(error) => {
                if error.is_panic() {
                    tracing::error!("The host failed in a call; the call has ended and the others go on.");
                }
                None
            }
        }
    }
}

impl<T> Drop for Work<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

// === impl Counted ===

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
