//! Settings that another module of this device changes for a while: the direct method `setSettings`.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// The variable that grants it.
pub(crate) const VARIABLE: &str = "SHUNT_LOCAL_SETTINGS";

/// What was changed on the device, over the twin: until the twin changes, or the module ends.
#[derive(Debug, Clone, Default)]
pub(crate) struct LocalSettings {
    /// The fields that may be changed.
    granted: BTreeSet<String>,
    values: Map<String, Value>,
}

// === impl LocalSettings ===

impl LocalSettings {
    /// Grants these fields: names with commas between.
    ///
    /// # Errors
    ///
    /// A name that is no field.
    pub(crate) fn grant(names: &str, is_field: impl Fn(&str) -> bool) -> Result<Self, String> {
        let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
        let granted: BTreeSet<_> = names.map(ToOwned::to_owned).collect();
        match granted.iter().find(|name| !is_field(name)) {
            Some(unknown) => {
                Err(format!("there is no field {unknown:?}; it must name fields with commas between"))
            }
            None => Ok(Self { granted, values: Map::new() }),
        }
    }

    /// The values with these changes; null takes a change back.
    ///
    /// # Errors
    ///
    /// The answer of the method: it is no map of settings, or one was not granted.
    pub(crate) fn changed(&self, payload: &Value) -> Result<Self, (u16, Value)> {
        let Some(changes) = payload.as_object().filter(|changes| !changes.is_empty()) else {
            return Err((
                400,
                json!({"message": "the payload must be a map of settings, null to take one back"}),
            ));
        };
        if let Some(name) = changes.keys().find(|name| !self.granted.contains(*name)) {
            let granted: Vec<_> = self.granted.iter().map(String::as_str).collect();
            let granted = if granted.is_empty() { "nothing".to_owned() } else { granted.join(", ") };
            let message = format!("{name:?} may not be set on the device: {VARIABLE} grants {granted}");
            return Err((403, json!({ "message": message })));
        }
        let mut changed = self.clone();
        for (name, value) in changes {
            if value.is_null() {
                changed.values.remove(name);
            } else {
                changed.values.insert(name.clone(), value.clone());
            }
        }
        Ok(changed)
    }

    /// The desired properties with what was changed laid over them.
    pub(crate) fn over(&self, desired: &Map<String, Value>) -> Map<String, Value> {
        let mut over = desired.clone();
        over.extend(self.values.clone());
        over
    }

    /// What was changed.
    pub(crate) fn values(&self) -> &Map<String, Value> {
        &self.values
    }

    /// The twin has the last word.
    pub(crate) fn forget(&mut self) {
        self.values.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_granted_may_be_set() {
        let local =
            LocalSettings::grant("fps, width", |name| ["fps", "width", "name"].contains(&name)).unwrap();
        let changed = local.changed(&json!({"fps": 2})).unwrap();
        assert_eq!(
            changed.over(json!({"fps": 9, "name": "x"}).as_object().unwrap()).get("fps"),
            Some(&json!(2))
        );
        assert!(changed.changed(&json!({"fps": null})).unwrap().values().is_empty());
        let (status, answer) = local.changed(&json!({"fps": 2, "name": "y"})).unwrap_err();
        assert_eq!(status, 403);
        assert!(
            answer["message"].as_str().unwrap().ends_with("SHUNT_LOCAL_SETTINGS grants fps, width"),
            "{answer}"
        );
        assert_eq!(local.changed(&json!(7)).unwrap_err().0, 400);
        assert_eq!(local.changed(&json!({})).unwrap_err().0, 400);
        assert_eq!(LocalSettings::default().changed(&json!({"fps": 2})).unwrap_err().0, 403);
        assert!(LocalSettings::grant("fsp", |name| name == "fps").is_err());
    }
}
