//! Numbered events.

use std::time::Duration;

use anyhow::Context;
use shunt_bus::{Received, Subscription};
use shunt_wire::{Envelope, Kind, TopicFilter};
use tokio::time::timeout;

use crate::backends::LIMIT;

/// So long nothing comes that should not.
const QUIET: Duration = Duration::from_millis(150);

/// The event of this number, from `front-door`.
pub(crate) fn event(kind: &Kind, number: u64) -> Envelope {
    let source = "front-door".parse().unwrap();
    Envelope::new(number.to_string(), kind.clone(), source, "2026-11-21T09:00:00Z")
        .with_json(&serde_json::json!({ "number": number }))
        .unwrap()
}

/// All events of this kind.
pub(crate) fn all(kind: &Kind) -> TopicFilter {
    TopicFilter::kind(kind)
}

/// The number of what was received.
pub(crate) fn number(received: &Received) -> u64 {
    received.envelope.as_ref().unwrap().id.parse().unwrap()
}

/// The next message, within the limit.
pub(crate) async fn next(subscription: &mut Subscription) -> anyhow::Result<Received> {
    timeout(LIMIT, subscription.next()).await.context("nothing came")?.context("the bus was closed")
}

/// The number of the next message, which is acknowledged.
pub(crate) async fn take(subscription: &mut Subscription) -> anyhow::Result<u64> {
    let received = next(subscription).await?;
    let number = number(&received);
    received.ack.ack();
    Ok(number)
}

/// Nothing comes for a while.
pub(crate) async fn is_quiet(subscription: &mut Subscription) -> bool {
    timeout(QUIET, subscription.next()).await.is_err()
}
