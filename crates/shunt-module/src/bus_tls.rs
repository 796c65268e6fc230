//! Where TLS to the bus gets its certificates: from the workload API by itself, or from files for a foreign broker.

use std::{fmt, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use parking_lot::Mutex;
use shunt_bus::{BusTls, TlsFrom, TlsSource};
use shunt_hub::{Workload, WorkloadCertificate};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::Instant;

/// Of a certificate's time, so much is used; then a fresh one is asked for.
const USED: f64 = 0.8;
/// A certificate younger than this is not the reason why a connection failed.
const YOUNG: Duration = Duration::from_secs(30);

/// The module's identity certificate and the trust bundle of the device, kept for most of their time.
struct FromWorkload {
    workload: Workload,
    kept: Mutex<Option<Kept>>,
}

#[derive(Clone)]
struct Kept {
    tls: BusTls,
    since: Instant,
    until: Instant,
}

/// Files, read for each connection: who renews them restarts nothing.
#[derive(Debug)]
struct FromFiles {
    trust: PathBuf,
    identity: Option<(PathBuf, PathBuf)>,
}

/// Where the certificates come from, by `SHUNT_BUS_CA`, `SHUNT_BUS_CERT`, `SHUNT_BUS_KEY`, else from the workload
/// API; nothing where there is neither. Notes what is missing: variable, rule.
pub(crate) fn source(
    get: impl Fn(&str) -> Option<String>,
    workload: Option<Workload>,
) -> Result<Option<TlsFrom>, (&'static str, &'static str)> {
    let file = |name: &str| get(name).map(PathBuf::from);
    let identity = match (file("SHUNT_BUS_CERT"), file("SHUNT_BUS_KEY")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => return Err(("SHUNT_BUS_KEY", "it must be set where SHUNT_BUS_CERT is")),
        (None, Some(_)) => return Err(("SHUNT_BUS_CERT", "it must be set where SHUNT_BUS_KEY is")),
    };
    if let Some(trust) = file("SHUNT_BUS_CA") {
        return Ok(Some(TlsFrom::Source(Arc::new(FromFiles { trust, identity }))));
    }
    if identity.is_some() {
        return Err(("SHUNT_BUS_CA", "it must be set where SHUNT_BUS_CERT is"));
    }
    Ok(workload.map(|workload| {
        TlsFrom::Source(Arc::new(FromWorkload { workload, kept: Mutex::new(None) })) // asked at the first connection
    }))
}

// === impl FromWorkload ===

impl FromWorkload {
    async fn get(&self) -> Result<BusTls, String> {
        let kept = self.kept.lock().clone();
        if let Some(kept) = kept.filter(|kept| Instant::now() < kept.until) {
            return Ok(kept.tls);
        }
        let trust = self.workload.trust_bundle().await.map_err(|error| error.to_string())?;
        let certificate = self.workload.identity_certificate().await.map_err(|error| error.to_string())?;
        let since = Instant::now();
        let until = since + use_for(&certificate);
        let tls = BusTls { trust, identity: Some((certificate.chain, certificate.private_key)) };
        *self.kept.lock() = Some(Kept { tls: tls.clone(), since, until });
        Ok(tls)
    }
}

impl TlsSource for FromWorkload {
    fn tls(&self) -> Pin<Box<dyn Future<Output = Result<BusTls, String>> + Send + '_>> {
        Box::pin(self.get())
    }

    fn failed(&self) {
        let mut kept = self.kept.lock();
        if kept.as_ref().is_some_and(|kept| kept.since.elapsed() >= YOUNG) {
            *kept = None;
        }
    }
}

impl fmt::Debug for FromWorkload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FromWorkload").field("workload", &self.workload).finish_non_exhaustive()
    }
}

/// How long a certificate that was given now is used.
fn use_for(certificate: &WorkloadCertificate) -> Duration {
    let left = OffsetDateTime::parse(&certificate.expiration, &Rfc3339)
        .map(|expiration| expiration - OffsetDateTime::now_utc());
    // One whose time cannot be read serves for one connection.
    left.ok().and_then(|left| Duration::try_from(left).ok()).unwrap_or_default().mul_f64(USED)
}

// === impl FromFiles ===

impl TlsSource for FromFiles {
    fn tls(&self) -> Pin<Box<dyn Future<Output = Result<BusTls, String>> + Send + '_>> {
        Box::pin(async {
            let read = async |file: &PathBuf| {
                let text = tokio::fs::read_to_string(file).await;
                text.map_err(|error| format!("{}: {error}", file.display()))
            };
            let identity = match &self.identity {
                Some((certificate, key)) => Some((read(certificate).await?, read(key).await?)),
                None => None,
            };
            Ok(BusTls { trust: read(&self.trust).await?, identity })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(variables: &[(&str, &str)]) -> Result<Option<TlsFrom>, (&'static str, &'static str)> {
        let get = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        source(get, None)
    }

    #[test]
    fn certificate_and_key_belong_together_and_need_someone_to_trust() {
        assert!(check(&[]).unwrap().is_none());
        assert!(check(&[("SHUNT_BUS_CA", "a")]).unwrap().is_some());
        assert!(
            check(&[("SHUNT_BUS_CA", "a"), ("SHUNT_BUS_CERT", "b"), ("SHUNT_BUS_KEY", "c")])
                .unwrap()
                .is_some()
        );
        assert_eq!(check(&[("SHUNT_BUS_CA", "a"), ("SHUNT_BUS_CERT", "b")]).unwrap_err().0, "SHUNT_BUS_KEY");
        assert_eq!(check(&[("SHUNT_BUS_CA", "a"), ("SHUNT_BUS_KEY", "b")]).unwrap_err().0, "SHUNT_BUS_CERT");
        assert_eq!(check(&[("SHUNT_BUS_CERT", "b"), ("SHUNT_BUS_KEY", "c")]).unwrap_err().0, "SHUNT_BUS_CA");
    }

    #[tokio::test]
    async fn files_are_read_for_each_connection() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let from = check(&[("SHUNT_BUS_CA", file.to_str().unwrap())]).unwrap().unwrap();
        let TlsFrom::Source(source) = from else { panic!("{from:?}") };
        assert!(source.tls().await.unwrap_err().contains("ca.pem: No such file"));
        for text in ["one", "two"] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(source.tls().await.unwrap().trust, text);
        }
    }

    #[test]
    fn a_certificate_is_used_for_most_of_its_time() {
        let certificate = |expiration: &str| WorkloadCertificate {
            private_key: String::new(),
            chain: String::new(),
            expiration: expiration.to_owned(),
        };
        let hour = (OffsetDateTime::now_utc() + time::Duration::HOUR).format(&Rfc3339).unwrap();
        let used = use_for(&certificate(&hour)).as_secs_f64();
        assert!((2870.0..=2880.0).contains(&used), "{used}");
        assert_eq!(use_for(&certificate("2020-01-01T00:00:00Z")), Duration::ZERO);
        assert_eq!(use_for(&certificate("soon")), Duration::ZERO);
    }
}
