//! The module's settings.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shunt_module::{Problems, Settings};

/// The settings of `bus`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BusSettings {}

impl Settings for BusSettings {
    const MODULE: &'static str = "bus";

    fn check(&self, _problems: &mut Problems) {}
}
