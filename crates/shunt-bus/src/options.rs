//! Where the bus is and who we are on it.

use std::{fmt, path::PathBuf, pin::Pin, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use shunt_wire::{Name, events::Presence};

use crate::{
    BusError,
    redis::{Place, Server},
};

/// Where the bus is and who we are on it. Its `Debug` form shows no password.
#[derive(Clone)]
pub struct BusOptions {
    /// `mqtt://host:port`, `mqtts://host:port`, `redis://[user:password@]host:port[/database]`, `rediss://...` (with
    /// TLS), `redis+unix://[user:password@]/path/to/socket`, `memory:<name>` (in this process, for tests). The port
    /// may be left out: 1883, with TLS 8883; of Redis 6379.
    pub url: String,
    /// The module; also the client id, so that its session survives a restart.
    pub module: Name,
    /// Most messages waiting to be sent, and most received and not yet taken by one subscriber.
    pub queue: usize,
    /// The largest message in bytes, attributes and topic included.
    pub max_message: usize,
    /// Published (retained) on `shunt/presence/<module>` when connected, and its `online: false` twin as last will.
    pub presence: Option<Presence>,
    /// For `mqtts://` and `rediss://`: whom to trust, and who we are.
    pub tls: Option<TlsFrom>,
    /// A folder that modules of this machine share, as that of the frames: fast events also go straight to those
    /// who share it, over Unix sockets in its folder `bus`.
    pub shared: Option<PathBuf>,
    /// Does the broker keep our assured subscriptions, and what comes for them, after the bus is closed? So it must be
    /// for a module, whose next life takes it. A client with a name of one time leaves nothing behind.
    pub keep: bool,
}

/// Where TLS to the broker gets its certificates. Its `Debug` form shows no key.
#[derive(Clone)]
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

    /// What was given last led to no connection, though the broker was there: perhaps it is not good any more.
    fn failed(&self) {}
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
    Redis(Server),
    Memory(String),
}

// === impl BusOptions ===

impl BusOptions {
    /// The bus at this address, for this module: 256 messages in each queue, 8 MiB a message, no presence,
    /// nothing shared, kept after it is closed.
    pub fn new(url: impl Into<String>, module: Name) -> Self {
        Self {
            url: url.into(),
            module,
            queue: 256,
            max_message: 8 << 20,
            presence: None,
            tls: None,
            shared: None,
            keep: true,
        }
    }
}

impl fmt::Debug for BusOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, module, queue, max_message, presence, tls, shared, keep } = self;
        formatter
            .debug_struct("BusOptions")
            .field("url", &without_password(url))
            .field("module", module)
            .field("queue", queue)
            .field("max_message", max_message)
            .field("presence", presence)
            .field("tls", tls)
            .field("shared", shared)
            .field("keep", keep)
            .finish()
    }
}

// === impl BusTls ===

impl BusTls {
    pub(crate) fn config(&self) -> Result<Arc<ClientConfig>, BusError> {
        let wrong = |what: &'static str, why: String| BusError::Tls { what, why };
        let trust = CertificateDer::pem_slice_iter(self.trust.as_bytes()).collect::<Result<Vec<_>, _>>();
        let trust = trust.map_err(|error| wrong("trust", error.to_string()))?;
        let mut roots = RootCertStore::empty();
        // A bundle may hold certificates of a form that is not taken here beside the one that matters.
        let (added, unusable) = roots.add_parsable_certificates(trust);
        if added == 0 {
            let why = if unusable == 0 {
                "it holds no certificate"
            } else {
                "none of its certificates can be used"
            };
            return Err(wrong("trust", why.to_owned()));
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

impl fmt::Debug for TlsFrom {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(tls) => formatter.debug_tuple("Fixed").field(tls).finish(),
            // What a source is made of is unknown here, and may hold a key.
            Self::Source(_) => formatter.debug_tuple("Source").finish_non_exhaustive(),
        }
    }
}

// === impl Address ===

impl Address {
    pub(crate) fn parse(url: &str) -> Result<Self, BusError> {
        let wrong = || BusError::Address(without_password(url));
        let (scheme, rest) = url.split_once(':').ok_or_else(wrong)?;
        if scheme == "memory" && !rest.is_empty() {
            return Ok(Self::Memory(rest.to_owned()));
        }
        let rest = rest.strip_prefix("//").ok_or_else(wrong)?;
        let address = match scheme {
            "mqtt" => host_and_port(rest, 1883).map(|(host, port)| Self::Mqtt { host, port, tls: false }),
            "mqtts" => host_and_port(rest, 8883).map(|(host, port)| Self::Mqtt { host, port, tls: true }),
            "redis" => redis_server(rest, Some(false)).map(Self::Redis),
            "rediss" => redis_server(rest, Some(true)).map(Self::Redis),
            "redis+unix" => redis_server(rest, None).map(Self::Redis),
            _ => None,
        };
        address.ok_or_else(wrong)
    }
}

fn host_and_port(rest: &str, default: u16) -> Option<(String, u16)> {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    // The port follows the last colon, unless that is inside the brackets of an IPv6 address.
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
        _ => (rest, default),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let sound = !host.is_empty() && port != 0 && !host.contains(['/', '@', '?', '#', '[', ']']);
    sound.then(|| (host.to_owned(), port))
}

/// `[user:password@]host:port[/database]`; where `tls` says nothing, a path in place of host, port and database.
fn redis_server(rest: &str, tls: Option<bool>) -> Option<Server> {
    let (login, rest) = match rest.rsplit_once('@') {
        Some((login, rest)) => (Some(login), rest),
        None => (None, rest),
    };
    let (user, password) = match login.map(|login| login.split_once(':').unwrap_or(("", login))) {
        Some((user, password)) => (Some(decode(user)?), Some(decode(password)?)),
        None => (None, None),
    };
    let user = user.filter(|user| !user.is_empty());
    let (place, database) = match tls {
        None => {
            let is_path = rest.starts_with('/') && rest.len() > 1;
            (is_path.then(|| Place::Unix(rest.into()))?, 0)
        }
        Some(tls) => {
            let (rest, database) = rest.split_once('/').unwrap_or((rest, ""));
            let (host, port) = host_and_port(rest, 6379)?;
            let database = if database.is_empty() { 0 } else { database.parse().ok()? };
            (Place::Tcp { host, port, tls }, database)
        }
    };
    Some(Server { place, user, password, database })
}

/// Takes `%40` for `@`, and so on (RFC 3986, section 2.1).
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first == b'%' {
            let (digits, after) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(first);
        }
    }
    String::from_utf8(bytes).ok()
}

