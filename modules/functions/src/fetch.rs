//! Fetches a file from an address, from the hosts that are allowed and from no other.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use reqwest::{Client, Response, Url, header, redirect::Policy};

use crate::settings::URL_LIMIT;

/// How long a connection may take.
const CONNECTING: Duration = Duration::from_secs(5);
/// Most redirects that are followed, on the same host only.
const REDIRECTS: usize = 5;

/// Fetches files. A redirect to another host is refused, so that nobody outside decides whom we ask. Clones share the
/// client.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fetcher(Arc<OnceLock<Result<Client, String>>>);

/// Which hosts may be asked.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hosts<'a> {
    /// Any.
    Any,
    /// These, as `host` or `host:port`.
    These(&'a [String]),
}

/// What a fetch may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FetchLimits {
    /// The largest file in bytes.
    pub(crate) bytes: usize,
    /// From the first connection to the last byte, redirects included.
    pub(crate) time: Duration,
}

/// Why a file was not fetched. None repeats the address: it may be long, and hold what is secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FetchError {
    /// It is none.
    #[error("it is no address: {0}")]
    Address(String),
    /// `file:`, or a password in it.
    #[error("only http and https addresses without a password are fetched, of at most {URL_LIMIT} bytes")]
    Form,
    /// The settings name no host.
    #[error(
        "no host may be asked, since the module listens beyond loopback; the setting fetch_hosts names those that may"
    )]
    NoHosts,
    /// The settings name others.
    #[error("{0} is not among the hosts of the setting fetch_hosts")]
    Host(String),
    /// It has too many bytes.
    #[error("it has more than {0} bytes, and the setting max_file_kb allows no more")]
    TooLarge(usize),
    /// It did not come in time.
    #[error("it did not come within {} s, which is the setting fetch_s", .0.as_secs_f64())]
    Slow(Duration),
    /// The host did not give it.
    #[error("it cannot be fetched: {0}")]
    Failed(String),
}

// === impl Fetcher ===

impl Fetcher {
    /// The file at this address.
    pub(crate) async fn fetch(
        &self,
        address: &str,
        hosts: Hosts<'_>,
        limits: FetchLimits,
    ) -> Result<Bytes, FetchError> {
        let url = parse(address)?;
        check(&url, hosts)?;
        let client = self.client()?;
        tokio::time::timeout(limits.time, get(&client, url, hosts, limits.bytes))
            .await
            .unwrap_or(Err(FetchError::Slow(limits.time)))
    }

    /// Made when it is needed first: most devices fetch nothing.
    fn client(&self) -> Result<Client, FetchError> {
        let made = self.0.get_or_init(|| {
            // Two providers could be compiled in; the first call of the process names one, later ones change nothing.
            rustls::crypto::ring::default_provider().install_default().ok();
            let client = Client::builder()
                .tcp_nodelay(true)
                .no_proxy()
                .redirect(Policy::none())
                .connect_timeout(CONNECTING);
            client.build().map_err(|error| error.to_string())
        });
        made.clone().map_err(FetchError::Failed)
    }
}

/// The name of the file at an address: the last part of its path. Percent signs are taken out, so that the name is
/// judged as it is meant.
pub(crate) fn file_name(address: &str) -> Result<String, FetchError> {
    let url = parse(address)?;
    let last = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default();
    Ok(unescape(last))
}

fn parse(address: &str) -> Result<Url, FetchError> {
    if address.len() > URL_LIMIT {
        return Err(FetchError::Form);
    }
    Url::parse(address).map_err(|error| FetchError::Address(error.to_string()))
}

async fn get(client: &Client, mut url: Url, hosts: Hosts<'_>, limit: usize) -> Result<Bytes, FetchError> {
    for _ in 0..=REDIRECTS {
        let response = client.get(url.clone()).send().await.map_err(|error| failed(&error))?;
        if !response.status().is_redirection() {
            return read(response, limit).await;
        }
        let to = response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
        let to = to.and_then(|location| url.join(location).ok());
        let to = to.ok_or_else(|| FetchError::Failed("the redirect leads nowhere".to_owned()))?;
        let downgraded = url.scheme() == "https" && to.scheme() != "https";
        if to.host_str() != url.host_str() || downgraded {
            let detail = format!("the host redirects to {}, which is not followed", shown(&to));
            return Err(FetchError::Failed(detail));
        }
        check(&to, hosts)?;
        url = to;
    }
    Err(FetchError::Failed(format!("the host redirects more than {REDIRECTS} times")))
}

