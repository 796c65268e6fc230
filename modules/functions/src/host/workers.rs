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

/// Why nothing came of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Its thread has ended.
    Ended,
    /// The host's own code failed in it.
    Panicked,
}

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
    /// What came of it.
    pub(crate) async fn done(mut self) -> Result<T, Lost> {
        match (&mut self.0).await {
            Ok(done) => Ok(done),
            Err(error) if error.is_panic() => {
                tracing::error!("The host failed in a call; the call has ended and the others go on.");
                Err(Lost::Panicked)
            }
            Err(_) => Err(Lost::Ended),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_is_lost_says_how_and_the_others_go_on() {
        let workers = Workers::begin(1).unwrap();
        let panics = workers.run(async { assert_eq!(1, 2, "as told") }).unwrap();
        assert_eq!(panics.done().await, Err(Lost::Panicked));
        assert_eq!(workers.run(async { 3 }).unwrap().done().await, Ok(3));
        let waits = workers.run(std::future::pending::<()>()).unwrap();
        workers.end();
        assert_eq!(waits.done().await, Err(Lost::Ended));
    }
}
