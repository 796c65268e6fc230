//! How long to wait before the next attempt to connect.

use std::time::Duration;

/// After the first failure.
const FIRST: Duration = Duration::from_millis(25);
/// At most, before jitter.
const LAST: Duration = Duration::from_secs(5);

/// Doubles with each failure, with jitter, so that many clients of a broker that restarts do not come at once.
#[derive(Debug, Default)]
pub(crate) struct Backoff(u32);

// === impl Backoff ===

impl Backoff {
    /// How long to wait now: nothing at first, then longer each time.
    pub(crate) fn next(&mut self) -> Duration {
        let failures = self.0;
        self.0 = failures.saturating_add(1);
        let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
        let full = FIRST.saturating_mul(2_u32.saturating_pow(doublings.min(16))).min(LAST);
        full.mul_f64(rand::random_range(0.5..1.5))
    }

    /// A connection proved good: begin anew, but do not come back at once if it breaks.
    pub(crate) fn reset(&mut self) {
        self.0 = 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_to_its_limit_and_begins_anew() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(), Duration::ZERO);
        assert!(backoff.next() < FIRST * 2);
        let last = (0..40).map(|_| backoff.next()).last().unwrap();
        assert!(last >= LAST / 2 && last <= LAST.mul_f64(1.5));
        backoff.reset();
        assert!(backoff.next() < FIRST * 2);
    }
}
