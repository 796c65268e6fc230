//! TLS to the hub: versions 1.2 and 1.3, trusting only whom the options name.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::{fault::Fault, options::Trust};

/// Reads all certificates of a PEM text; at least one.
pub(crate) fn parse_certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, CertificatesError> {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| CertificatesError::Pem(error.to_string()))?;
    if certificates.is_empty() { Err(CertificatesError::Empty) } else { Ok(certificates) }
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificatesError {
    #[error("not in PEM form: {0}")]
    Pem(String),
    #[error("there is no certificate in it")]
    Empty,
    #[error("this machine has none; name the hub's authority")]
    NoStore,
    #[error("none of the {0} certificates can be used as an authority")]
    Unusable(usize),
}

/// A configuration that trusts whom the options name. The gateway asks for a client certificate; we have none.
pub(crate) async fn config(trust: &Trust) -> Result<Arc<ClientConfig>, Fault> {
    let certificates = match trust {
        Trust::Workload(workload) => {
            let pem = workload.trust_bundle().await?;
            parse_certificates(&pem).map_err(Fault::Certificates)?
        }
        Trust::Pem(pem) => parse_certificates(pem).map_err(Fault::Certificates)?,
        Trust::System => {
            // Reads many files.
            let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
            found
                .ok()
                .map(|found| found.certs)
                .filter(|certificates| !certificates.is_empty())
                .ok_or(Fault::Certificates(CertificatesError::NoStore))?
        }
    };
    client_config(certificates)
}

/// For plain HTTP, where reqwest wants a configuration all the same.
pub(crate) fn no_trust() -> Result<ClientConfig, Fault> {
    build(RootCertStore::empty())
}

fn client_config(certificates: Vec<CertificateDer<'static>>) -> Result<Arc<ClientConfig>, Fault> {
    let mut roots = RootCertStore::empty();
    let count = certificates.len();
    // A bundle may hold certificates of a form that is not taken here beside the one that matters.
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(Fault::Certificates(CertificatesError::Unusable(count)));
    }
    build(roots).map(Arc::new)
}

fn build(roots: RootCertStore) -> Result<ClientConfig, Fault> {
    // The provider is named here, so that nothing depends on a process-wide default.
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Fault::TlsSetUp)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_without_certificates_is_refused() {
        assert!(matches!(parse_certificates(""), Err(CertificatesError::Empty)));
        assert!(matches!(parse_certificates("hello"), Err(CertificatesError::Empty)));
        let broken = "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
        assert!(matches!(parse_certificates(broken), Err(CertificatesError::Pem(_))));
        let no_certificate = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
        let certificates = parse_certificates(&no_certificate.repeat(2)).unwrap();
        assert!(matches!(
            client_config(certificates),
            Err(Fault::Certificates(CertificatesError::Unusable(2)))
        ));
    }

    /// The versions that our side and a server of this one version agree on; none if they do not.
    async fn agreed(version: &'static rustls::SupportedProtocolVersion) -> Option<rustls::ProtocolVersion> {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let server =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(
                    vec![certificate.der().clone()],
                    rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
                )
                .unwrap();
        let client = client_config(parse_certificates(&certificate.pem()).unwrap()).unwrap();
        let (ours, theirs) = tokio::io::duplex(4096);
        let (client, server) = tokio::join!(
            tokio_rustls::TlsConnector::from(client).connect("localhost".try_into().unwrap(), ours),
            tokio_rustls::TlsAcceptor::from(Arc::new(server)).accept(theirs),
        );
        server.ok()?;
        client.ok()?.get_ref().1.protocol_version()
    }

    #[tokio::test]
    async fn tls_1_2_and_1_3_are_spoken() {
        assert_eq!(agreed(&rustls::version::TLS12).await, Some(rustls::ProtocolVersion::TLSv1_2));
        assert_eq!(agreed(&rustls::version::TLS13).await, Some(rustls::ProtocolVersion::TLSv1_3));
    }
}
