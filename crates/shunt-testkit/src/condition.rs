//! Waiting for a condition.

use std::{panic::Location, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

/// How long to wait between two looks at the condition.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until the condition holds; looks again every few milliseconds.
///
/// # Panics
///
/// When the condition does not hold within `limit`; the message names the caller's line.
#[track_caller]
pub fn eventually<F, R>(limit: Duration, mut condition: F) -> impl Future<Output = ()>
where
    F: FnMut() -> R,
    R: Future<Output = bool>,
{
    let caller = Location::caller();
    async move {
        let end = Instant::now() + limit;
        let wait = async {
            while !condition().await {
                sleep(LOOK).await;
            }
        };
        let held = timeout_at(end, wait).await.is_ok();
        assert!(held, "The condition at {caller} did not hold within {limit:?}.");
    }
}