async fn read(mut response: Response, limit: usize) -> Result<Bytes, FetchError> {
    if !response.status().is_success() {
        return Err(FetchError::Failed(format!("the host answered {}", response.status().as_u16())));
    }
    if response.content_length().is_some_and(|length| length > limit as u64) {
        return Err(FetchError::TooLarge(limit));
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failed(&error))? {
        if body.len() + chunk.len() > limit {
            return Err(FetchError::TooLarge(limit));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// May this address be asked?
fn check(url: &Url, hosts: Hosts<'_>) -> Result<(), FetchError> {
    if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some() {
        return Err(FetchError::Form);
    }
    let Hosts::These(hosts) = hosts else { return Ok(()) };
    if hosts.is_empty() {
        return Err(FetchError::NoHosts);
    }
    let allowed = hosts.iter().any(|host| {
        // Written as an address, so that a name in capitals and a port that goes without saying are the same.
        let host = Url::parse(&format!("{}://{host}", url.scheme()));
        host.is_ok_and(|host| {
            host.host_str() == url.host_str() && host.port_or_known_default() == url.port_or_known_default()
        })
    });
    if allowed { Ok(()) } else { Err(FetchError::Host(shown(url))) }
}

/// Host and port, without what may be secret.
fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn failed(error: &reqwest::Error) -> FetchError {
    // The address may hold what is secret; the cause says more than the outermost sentence.
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    FetchError::Failed(cause.to_string())
}

/// The text with its percent signs taken out; what is no text then stays as it is.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let sign = digits.filter(|_| *first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(sign.unwrap_or(*first));
        rest = if sign.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_last_part_of_the_path() {
        for (address, expected) in [
            ("https://my.site/average.py", "average.py"),
            ("https://my.site/a/b/average.py?version=2&x=/y.js#part", "average.py"),
            ("https://my.site/av%65rage.py", "average.py"),
            ("https://my.site/a/%2e%2e%2fmgmt.py", "../mgmt.py"),
            ("https://my.site/100%.py", "100%.py"),
            ("https://my.site/", ""),
            ("https://my.site", ""),
        ] {
            assert_eq!(file_name(address).as_deref(), Ok(expected), "{address}");
        }
        assert!(matches!(file_name("average.py"), Err(FetchError::Address(_))));
        assert_eq!(file_name(&format!("http://h/{}", "x".repeat(3000))), Err(FetchError::Form));
    }

    #[test]
    fn only_the_hosts_of_the_settings_are_asked() {
        let other = |host: &str| Err(FetchError::Host(host.to_owned()));
        for (address, hosts, expected) in [
            ("http://site/a.py", &["site"][..], Ok(())),
            ("https://SITE/a.py", &["site"], Ok(())),
            ("http://site:80/a.py", &["Site"], Ok(())),
            ("http://site:8080/a.py", &["site:8080"], Ok(())),
            ("http://site:8080/a.py", &["site"], other("site:8080")),
            ("http://site.evil.example/a.py", &["site"], other("site.evil.example")),
            ("http://169.254.169.254/latest", &["site"], other("169.254.169.254")),
            ("http://site/a.py", &[], Err(FetchError::NoHosts)),
            ("file:///etc/passwd", &["site"], Err(FetchError::Form)),
            ("http://user:word@site/a.py", &["site"], Err(FetchError::Form)),
        ] {
            let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
            let url = Url::parse(address).unwrap();
            assert_eq!(check(&url, Hosts::These(&hosts)), expected, "{address} {hosts:?}");
        }
        assert_eq!(check(&Url::parse("http://site/a.py").unwrap(), Hosts::Any), Ok(()));
        assert_eq!(check(&Url::parse("file:///a.py").unwrap(), Hosts::Any), Err(FetchError::Form));
    }
}
