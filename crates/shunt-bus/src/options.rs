//! Where the bus is and who we are on it.

use std::{fmt, path::PathBuf, pin::Pin, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use shunt_wire::{Name, events::Presence};

use crate::BusError;

/// Where the bus is and who we are on it.
#[derive(Debug, Clone)]
pub struct BusOptions {
    /// `mqtt://host:port`, `mqtts://host:port`, `memory:<name>` (in this process, for tests). The port may be
    /// left out: 1883, with TLS 8883.
    pub url: String,
    /// The module; also the client id, so that its session survives a restart.
    pub module: Name,
    /// Most messages waiting to be sent, and most received and not yet taken by one subscriber.
    pub queue: usize,
    /// The largest message in bytes, attributes and topic included.
    pub max_message: usize,
    /// Published (retained) on `shunt/presence/<module>` when connected, and its `online: false` twin as last will.
    pub presence: Option<Presence>,
    /// For `mqtts://`: whom to trust, and who we are.
    pub tls: Option<TlsFrom>,
    /// A folder that modules of this machine share, as that of the frames: fast events also go straight to those
    /// who share it, over Unix sockets in its folder `bus`.
    pub shared: Option<PathBuf>,
}

/// Where TLS to the broker gets its certificates.
#[derive(Debug, Clone)]
pub enum TlsFrom {
    /// They stay the same; a mistake in them is told by [`crate::Bus::open`].
    Fixed(BusTls),
    /// Asked before each connection, because certificates run out; a mistake shows in [`crate::BusState`].
    Source(Arc<dyn TlsSource>),
}

/// Gives the certificates for a connection that is about to be made.
pub trait TlsSource: fmt::Debug + Send + Sync {
    /// Whom to trust and who we are, now; or why that is not known, in a sentence. It is asked again, with a growing
    /// pause, for as long as it takes.
    fn tls(&self) -> Pin<Box<dyn Future<Output = Result<BusTls, String>> + Send + '_>>;
}

/// TLS to the broker.
#[derive(Clone)]
pub struct BusTls {
    /// The certificates of the authorities to trust, PEM.
    pub trust: String,
    /// Our own certificate chain and private key, both PEM, where the broker asks for them.
    pub identity: Option<(String, String)>,
}

/// A bus address, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Mqtt { host: String, port: u16, tls: bool },
    Memory(String),
}

// === impl BusOptions ===

impl BusOptions {
    /// The bus at this address, for this module: 256 messages in each queue, 8 MiB a message, no presence,
    /// nothing shared.
    pub fn new(url: impl Into<String>, module: Name) -> Self {
        Self {
            url: url.into(),
            module,
            queue: 256,
            max_message: 8 << 20,
            presence: None,
            tls: None,
            shared: None,
        }
    }
}

// === impl BusTls ===

impl BusTls {
    pub(crate) fn config(&self) -> Result<Arc<ClientConfig>, BusError> {
        let wrong = |what: &'static str, why: String| BusError::Tls { what, why };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.trust.as_bytes()) {
            let certificate = certificate.map_err(|error| wrong("trust", error.to_string()))?;
            roots.add(certificate).map_err(|error| wrong("trust", error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(wrong("trust", "it holds no certificate".to_owned()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong("trust", error.to_string()))?
            .with_root_certificates(roots);
        let config = match &self.identity {
            None => config.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>();
                let chain = chain.map_err(|error| wrong("identity", error.to_string()))?;
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
                let key = key.map_err(|error| wrong("identity", error.to_string()))?;
                let config = config.with_client_auth_cert(chain, key);
                config.map_err(|error| wrong("identity", error.to_string()))?
            }
        };
        Ok(Arc::new(config))
    }
}

impl fmt::Debug for BusTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key must not reach a log.
        formatter.debug_struct("BusTls").field("identity", &self.identity.is_some()).finish_non_exhaustive()
    }
}

// === impl TlsFrom ===

impl From<BusTls> for TlsFrom {
    fn from(tls: BusTls) -> Self {
        Self::Fixed(tls)
    }
}

// === impl Address ===

impl Address {
    pub(crate) fn parse(url: &str) -> Result<Self, BusError> {
        let wrong = || BusError::Address(url.to_owned());
        let (scheme, rest) = url.split_once(':').ok_or_else(wrong)?;
        let tls = match scheme {
            "memory" if !rest.is_empty() => return Ok(Self::Memory(rest.to_owned())),
            "mqtt" => false,
            "mqtts" => true,
            _ => return Err(wrong()),
        };
        let rest = rest.strip_prefix("//").ok_or_else(wrong)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // The port follows the last colon, unless that is inside the brackets of an IPv6 address.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().map_err(|_| wrong())?),
            _ => (rest, if tls { 8883 } else { 1883 }),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || port == 0 || host.contains(['/', '@', '?', '#', '[', ']']) {
            return Err(wrong());
        }
        Ok(Self::Mqtt { host: host.to_owned(), port, tls })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, expected: Option<&Address>) {
        assert_eq!(Address::parse(url).ok().as_ref(), expected, "{url}");
    }

    #[test]
    fn addresses_are_read_and_others_refused() {
        let mqtt = |host: &str, port, tls| Some(Address::Mqtt { host: host.to_owned(), port, tls });
        check("mqtt://bus:1883", mqtt("bus", 1883, false).as_ref());
        check("mqtt://bus", mqtt("bus", 1883, false).as_ref());
        check("mqtts://bus/", mqtt("bus", 8883, true).as_ref());
        check("mqtt://[::1]:7", mqtt("::1", 7, false).as_ref());
        check("mqtt://[::1]", mqtt("::1", 1883, false).as_ref());
        check("memory:a", Some(Address::Memory("a".to_owned())).as_ref());
        for url in [
            "",
            "bus",
            "memory:",
            "mqtt:bus",
            "mqtt://",
            "mqtt://bus:x",
            "mqtt://bus:0",
            "mqtt://u@bus",
            "http://bus",
        ] {
            check(url, None);
        }
    }
}
