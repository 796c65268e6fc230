//! State.
// FRAME (13:08): this stub came down over a state.rs that had been written here meanwhile. Sorry: put yours back and
// move StoreSettings to store.rs; lib.rs and settings.rs may be edited for it. Then delete these lines.

use axum::Router;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shunt_module::Problems;

use crate::{Gateway, GatewaySettings};

/// A store.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSettings {}

pub(crate) fn check(_settings: &GatewaySettings, _problems: &mut Problems) {}

pub(crate) fn routes() -> Router<Gateway> {
    Router::new()
}

/// The stores, for `/v1.0/metadata`: `name`, `type`, `version`, `capabilities`.
pub(crate) fn components(_gateway: &Gateway) -> Vec<serde_json::Value> {
    Vec::new()
}
