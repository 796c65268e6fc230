//! The broker's certificate, from the workload API.

use std::{pin::Pin, sync::Arc, time::Duration};

use parking_lot::Mutex;
use shunt_bus::{BusTls, TlsSource};
use shunt_hub::Workload;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::Instant;

/// Of a certificate's time, so much is used; then a fresh one is asked for.
const USED: f64 = 0.8;
/// Between two attempts to get a fresh one: a tenth of the time that is left, within these bounds.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

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
    /// When to ask for a fresh one.
    pub(crate) renew: Instant,
}

/// What a client of our own needs: the authorities as they are now, and its certificate.
#[derive(Debug, Clone)]
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
        let left = Duration::try_from(expires - OffsetDateTime::now_utc())
            .map_err(|_| format!("the certificate has run out at {} already", given.expiration))?;
        let (host, chain, key) = (host.to_owned(), given.chain, given.private_key);
        let certificate =
            Self { host, trust, chain, key, expires, renew: Instant::now() + left.mul_f64(USED) };
        tracing::info!(host = certificate.host, expires = given.expiration, "The broker has a certificate.");
        Ok(certificate)
    }

    /// No fresh one was given: when to ask again.
    pub(crate) fn postpone(&mut self) {
        let left = Duration::try_from(self.expires - OffsetDateTime::now_utc()).unwrap_or_default();
        self.renew = Instant::now() + (left / 10).clamp(PAUSE.0, PAUSE.1);
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
