//! Pictures from an address.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::http::{StatusCode, header};
use bytes::{Bytes, BytesMut};
use reqwest::{Client, Response, Url, redirect::Policy};

use crate::{api::Room, problem::Problem};

/// How long a picture may take to come, redirects included.
const LIMIT: Duration = Duration::from_secs(10);
/// How long a connection may take.
const CONNECTING: Duration = Duration::from_secs(3);
/// Most redirects that are followed, on the same host only.
const REDIRECTS: usize = 3;

/// Fetches pictures from the hosts that the settings allow, and from no other: a redirect to another host is refused,
/// so that nobody outside decides whom we ask. A host that is allowed may have a private address: a camera in the same
/// building is the usual one.
#[derive(Debug, Clone, Default)]
pub(crate) struct PictureFetcher(Arc<OnceLock<Result<Client, String>>>);

// === impl PictureFetcher ===

impl PictureFetcher {
    /// The file at this address, of at most `limit` bytes; room is taken for what came.
    pub(crate) async fn fetch(
        &self,
        address: &str,
        hosts: &[String],
        limit: usize,
        room: &mut Room,
    ) -> Result<Bytes, Problem> {
        // The address is not repeated: it may be long, and hold what is secret.
        let url = Url::parse(address).map_err(|error| Problem::bad("not an address", error.to_string()))?;
        check(&url, hosts)?;
        let client = self.client()?;
        tokio::time::timeout(LIMIT, get(&client, url, hosts, (limit, room))).await.unwrap_or_else(|_| {
            let detail = format!("the picture did not come within {} s", LIMIT.as_secs());
            Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, "the picture cannot be fetched", detail))
        })
    }

    /// Made when it is needed first: most devices fetch nothing.
    fn client(&self) -> Result<Client, Problem> {
        let made = self.0.get_or_init(|| {
            // Two providers could be compiled in; the first call of the process names one, later ones change nothing.
            rustls::crypto::ring::default_provider().install_default().ok();
            let client = Client::builder()
                .tcp_nodelay(true)
                .no_proxy()
                .redirect(Policy::none())
                .connect_timeout(CONNECTING)
                .timeout(LIMIT);
            client.build().map_err(|error| error.to_string())
        });
        made.clone()
            .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "no client for /url", error))
    }
}

async fn get(
    client: &Client,
    mut url: Url,
    hosts: &[String],
    (limit, room): (usize, &mut Room),
) -> Result<Bytes, Problem> {
    for _ in 0..=REDIRECTS {
        let response = client.get(url.clone()).send().await.map_err(|error| failed(&error))?;
        if !response.status().is_redirection() {
            return read(response, limit, room).await;
        }
        let to = response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
        let to = to.and_then(|location| url.join(location).ok());
        let to = to.ok_or_else(|| cannot("the redirect leads nowhere".to_owned()))?;
        let downgraded = url.scheme() == "https" && to.scheme() != "https";
        if to.host_str() != url.host_str() || downgraded {
            return Err(cannot(format!("the host redirects to {}, which is not followed", shown(&to))));
        }
        check(&to, hosts)?;
        url = to;
    }
    Err(cannot(format!("the host redirects more than {REDIRECTS} times")))
}

async fn read(mut response: Response, limit: usize, room: &mut Room) -> Result<Bytes, Problem> {
    if !response.status().is_success() {
        return Err(cannot(format!("the host answered {}", response.status().as_u16())));
    }
    let too_large = || {
        let detail = format!("it has more bytes than the setting max_body_mb allows, {limit}");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the picture is too large", detail)
    };
    if response.content_length().is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failed(&error))? {
        if body.len() + chunk.len() > limit {
            return Err(too_large());
        }
        room.grow(chunk.len(), limit)?;
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// May this address be asked?
fn check(url: &Url, hosts: &[String]) -> Result<(), Problem> {
    if hosts.is_empty() {
        let detail = "no host may be asked for pictures; the setting url_hosts names those that may";
        return Err(Problem::new(StatusCode::FORBIDDEN, "not allowed", detail));
    }
    if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some() {
        let detail = "only http and https addresses without a password are fetched";
        return Err(Problem::bad("not an address that is fetched", detail));
    }
    let allowed = hosts.iter().any(|host| {
        // Written as an address, so that a name in capitals and a port that goes without saying are the same.
        let host = Url::parse(&format!("{}://{host}", url.scheme()));
        host.is_ok_and(|host| {
            host.host_str() == url.host_str() && host.port_or_known_default() == url.port_or_known_default()
        })
    });
    if allowed {
        return Ok(());
    }
    let detail = format!("{} is not among the hosts of the setting url_hosts", shown(url));
    Err(Problem::new(StatusCode::FORBIDDEN, "not allowed", detail))
}

/// Host and port, without what may be secret.
fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn cannot(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_GATEWAY, "the picture cannot be fetched", detail)
}

fn failed(error: &reqwest::Error) -> Problem {
    // The address may hold what is secret; the cause says more than the outermost sentence.
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cannot(cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(address: &str, hosts: &[&str]) -> Result<(), StatusCode> {
        let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
        check(&Url::parse(address).unwrap(), &hosts).map_err(|problem| problem.status)
    }

    #[test]
    fn only_the_hosts_of_the_settings_are_asked() {
        let forbidden = Err(StatusCode::FORBIDDEN);
        for (address, hosts, expected) in [
            ("http://camera/a.jpg", &["camera"][..], Ok(())),
            ("https://CAMERA/a.jpg", &["camera"], Ok(())),
            ("http://camera:80/a.jpg", &["Camera"], Ok(())),
            ("http://camera:8080/a.jpg", &["camera:8080"], Ok(())),
            ("http://camera:8080/a.jpg", &["camera"], forbidden),
            ("http://camera.evil.example/a.jpg", &["camera"], forbidden),
            ("http://169.254.169.254/latest", &["camera"], forbidden),
            ("http://[::1]/a.jpg", &["[::1]"], Ok(())),
            ("http://camera/a.jpg", &[], forbidden),
            ("file:///etc/passwd", &["camera"], Err(StatusCode::BAD_REQUEST)),
            ("http://user:word@camera/a.jpg", &["camera"], Err(StatusCode::BAD_REQUEST)),
        ] {
            assert_eq!(allowed(address, hosts), expected, "{address} {hosts:?}");
        }
    }
}
