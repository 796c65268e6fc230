//! Waiting for the next piece of a body, but not for ever.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Sleep, sleep};

/// A limit for each pause between two pieces.
#[derive(Debug)]
pub(crate) struct Patience {
    limit: Duration,
    /// Set while nothing comes.
    pause: Option<Pin<Box<Sleep>>>,
}

// === impl Patience ===

impl Patience {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, pause: None }
    }

    /// Passes on what was polled, or tells that nothing came for too long.
    pub(crate) fn poll<T>(&mut self, polled: Poll<T>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if let Poll::Ready(piece) = polled {
            self.pause = None;
            return Poll::Ready(Ok(piece));
        }
        let limit = self.limit;
        let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(limit)));
        pause.as_mut().poll(context).map(|()| {
            let why = format!("nothing came for {} s", limit.as_secs_f64());
            Err(io::Error::new(io::ErrorKind::TimedOut, why))
        })
    }
}
