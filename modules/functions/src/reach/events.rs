//! Events of functions.

use std::time::Duration;

use shunt_bus::Delivery;
use shunt_wire::{Envelope, Topic};
use tokio::time::timeout;

use super::{Reach, View, take};
use crate::host::{Cause, world::function::shunt::functions::events};

/// Most events of one call.
pub(super) const MOST: u32 = 100;
/// The largest event in bytes of data.
const LARGEST: usize = 1024 * 1024;
/// The longest content type in bytes.
const LONGEST_TYPE: usize = 128;
/// So long the bus may take: below the time that a call has by default, so that a guest can answer.
const LIMIT: Duration = Duration::from_secs(3);

/// Why an event is not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PublishError {
    /// The grants do not have this topic.
    #[error("{0}")]
    Denied(String),
    /// It is no event.
    #[error("{0}")]
    Invalid(String),
    /// The bus does not take it now.
    #[error("{0}")]
    Unavailable(String),
}

// === impl Reach ===

impl Reach {
    /// Publishes an event of this function, assured; resolves when the broker has it. For the answer of a function
    /// too.
    pub(crate) async fn publish(
        &self,
        topic: &str,
        content_type: &str,
        data: Vec<u8>,
        cause: Option<&Cause>,
    ) -> Result<(), PublishError> {
        let mut event = self.event(topic, content_type, data)?;
        if let Some(cause) = cause {
            cause.lead_to(&mut event);
        }
        let unavailable = |why: &dyn ToString| PublishError::Unavailable(why.to_string());
        let bus = &self.means().map_err(|why| unavailable(&why))?.bus;
        match timeout(LIMIT, bus.publish(event, Delivery::Assured)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(unavailable(&error)),
            Err(_) => Err(unavailable(&"the bus did not take the event in 3 s; it may come to it still")),
        }
    }

    /// The event, where it is one and the function may publish it.
    fn event(&self, topic: &str, content_type: &str, data: Vec<u8>) -> Result<Envelope, PublishError> {
        let invalid = |why: String| PublishError::Invalid(why);
        // The form first: only a topic without wildcards is asked for in the grants.
        let parsed: Topic =
            topic.parse().map_err(|error: shunt_wire::TopicError| invalid(error.to_string()))?;
        if !self.grants().may_publish(&parsed) {
            let granted = &self.grants().publish;
            let granted = if granted.is_empty() { "nothing".to_owned() } else { granted.join(", ") };
            let why = format!("{} may not publish to {topic}; it is granted: {granted}", self.name());
            return Err(PublishError::Denied(why));
        }
        if data.len() > LARGEST {
            return Err(invalid(format!("the event has {} bytes, {LARGEST} are allowed", data.len())));
        }
        let content_type = if content_type.is_empty() { "application/octet-stream" } else { content_type };
        if content_type.len() > LONGEST_TYPE || !content_type.chars().all(|sign| (' '..='~').contains(&sign))
        {
            let rule = "must be printable ASCII signs, 128 at most";
            return Err(invalid(format!("the content type {rule}")));
        }
        if is_json(content_type)
            && let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&data)
        {
            return Err(invalid(format!("its content type is {content_type}, but it is no JSON: {error}")));
        }
        let means = self.means().map_err(|why| PublishError::Unavailable(why.to_owned()))?;
        let event = means.events.event(parsed.kind().clone(), parsed.source().clone());
        Ok(event.with_body(content_type, data))
    }
}

impl events::Host for View<'_> {
    async fn publish(
        &mut self,
        topic: String,
        content_type: String,
        data: Vec<u8>,
    ) -> wasmtime::Result<Result<(), events::PublishError>> {
        if take(&self.reach.left.events).is_none() {
            let why = format!("a call publishes {MOST} events at most");
            return Ok(Err(events::PublishError::Invalid(why)));
        }
        let published = self.reach.publish(&topic, &content_type, data, self.cause).await;
        Ok(published.map_err(|error| match error {
            PublishError::Denied(why) => events::PublishError::Denied(why),
            PublishError::Invalid(why) => events::PublishError::Invalid(why),
            PublishError::Unavailable(why) => events::PublishError::Unavailable(why),
        }))
    }
}

/// Is that JSON? As the envelope sees it.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json") || essence.to_ascii_lowercase().ends_with("+json")
}
