//! Waiting for a condition.

use std::{panic::Location, time::Duration};

use tokio::time::{sleep, timeout};

/// How long to wait between two looks at the condition.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until there is something to be found, and gives it; looks again every few milliseconds. None when nothing
/// was found within `limit`: for callers that then say more than [`eventually`] can.
pub async fn found<T, F, R>(limit: Duration, mut look: F) -> Option<T>
where
    F: FnMut() -> R,
    R: Future<Output = Option<T>>,
{
    let wait = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            sleep(LOOK).await;
        }
    };
    timeout(limit, wait).await.ok()
}

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
        let look = || {
            let holds = condition();
            async move { holds.await.then_some(()) }
        };
        assert!(
            found(limit, look).await.is_some(),
            "The condition at {caller} did not hold within {limit:?}."
        );
    }
}
