//! Asking apps what they want to be told of.
//!
//! Each app is asked at `/dapr/subscribe` again and again, for an app may come later than the gateway, or come back
//! with other subscriptions; nothing tells the gateway of it. An app that does not answer keeps those it had.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::{Request, StatusCode, Uri},
};
use http_body_util::{BodyExt, Limited};
use shunt_module::services::{CallError, CallPolicy, Services};
use shunt_wire::Name;
use tokio::time::timeout;

use super::SubscriptionSettings;

/// The longest time that an app may take to answer.
const LIMIT: Duration = Duration::from_secs(5);
/// The largest answer in bytes.
const LARGEST: usize = 256 * 1024;

/// Asks one app.
#[derive(Debug)]
pub(crate) struct Discovery {
    app: Name,
    services: Services,
    /// What was said about it last, so that it is not said each time.
    said: String,
}

// === impl Discovery ===

impl Discovery {
    pub(crate) fn new(app: Name, services: &Services) -> Self {
        let policy = CallPolicy { answer: LIMIT, retries: 0, ..CallPolicy::default() };
        Self { app, services: services.with_policy(policy), said: String::new() }
    }

    /// What the app wants; nothing where it does not say.
    pub(crate) async fn ask(&mut self) -> Option<Vec<SubscriptionSettings>> {
        let (status, body) = match timeout(LIMIT, self.get()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                self.say(format!("it cannot be asked: {error}"), false);
                return None;
            }
            Err(_) => {
                self.say(format!("it did not answer within {LIMIT:?}"), true);
                return None;
            }
        };
        match status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                self.say("it subscribes to nothing".to_owned(), false);
                return Some(Vec::new());
            }
            other => {
                self.say(format!("it answered {other}"), true);
                return None;
            }
        }
        match SubscriptionSettings::of_app(&self.app, &body) {
            Ok((found, problems)) => {
                self.say(problems.join("; "), true);
                Some(found)
            }
            Err(error) => {
                self.say(format!("its answer is not a list of subscriptions: {error}"), true);
                None
            }
        }
    }

    async fn get(&self) -> Result<(StatusCode, Bytes), CallError> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = Uri::from_static("/dapr/subscribe");
        let response = self.services.call(self.app.as_str(), request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        let body =
            body.map_err(|error| CallError::Body { app: self.app.to_string(), why: error.to_string() })?;
        Ok((status, body.to_bytes()))
    }

    fn say(&mut self, what: String, matters: bool) {
        if self.said == what {
            return;
        }
        let app = &self.app;
        if what.is_empty() {
            tracing::info!(%app, "The subscriptions of an app are understood now.");
        } else if matters {
            tracing::warn!(%app, what, "The subscriptions of an app cannot all be made.");
        } else {
            tracing::debug!(%app, what, "An app tells no subscriptions.");
        }
        self.said = what;
    }
}
