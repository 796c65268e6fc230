//! Publish and subscribe.

use axum::Router;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shunt_module::Problems;

use crate::{Gateway, GatewaySettings};

/// What a name for publish and subscribe stands for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PubsubSettings {}

/// A subscription.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SubscriptionSettings {}

pub(crate) fn check(_settings: &GatewaySettings, _problems: &mut Problems) {}

pub(crate) fn routes() -> Router<Gateway> {
    Router::new()
}

/// Subscribes and delivers until shutdown.
pub(crate) async fn run(gateway: Gateway) {
    gateway.shutdown.cancelled().await;
}

/// The subscriptions in force, for `/v1.0/metadata`: `pubsubname`, `topic`, `rules`, `deadLetterTopic`, `type`.
pub(crate) fn subscriptions(_gateway: &Gateway) -> Vec<serde_json::Value> {
    Vec::new()
}
