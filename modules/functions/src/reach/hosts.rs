//! Hosts that functions may call.

use std::{fmt, net::IpAddr, str::FromStr};

use reqwest::Url;

/// A granted host: `api.example.com`, `api.example.com:8443`, `10.1.2.3`, `[::1]:8080`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// As a URL has it: lower case, no dot at its end, an address in its usual form.
    name: String,
    /// None: any.
    port: Option<u16>,
}

/// Why a text is no host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it must be a host, or host:port, and nothing else")]
pub(super) struct HostError;

// === impl Host ===

impl Host {
    /// May this address be called?
    pub(super) fn allows(&self, url: &Url) -> bool {
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else { return false };
        self.port.is_none_or(|own| own == port) && self.name == normal(host)
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        if text.is_empty()
            || text.contains(['/', '\\', '?', '#', '@', '*'])
            || text.chars().any(char::is_whitespace)
        {
            return Err(HostError);
        }
        // No scheme's own port may be taken for "none was said", so both are asked.
        let read = |scheme: &str| Url::parse(&format!("{scheme}://{text}/")).map_err(|_| HostError);
        let (url, other) = (read("http")?, read("https")?);
        let name = normal(url.host_str().ok_or(HostError)?).to_owned();
        if name.is_empty() || text.ends_with(':') {
            return Err(HostError);
        }
        Ok(Self { name, port: url.port().or(other.port()) })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(formatter, "{}:{port}", self.name),
            None => formatter.write_str(&self.name),
        }
    }
}

/// The same name for the same host.
fn normal(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

/// May a name lead there? Not to this machine itself, its links or everybody: who is granted such an address is
/// granted it as an address, or as `localhost`. And to private networks only where no stranger can make the name lead
/// there: a name that somebody else's name server answers for could be turned to any machine beside this one.
pub(super) fn may_resolve_to(name: &str, address: IpAddr) -> bool {
    let address = address.to_canonical();
    if is_private(address) {
        return is_local(name);
    }
    match address {
        own if own.is_loopback() => normal(name).eq_ignore_ascii_case("localhost"),
        IpAddr::V4(own) => {
            !(own.is_link_local() || own.is_unspecified() || own.is_broadcast() || own.is_multicast())
                && own.octets().first() != Some(&0)
        }
        IpAddr::V6(own) => !(own.is_unicast_link_local() || own.is_unspecified() || own.is_multicast()),
    }
}

/// Is it of a network that the world cannot reach?
fn is_private(address: IpAddr) -> bool {
    match address {
        // The last: behind a provider's translation (RFC 6598).
        IpAddr::V4(own) => {
            own.is_private() || matches!(own.octets(), [100, second, ..] if second & 0b1100_0000 == 64)
        }
        IpAddr::V6(own) => own.is_unique_local(),
    }
}

/// Does the world's name service never answer for it? A name without a dot, as of a container, and what is set apart
/// for networks of one's own: `.local` (RFC 6762), `.home.arpa` (RFC 8375), `.internal` (ICANN).
fn is_local(name: &str) -> bool {
    let name = normal(name).to_ascii_lowercase();
    !name.contains('.') || [".local", ".internal", ".home.arpa"].iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_granted_host_is_the_same_host_however_it_is_written_and_no_other() {
        let check = |grant: &str, url: &str, allowed: bool| {
            let host: Host = grant.parse().unwrap();
            assert_eq!(Url::parse(url).is_ok_and(|url| host.allows(&url)), allowed, "{grant} and {url}");
        };
        check("api.example.com", "https://api.example.com/x?y", true);
        check("api.example.com", "http://API.Example.COM:8080/", true);
        check("API.example.com.", "https://api.example.com/", true);
        check("api.example.com", "https://api.example.com./", true);
        check("api.example.com", "https://example.com/", false);
        check("example.com", "https://api.example.com/", false);
        check("api.example.com", "https://api.example.com.evil.org/", false);
        check("api.example.com", "https://api.example.com@evil.org/", false);
        check("api.example.com:8443", "https://api.example.com:8443/", true);
        check("api.example.com:8443", "https://api.example.com/", false);
        check("api.example.com:443", "https://api.example.com/", true);
        check("api.example.com:443", "http://api.example.com/", false);
        check("api.example.com:80", "http://api.example.com/", true);
        check("api.example.com:80", "https://api.example.com/", false);
        check("127.0.0.1", "http://127.1/", true);
        check("127.0.0.1", "http://2130706433/", true);
        check("127.0.0.1", "http://0x7f.1/", true);
        check("127.0.0.1", "http://127.0.0.2/", false);
        check("[::1]:80", "http://[0:0::1]/", true);
        check("[::1]", "http://127.0.0.1/", false);
        check("localhost", "http://127.0.0.1/", false);
        check("münchen.example", "https://xn--mnchen-3ya.example/", true);
    }

    #[test]
    fn what_is_no_host_is_no_grant() {
        for text in [
            "",
            "*",
            "*.example.com",
            "http://a.b",
            "a/b",
            "a b",
            "a@b",
            "a:",
            "a:99999",
            ":80",
            "a?b",
            "[::1",
            ".",
        ] {
            assert_eq!(text.parse::<Host>(), Err(HostError), "{text}");
        }
    }

    #[test]
    fn a_name_does_not_lead_to_the_machine_itself_but_localhost_does() {
        let check = |name: &str, address: &str, may: bool| {
            assert_eq!(may_resolve_to(name, address.parse().unwrap()), may, "{name} {address}");
        };
        check("api.example.com", "93.184.216.34", true);
        check("inference", "172.18.0.5", true);
        check("fd-host", "fd00::1", true);
        for address in [
            "127.0.0.1",
            "127.8.8.8",
            "::1",
            "::ffff:127.0.0.1",
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fe80::1",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
        ] {
            check("api.example.com", address, false);
        }
        for address in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.0.1",
            "fd00::1",
            "::ffff:10.0.0.1",
        ] {
            check("api.example.com", address, false);
            check("local.example.com.", address, false);
            check("inference", address, true);
            check("plc.local", address, true);
            check("Historian.Plant.INTERNAL.", address, true);
        }
        check("api.example.com", "100.128.0.1", true);
        check("api.example.com", "172.32.0.1", true);
        check("localhost", "127.0.0.1", true);
        check("LOCALHOST.", "::1", true);
        check("localhost", "169.254.169.254", false);
        check("localhost.example.com", "127.0.0.1", false);
    }
}
