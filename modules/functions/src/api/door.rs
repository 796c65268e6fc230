//! Who may manage: the token, and no page of another host.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{Api, Problem};

/// The header with the token, besides `Authorization: Bearer`.
const TOKEN: &str = "x-shunt-token";

/// Lets pass who may manage.
pub(crate) async fn guard(State(api): State<Api>, request: Request, next: Next) -> Response {
    match check(&api, request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn check(api: &Api, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let forbidden = |detail: &str| Problem::new(StatusCode::FORBIDDEN, "not allowed", detail);
    let host = uri.authority().map(|authority| authority.as_str());
    let host = host.or_else(|| headers.get(header::HOST)?.to_str().ok()).unwrap_or_default();
    if is_foreign(headers, host) {
        return Err(forbidden("a page of another host may not manage functions"));
    }
    let settings = api.library.settings();
    let loopback = api.listens.ip().is_loopback();
    if loopback && !is_local(host) {
        // A name of somebody else's that leads here: a page of that name would pass for ours.
        return Err(forbidden("on loopback, the Host header must be localhost or an IP address"));
    }
    if settings.token.is_empty() {
        if loopback {
            return Ok(());
        }
        return Err(forbidden(
            "management over HTTP needs the setting token, since the module listens beyond loopback",
        ));
    }
    if given(headers).any(|given| same(settings.token.as_bytes(), given)) {
        return Ok(());
    }
    let detail = "management needs the token of the setting token, as Authorization: Bearer or X-Shunt-Token";
    Err(Problem::new(StatusCode::UNAUTHORIZED, "no token, or a wrong one", detail))
}

/// Does a browser say that a page of another host asks?
fn is_foreign(headers: &HeaderMap, host: &str) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let origin = text("origin").is_some_and(|origin| {
        origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")) != Some(host)
    });
    let site = text("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none"));
    origin || site
}

/// Is it a name that only this machine has, or an address?
fn is_local(host: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(&format!("http://{host}")) else { return false };
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok(),
        None => false,
    }
}

/// Takes the module's token out of what a function sees, wherever it stands.
pub(super) fn hide_token(token: &str, headers: &mut HeaderMap) {
    headers.remove(TOKEN);
    if !token.is_empty() && given(headers).any(|given| same(token.as_bytes(), given)) {
        headers.remove(header::AUTHORIZATION);
    }
}

/// All tokens that a request has.
fn given(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let own = headers.get_all(TOKEN).into_iter().map(HeaderValue::as_bytes);
    let usual = headers.get_all(header::AUTHORIZATION).into_iter().filter_map(|value| {
        let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
    });
    own.chain(usual)
}

/// Compares without telling by its time how much was right.
fn same(expected: &[u8], given: &[u8]) -> bool {
    // Digests have one length, whatever was given.
    let digest = |bytes: &[u8]| ring::digest::digest(&ring::digest::SHA256, bytes);
    let (expected, given) = (digest(expected), digest(given));
    let differences =
        expected.as_ref().iter().zip(given.as_ref()).fold(0, |all, (one, other)| all | (one ^ other));
    std::hint::black_box(differences) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_never_sees_the_token_however_it_was_sent() {
        let hidden = |sent: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in sent {
                headers.append(*name, HeaderValue::from_str(value).unwrap());
            }
            hide_token("open-sesame", &mut headers);
            assert!(!headers.contains_key(TOKEN), "{sent:?}");
            headers.get_all("authorization").into_iter().cloned().collect::<Vec<_>>()
        };
        assert_eq!(hidden(&[("authorization", "Bearer other"), (TOKEN, "open-sesame")]), ["Bearer other"]);
        for sent in [
            &[("authorization", "Bearer open-sesame")][..],
            &[("authorization", "bearer open-sesame"), (TOKEN, "x")],
            &[("authorization", "Bearer x"), ("authorization", "Bearer open-sesame")],
        ] {
            assert!(hidden(sent).is_empty(), "{sent:?}");
        }
    }
}
