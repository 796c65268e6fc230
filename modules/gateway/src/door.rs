//! What every request passes first: the token, and the form of invocation that is told by a header.

use axum::{
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{Gateway, invoke};

/// The header with the token, as Dapr names it.
pub(crate) const API_TOKEN: &str = "dapr-api-token";

/// Asks for the token where one is set, and takes the requests that a header addresses to an app.
pub(crate) async fn guard(State(gateway): State<Gateway>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let ours = path.starts_with("/v1.0/") || path.starts_with("/v1.0-");
    let called = if ours { None } else { invoke::addressed_by_header(request.headers()) };
    let health = path == "/v1.0/healthz" || path == "/v1.0/healthz/outbound";
    // Whoever watches the device has no token; those who call an app at such a path need one.
    let health = health || called.is_none() && matches!(path, "/healthz" | "/readyz" | "/metrics");
    let token = request.headers_mut().remove(API_TOKEN);
    if !health {
        let settings = gateway.settings();
        let given = token.as_ref().map_or(&b""[..], |token| token.as_bytes());
        if !settings.api_token.is_empty() && !same(settings.api_token.as_bytes(), given) {
            // As Dapr says it: plain text.
            return (StatusCode::UNAUTHORIZED, "invalid api token\n").into_response();
        }
    }
    if let Some(app) = called {
        return invoke::by_header(&gateway, &app, request).await;
    }
    next.run(request).await
}

/// Compares without telling by its time how much was right.
fn same(expected: &[u8], given: &[u8]) -> bool {
    let differences =
        expected.iter().zip(given).fold(0, |differences, (expected, given)| differences | (expected ^ given));
    std::hint::black_box(differences) == 0 && expected.len() == given.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_the_same_only_byte_by_byte() {
        assert!(same(b"secret", b"secret"));
        assert!(!same(b"secret", b"secreT"));
        assert!(!same(b"secret", b"secre"));
        assert!(!same(b"secret", b"secrets"));
        assert!(!same(b"secret", b""));
    }
}
