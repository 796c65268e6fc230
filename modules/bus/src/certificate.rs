//! The broker's certificate, from the workload API.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use parking_lot::Mutex;
use shunt_bus::{BusTls, TlsSource};
use shunt_hub::Workload;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::{Instant, sleep};

/// Of a certificate's time, so much is used; then a fresh one is asked for.
const USED: f64 = 0.8;
/// Between two attempts to get a fresh one: a tenth of the time that is left, within these bounds.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// How often the wall clock is looked at: on a machine without a clock of its own it jumps by years when it is set.
const LOOK: Duration = Duration::from_mins(1);
/// A clock that was set back by more shows a time at which the certificate was not good yet.
const SET_BACK: Duration = Duration::from_mins(1);

/// A certificate with what belongs to it.
#[derive(Clone)]
pub(crate) struct Certificate {
    /// The name in it, beside the module's own.
    pub(crate) host: String,
    /// The authorities of the device, PEM.
    pub(crate) trust: String,
    /// The certificate and those above it, PEM.
    pub(crate) chain: String,
    /// Its key, PEM.
    pub(crate) key: String,
    /// When it runs out.
    pub(crate) expires: OffsetDateTime,
    /// When it was given.
    given: OffsetDateTime,
    /// When to ask for a fresh one.
    renew: OffsetDateTime,
    /// Not before, because an attempt has failed.
    pause: Option<Instant>,
}

/// What a client of our own needs: the authorities as they are now, and its certificate.
#[derive(Clone)]
pub(crate) struct OwnTls {
    trust: Arc<Mutex<String>>,
    identity: Option<(String, String)>,
}

// === impl Certificate ===

impl Certificate {
    /// Asks for one. Says in a sentence why there is none.
    pub(crate) async fn get(workload: &Workload, host: &str) -> Result<Self, String> {
        let trust = workload.trust_bundle().await.map_err(|error| error.to_string())?;
        let given = workload.server_certificate(host).await.map_err(|error| error.to_string())?;
        let expires = OffsetDateTime::parse(&given.expiration, &Rfc3339).map_err(|error| {
            format!("the certificate's end {:?} cannot be read: {error}", given.expiration)
        })?;
        let now = OffsetDateTime::now_utc();
        let left = Duration::try_from(expires - now)
            .map_err(|_| format!("the certificate has run out at {} already", given.expiration))?;
        tracing::info!(host, expires = given.expiration, "The broker has a certificate.");
        let (host, chain, key) = (host.to_owned(), given.chain, given.private_key);
        let renew = now + left.mul_f64(USED);
        Ok(Self { host, trust, chain, key, expires, given: now, renew, pause: None })
    }

    /// Returns when it is time for a fresh one.
    pub(crate) async fn wears_out(&self) {
        loop {
            let rest = self.rest(OffsetDateTime::now_utc(), Instant::now());
            if rest.is_zero() {
                return;
            }
            sleep(rest.min(LOOK)).await;
        }
    }

    /// Is it too early for a fresh one?
    pub(crate) fn is_fresh(&self) -> bool {
        !self.rest(OffsetDateTime::now_utc(), Instant::now()).is_zero()
    }

    /// What is left until a fresh one is needed, as these clocks show it.
    fn rest(&self, wall: OffsetDateTime, now: Instant) -> Duration {
        let pause = self.pause.map(|until| until.duration_since(now)).unwrap_or_default();
        if wall + SET_BACK < self.given {
            return pause;
        }
        Duration::try_from(self.renew - wall).unwrap_or_default().max(pause)
    }

    /// No fresh one was given: when to ask again.
    pub(crate) fn postpone(&mut self) {
        let left = Duration::try_from(self.expires - OffsetDateTime::now_utc()).unwrap_or_default();
        self.pause = Some(Instant::now() + (left / 10).clamp(PAUSE.0, PAUSE.1));
    }
}

// === impl OwnTls ===

impl OwnTls {
    pub(crate) fn new(identity: (String, String)) -> Self {
        Self { trust: Arc::default(), identity: Some(identity) }
    }

    /// Trusts the same authorities, under another name or none.
    pub(crate) fn with(&self, identity: Option<(String, String)>) -> Self {
        Self { trust: Arc::clone(&self.trust), identity }
    }

    /// Whom to trust from now on.
    pub(crate) fn trust(&self, trust: &str) {
        trust.clone_into(&mut self.trust.lock());
    }
}

impl TlsSource for OwnTls {
    fn tls(&self) -> Pin<Box<dyn Future<Output = Result<BusTls, String>> + Send + '_>> {
        let tls = BusTls { trust: self.trust.lock().clone(), identity: self.identity.clone() };
        Box::pin(std::future::ready(Ok(tls)))
    }
}

impl fmt::Debug for OwnTls {
    /// Without the key.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("OwnTls").field("identity", &self.identity.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(given: OffsetDateTime) -> Certificate {
        let hours = |hours| given + time::Duration::hours(hours);
        let text = String::new;
        let (expires, renew, pause) = (hours(10), hours(8), None);
        Certificate { host: text(), trust: text(), chain: text(), key: text(), expires, given, renew, pause }
    }

    #[test]
    fn a_clock_that_jumps_makes_a_fresh_certificate_due() {
        let (given, now) = (OffsetDateTime::UNIX_EPOCH, Instant::now());
        let certificate = certificate(given);
        let rest = |hours| certificate.rest(given + time::Duration::hours(hours), now);
        assert_eq!(rest(0), Duration::from_hours(8));
        assert_eq!(rest(7), Duration::from_hours(1));
        assert_eq!(rest(50 * 365 * 24), Duration::ZERO, "set to the right time");
        assert_eq!(rest(-1), Duration::ZERO, "set back");
        assert!(!certificate.is_fresh());
    }

    #[test]
    fn after_a_failed_attempt_there_is_a_pause_whatever_the_clock_says() {
        let (given, now) = (OffsetDateTime::now_utc(), Instant::now());
        let mut certificate = certificate(given);
        certificate.pause = Some(now + Duration::from_secs(30));
        for hours in [-1, 9, 20] {
            let wall = given + time::Duration::hours(hours);
            assert_eq!(certificate.rest(wall, now), Duration::from_secs(30));
            assert_eq!(certificate.rest(wall, now + Duration::from_secs(30)), Duration::ZERO);
        }
    }

    #[test]
    fn a_key_is_not_printed() {
        let tls = OwnTls::new(("the certificate".to_owned(), "the key".to_owned()));
        assert_eq!(format!("{tls:?}"), "OwnTls { identity: true, .. }");
    }
}
