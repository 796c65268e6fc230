//! One attempt: the POST to an app, and what its answer means.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, Method, Request, StatusCode, header},
};
use http_body_util::{BodyExt, Collected, Limited};
use serde::Deserialize;
use shunt_module::services::{CallError, CallPolicy, Services, TRACEPARENT};
use tokio::time::timeout;

use crate::pubsub::{CLOUD_EVENT, Event, PubsubSettings};
use crate::subscription::Subscription;

/// The largest answer that is read, in bytes. What is larger has no status, which counts as success.
const LARGEST: usize = 64 * 1024;

/// Posts events.
#[derive(Debug)]
pub(crate) struct Post {
    services: Services,
    limit: Duration,
}

/// What an app did with an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Taken,
    /// It does not want it.
    Dropped(String),
    /// It may want it later.
    Failed(String),
    /// It is not there.
    Away(String),
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    status: String,
}

// === impl Post ===

impl Post {
    pub(crate) fn new(services: &Services, knobs: &PubsubSettings) -> Self {
        let limit = knobs.answer();
        let policy = CallPolicy { answer: limit, retries: 0, ..CallPolicy::default() };
        Self { services: services.with_policy(policy), limit }
    }

    /// Posts the event to this path of the app.
    pub(crate) async fn deliver(&self, subscription: &Subscription, path: &str, event: &Event) -> Verdict {
        let mut request = Request::new(Body::from(subscription.body(event)));
        *request.method_mut() = Method::POST;
        match path.parse() {
            Ok(path) => *request.uri_mut() = path,
            Err(error) => return Verdict::Dropped(format!("the route {path:?} is not a path: {error}")),
        }
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CLOUD_EVENT));
        if let Some(trace) = event.traceparent.as_deref().and_then(|trace| HeaderValue::from_str(trace).ok())
        {
            headers.insert(TRACEPARENT, trace);
        }
        let app = subscription.app.as_str();
        // Its time begins when there is a place for the call: waiting for one is not the app's fault.
        let whole = async {
            let response = self.services.call(app, request).await?;
            let status = response.status();
            let body = timeout(self.limit, Limited::new(response.into_body(), LARGEST).collect()).await;
            Ok::<_, CallError>(body.map(|body| (status, body.map(Collected::to_bytes).unwrap_or_default())))
        };
        match whole.await.map_or_else(|error| Ok(Err(error)), |answer| answer.map(Ok)) {
            Ok(Ok((status, body))) => Verdict::of(status, &body),
            Ok(Err(
                error @ (CallError::Unknown { .. }
                | CallError::Foreign { .. }
                | CallError::Offline { .. }
                | CallError::Refused { .. }
                | CallError::Busy { .. }),
            )) => Verdict::Away(error.to_string()),
            Ok(Err(error)) => Verdict::Failed(error.to_string()),
            Err(_) => Verdict::Failed(format!("no answer within {:?}", self.limit)),
        }
    }
}

// === impl Verdict ===

impl Verdict {
    /// Dapr's rules: 2xx with a status in its JSON, 404 to drop, all else to try again.
    fn of(status: StatusCode, body: &[u8]) -> Self {
        if status == StatusCode::NOT_FOUND {
            return Self::Dropped("the app answered 404".to_owned());
        }
        if !status.is_success() {
            return Self::Failed(format!("the app answered {}", status.as_u16()));
        }
        // An answer without a status, or none that can be read, is a success.
        let answer = serde_json::from_slice::<Answer>(body).map(|answer| answer.status).unwrap_or_default();
        match answer.as_str() {
            "" | "SUCCESS" => Self::Taken,
            "DROP" => Self::Dropped("the app answered DROP".to_owned()),
            "RETRY" => Self::Failed("the app answered RETRY".to_owned()),
            other => {
                Self::Failed(format!("the app answered {:?}", other.chars().take(80).collect::<String>()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_mean_what_they_mean_in_dapr() {
        let verdict = |status: u16, body: &str| match Verdict::of(
            StatusCode::from_u16(status).unwrap(),
            body.as_bytes(),
        ) {
            Verdict::Taken => "taken",
            Verdict::Dropped(_) => "dropped",
            Verdict::Failed(_) => "failed",
            Verdict::Away(_) => "away",
        };
        assert_eq!(verdict(200, ""), "taken");
        assert_eq!(verdict(204, ""), "taken");
        assert_eq!(verdict(200, r#"{"status": "SUCCESS"}"#), "taken");
        assert_eq!(verdict(200, r#"{"other": 1}"#), "taken");
        assert_eq!(verdict(200, "garbage"), "taken");
        assert_eq!(verdict(200, "[1, 2"), "taken");
        assert_eq!(verdict(200, r#"{"status": "RETRY"}"#), "failed");
        assert_eq!(verdict(200, r#"{"status": "DROP"}"#), "dropped");
        assert_eq!(verdict(200, r#"{"status": "WHAT"}"#), "failed");
        assert_eq!(verdict(404, ""), "dropped");
        assert_eq!(verdict(500, r#"{"status": "SUCCESS"}"#), "failed");
        assert_eq!(verdict(302, ""), "failed");
    }
}
