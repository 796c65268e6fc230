//! The certificate authority of the stand-in. It lives in the folder, so that clients who trust it still do after a restart.

use std::{
    fs,
    io::Write as _,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use time::{Duration, OffsetDateTime};

use crate::SimError;

/// Signs the server certificates and those of the workload API.
pub(crate) struct Authority {
    pub(crate) bundle: String,
    pub(crate) bundle_file: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate chain and its key, PEM.
pub(crate) struct Issued {
    pub(crate) chain: String,
    pub(crate) key: String,
    pub(crate) expiration: OffsetDateTime,
}

// === impl Authority ===

impl Authority {
    /// Takes the authority kept in the folder, or makes one (P-256, good for ten years).
    pub(crate) fn open(folder: &Path) -> Result<Self, SimError> {
        let certificate_file = folder.join("ca.pem");
        let key_file = folder.join("ca-key.pem");
        if !(certificate_file.exists() && key_file.exists()) {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new(Vec::new())?;
            params.distinguished_name.push(DnType::CommonName, "shunt-sim test CA");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![
                KeyUsagePurpose::KeyCertSign,
                KeyUsagePurpose::CrlSign,
                KeyUsagePurpose::DigitalSignature,
            ];
            valid(&mut params, Duration::days(3650));
            let certificate = params.self_signed(&key)?;
            write_private(&key_file, key.serialize_pem().as_bytes())?;
            fs::write(&certificate_file, certificate.pem())
                .map_err(|source| SimError::file(&certificate_file, source))?;
        }
        let read = |file: &Path| fs::read_to_string(file).map_err(|source| SimError::file(file, source));
        let bundle = read(&certificate_file)?;
        let key = KeyPair::from_pem(&read(&key_file)?)?;
        let issuer = Issuer::from_ca_cert_pem(&bundle, key)?;
        Ok(Self { bundle, bundle_file: certificate_file, issuer })
    }

    /// A certificate for a server: the names as DNS or IP subject alternative names.
    pub(crate) fn issue_server(
        &self,
        common_name: &str,
        names: &[String],
        lifetime: Duration,
    ) -> Result<Issued, SimError> {
        let names = names.iter().map(|name| {
            Ok(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into()?),
            })
        });
        let names = names.collect::<Result<_, SimError>>()?;
        self.issue(common_name, names, lifetime, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate that proves a module's identity: the module id as common name, and a DNS name with the text
    /// `URI: azureiot://<hub>/devices/<device>/modules/<module>`. That this text stands in a DNS name, and not in a
    /// URI, is the daemon's way (`edgelet-http-workload/src/module/cert/identity.rs`).
    pub(crate) fn issue_identity(
        &self,
        hub: &str,
        device: &str,
        module: &str,
        lifetime: Duration,
    ) -> Result<Issued, SimError> {
        let name = format!("URI: azureiot://{hub}/devices/{device}/modules/{module}");
        let names = vec![SanType::DnsName(name.as_str().try_into()?)];
        self.issue(module, names, lifetime, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(
        &self,
        common_name: &str,
        names: Vec<SanType>,
        lifetime: Duration,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Issued, SimError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let expiration = valid(&mut params, lifetime);
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            chain: format!("{}{}", certificate.pem(), self.bundle),
            key: key.serialize_pem(),
            expiration,
        })
    }

    /// TLS 1.2 and 1.3. A client certificate is asked for, as edgeHub does, and never required.
    pub(crate) fn server_config(&self, names: &[String]) -> Result<Arc<ServerConfig>, SimError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.bundle.as_bytes()) {
            roots.add(certificate.map_err(|error| SimError::Certificate(error.to_string()))?)?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|error| SimError::Certificate(error.to_string()))?;
        let issued =
            self.issue_server(names.first().map_or("localhost", String::as_str), names, Duration::days(365))?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(issued.chain.as_bytes()).collect();
        let chain = chain.map_err(|error| SimError::Certificate(error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes())
            .map_err(|error| SimError::Certificate(error.to_string()))?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS12, &rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        Ok(Arc::new(config))
    }
}

/// Sets the times; from a day ago, because clocks differ.
fn valid(params: &mut CertificateParams, lifetime: Duration) -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    let expiration = now + lifetime;
    params.not_before = now - Duration::days(1);
    params.not_after = expiration;
    expiration
}

/// The secret from which all keys come; made once.
pub(crate) fn secret(folder: &Path) -> Result<Vec<u8>, SimError> {
    let file = folder.join("secret");
    if !file.exists() {
        let mut secret = [0_u8; 32];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut secret)
            .map_err(|_| SimError::Certificate("the system has no random numbers".to_owned()))?;
        write_private(&file, &secret)?;
    }
    fs::read(&file).map_err(|source| SimError::file(&file, source))
}

fn write_private(file: &Path, content: &[u8]) -> Result<(), SimError> {
    let error = |source| SimError::file(file, source);
    let mut out = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(file)
        .map_err(error)?;
    out.write_all(content).map_err(error)
}