/// The address as it may stand in a log.
pub(crate) fn without_password(url: &str) -> String {
    let Some((login, place)) = url.rsplit_once('@') else { return url.to_owned() };
    // Only what surely is no part of it may stand before the login: a mistyped address has it anywhere.
    let mut known = ["mqtt", "mqtts", "redis", "rediss", "redis+unix"].into_iter();
    let scheme = known.find(|scheme| login.split_once(':').is_some_and(|(first, _)| first == *scheme));
    match scheme {
        Some(scheme) if login.get(scheme.len()..).is_some_and(|rest| rest.starts_with("://")) => {
            format!("{scheme}://...@{place}")
        }
        Some(scheme) => format!("{scheme}:...@{place}"),
        None => format!("...@{place}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bridge::BridgeOptions, raw::RawOptions};

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
        let redis = |place, user: Option<&str>, password: Option<&str>, database| {
            let (user, password) = (user.map(str::to_owned), password.map(str::to_owned));
            Some(Address::Redis(Server { place, user, password, database }))
        };
        let tcp = |host: &str, port, tls| Place::Tcp { host: host.to_owned(), port, tls };
        check("redis://bus", redis(tcp("bus", 6379, false), None, None, 0).as_ref());
        check("redis://bus:7/2", redis(tcp("bus", 7, false), None, None, 2).as_ref());
        check("redis://:a@[::1]:7/", redis(tcp("::1", 7, false), None, Some("a"), 0).as_ref());
        check(
            "rediss://me:a%40%3Ab@bus",
            redis(tcp("bus", 6379, true), Some("me"), Some("a@:b"), 0).as_ref(),
        );
        check(
            "redis+unix:///run/redis.sock",
            redis(Place::Unix("/run/redis.sock".into()), None, None, 0).as_ref(),
        );
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
            "redis://",
            "redis://u:p@",
            "redis://bus/x",
            "redis://u:%4@bus",
            "redis+unix://bus",
            "redis+unix:///",
        ] {
            check(url, None);
        }
    }

    #[test]
    fn a_password_stands_in_no_message_about_an_address() {
        for url in [
            "redis://me:secret@",
            "redis://me:secret@bus/x",
            "redis+unix://me:secret@bus",
            "redis:me:secret@bus",
            "redis/me:secret@bus",
            "me:secret@bus",
        ] {
            let error = Address::parse(url).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
            assert!(!error.contains("me"), "{error}");
        }
        let Ok(Address::Redis(server)) = Address::parse("redis://me:secret@bus:7/1") else {
            panic!("no address")
        };
        assert_eq!(format!("{server:?}"), "redis://bus:7/1");
    }

    #[derive(Debug)]
    struct Keys(#[expect(dead_code, reason = "only its Debug form matters")] &'static str);

    impl TlsSource for Keys {
        fn tls(&self) -> Pin<Box<dyn Future<Output = Result<BusTls, String>> + Send + '_>> {
            Box::pin(std::future::ready(Err("none".to_owned())))
        }
    }

    #[test]
    fn no_debug_form_of_options_shows_a_password_or_a_key() {
        let (url, name) = ("redis://me:secret@bus", Name::from_static("camera"));
        let source = Some(TlsFrom::Source(Arc::new(Keys("secret"))));
        let bus = BusOptions { tls: source.clone(), ..BusOptions::new(url, name.clone()) };
        let raw = RawOptions { tls: source.clone(), ..RawOptions::new(url, name) };
        let bridge = BridgeOptions { from_tls: source, ..BridgeOptions::new(url, url, []) };
        for shown in [format!("{bus:?}"), format!("{raw:?}"), format!("{bridge:?}")] {
            assert!(shown.contains("redis://...@bus") && !shown.contains("secret"), "{shown}");
        }
    }
}
