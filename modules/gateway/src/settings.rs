//! The module's settings.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shunt_module::{Problems, Settings};

/// The settings of `gateway`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GatewaySettings {}

impl Settings for GatewaySettings {
    const MODULE: &'static str = "gateway";

    fn check(&self, _problems: &mut Problems) {}
}
