//! The module's settings.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shunt_module::{Problems, Settings};

/// The settings of `sentiment`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SentimentSettings {}

impl Settings for SentimentSettings {
    const MODULE: &'static str = "sentiment";

    fn check(&self, _problems: &mut Problems) {}
}
