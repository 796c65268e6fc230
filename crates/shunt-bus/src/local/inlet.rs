//! The subscriber's end of a socket: one publisher.

use std::{path::Path, sync::atomic::Ordering, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep_until, timeout},
};

use super::{Broken, HOLD, Shared, folder, frame};
use crate::clock;

/// How long a publisher may take to accept us, and to read what we want.
const LIMIT: Duration = Duration::from_secs(5);
/// Read at least so much at once.
const READ: usize = 16 << 10;

/// The publisher at the other end, as the inboxes know it.
struct Publisher<'a> {
    shared: &'a Shared,
    number: u64,
}

/// Receives from the publisher of this socket until it is gone.
pub(super) async fn listen(shared: &Shared, path: &Path, own: &str) -> Result<(), Broken> {
    let mut stream = timeout(LIMIT, folder::connect(path)).await.map_err(|_| Broken::Time)??;
    if !folder::is_ours(&stream)? {
        return Err(Broken::Foreign);
    }
    let mut filters = shared.filters.subscribe();
    let max = frame::max_event(shared.common.max_message);
    let (mut reader, mut writer) = stream.split();
    // What the publisher did not tell us of yet.
    filters.mark_changed();
    let mut buffer = BytesMut::new();
    let mut publisher = Publisher::new(shared);
    let mut held_until: Option<Instant> = None;
    loop {
        buffer.reserve(READ);
        let release = async {
            match held_until {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            read = reader.read_buf(&mut buffer) => {
                if read? == 0 {
                    return Err(Broken::Closed);
                }
                let now = clock::now();
                while let Some(frame) = frame::take(&mut buffer, max)? {
                    if frame.is_empty() {
                        // Events are missing here that the broker may still bring.
                        publisher = Publisher::new(shared);
                    } else if shared.receive(publisher.number, frame::read_event(frame, now)?) {
                        held_until.get_or_insert_with(|| Instant::now() + HOLD);
                    }
                }
            }
            () = release => {
                held_until = None;
                shared.release(publisher.number, false);
            }
            // The sender lives in what we hold.
            _ = filters.changed() => {
                let filters = filters.borrow_and_update().clone();
                let wants = frame::Wants { socket: own.to_owned(), max: max as u32, filters }.write();
                timeout(LIMIT, writer.write_all(&wants)).await.map_err(|_| Broken::Time)??;
            }
        }
    }
}

// === impl Publisher ===

impl<'a> Publisher<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self { shared, number: shared.publishers.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Publisher<'_> {
    fn drop(&mut self) {
        self.shared.release(self.number, true);
    }
}
