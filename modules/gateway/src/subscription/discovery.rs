//! Asking apps what they want to be told of.
//!
//! Each app is asked at `/dapr/subscribe` again and again, for an app may come later than the gateway, or come back
//! with other subscriptions; nothing tells the gateway of it. An app that does not answer, or answers 404, keeps those it
//! had; one that it leaves out of its answers ends after a while.

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

/// What is known of an app after it was asked.
#[derive(Debug)]
pub(crate) enum Told {
    /// Its subscriptions.
    Subscriptions(Vec<SubscriptionSettings>),
    /// It answers, but does not say: it has no such path, which an app that starts may not have yet.
    Nothing,
    /// It does not answer, or not what can be understood.
    Away,
}

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

    /// What the app wants.
    pub(crate) async fn ask(&mut self) -> Told {
        let (status, body) = match timeout(LIMIT, self.get()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                self.say(format!("it cannot be asked: {error}"), false);
                return Told::Away;
            }
            Err(_) => {
                self.say(format!("it did not answer within {LIMIT:?}"), true);
                return Told::Away;
            }
        };
        match status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                self.say("it subscribes to nothing".to_owned(), false);
                return Told::Nothing;
            }
            other => {
                self.say(format!("it answered {other}"), true);
                return Told::Away;
            }
        }
        match SubscriptionSettings::of_app(&self.app, &body) {
            Ok((found, problems)) => {
                self.say(problems.join("; "), true);
                Told::Subscriptions(found)
            }
            Err(error) => {
                self.say(format!("its answer is not a list of subscriptions: {error}"), true);
                Told::Away
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
