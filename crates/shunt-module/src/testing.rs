//! Settings for the tests of this crate.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Problems, Settings};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Lamp {
    /// Power
    /// in watts.
    pub(crate) watts: f64,
    /// What it is called.
    pub(crate) name: String,
    /// Its light.
    pub(crate) colour: Colour,
    /// Levels by place.
    pub(crate) zones: BTreeMap<String, Zone>,
    /// Most lamps.
    pub(crate) limit: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Colour {
    Warm,
    Cold,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Zone {
    pub(crate) level: u8,
}

impl Default for Lamp {
    fn default() -> Self {
        Self {
            watts: 5.5,
            name: "lamp".to_owned(),
            colour: Colour::Warm,
            zones: BTreeMap::new(),
            limit: None,
        }
    }
}

impl Settings for Lamp {
    const MODULE: &'static str = "lamp";

    fn check(&self, problems: &mut Problems) {
        if !(2..=20).contains(&self.name.len()) {
            problems.note("name", format!("it is {:?}, but must have 2 to 20 characters", self.name));
        }
    }
}
