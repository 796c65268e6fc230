//! One section of a twin: merge patches, versions, differences, and edgeHub's and IoT Hub's limits.

use serde_json::{Map, Value};

/// Bytes of JSON that one section may have.
const MAX_SECTION: usize = 32 * 1024;
const MAX_NAME: usize = 1024;
const MAX_TEXT: usize = 4096;
const MAX_DEPTH: usize = 10;
const MAX_INTEGER: i64 = (1 << 52) - 1;
const MIN_INTEGER: i64 = -(1 << 52);

/// Why a patch of twin properties is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TwinLimitError {
    /// The patch is no JSON object.
    #[error("twin properties must be a JSON object")]
    NotAnObject,
    /// A name is too long or holds a character that is not allowed.
    #[error(
        "the property name {0:?} is not allowed: at most 1,024 bytes, without control characters, blanks, '.', '$' and '#'"
    )]
    Name(String),
    /// A text is too long.
    #[error("the text of {path} has {size} bytes, allowed are 4,096")]
    Text {
        /// The property.
        path: String,
        /// Its bytes.
        size: usize,
    },
    /// An integer is out of range.
    #[error("the number of {0} is outside -2^52 to 2^52-1")]
    Integer(String),
    /// Objects lie too deep in each other.
    #[error("{0} lies deeper than 10 levels")]
    Depth(String),
    /// An array holds `null`.
    #[error("the array {0} holds null")]
    NullInArray(String),
    /// The whole section is too large.
    #[error("the properties have {0} bytes of JSON, allowed are 32,768")]
    Size(usize),
}

/// Desired or reported properties with their version.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Section {
    pub(crate) properties: Map<String, Value>,
    pub(crate) version: u64,
}

impl Default for Section {
    fn default() -> Self {
        Self { properties: Map::new(), version: 1 }
    }
}

// === impl Section ===

impl Section {
    /// The section after a merge patch (`null` deletes, an array is one value), one version on.
    pub(crate) fn patched(&self, patch: &Map<String, Value>) -> Result<Self, TwinLimitError> {
        let mut properties = self.properties.clone();
        merge(&mut properties, patch);
        check_size(&properties)?;
        Ok(Self { properties, version: self.version + 1 })
    }

    /// As it goes over the wire: the properties and `$version`.
    pub(crate) fn to_value(&self) -> Value {
        Value::Object(with_version(&self.properties, self.version))
    }
}

/// The properties with `$version` at the end.
pub(crate) fn with_version(properties: &Map<String, Value>, version: u64) -> Map<String, Value> {
    let mut all = properties.clone();
    all.insert("$version".to_owned(), version.into());
    all
}

/// RFC 7386. Keys that the hub owns (`$version`, `$metadata`) are not taken from a patch.
pub(crate) fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        match value {
            Value::Null => {
                target.remove(key);
            }
            Value::Object(patch) => {
                let entry = target.entry(key.clone()).or_insert_with(|| Value::Object(Map::new()));
                if !entry.is_object() {
                    *entry = Value::Object(Map::new());
                }
                if let Value::Object(inner) = entry {
                    merge(inner, patch);
                }
            }
            other => {
                target.insert(key.clone(), other.clone());
            }
        }
    }
}

/// The patch that leads from one object to the other.
pub(crate) fn difference(from: &Map<String, Value>, to: &Map<String, Value>) -> Map<String, Value> {
    let mut patch = Map::new();
    for (key, value) in to {
        match (from.get(key), value) {
            (Some(old), new) if old == new => {}
            (Some(Value::Object(old)), Value::Object(new)) => {
                patch.insert(key.clone(), Value::Object(difference(old, new)));
            }
            _ => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    for key in from.keys().filter(|key| !to.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    patch
}

/// Checks a patch by the rules of edgeHub's validator for reported properties; the same numbers hold for desired ones.
pub(crate) fn check(patch: &Map<String, Value>) -> Result<(), TwinLimitError> {
    check_size(patch)?;
    check_object(patch, "", 1)
}

fn check_size(properties: &Map<String, Value>) -> Result<(), TwinLimitError> {
    let size = serde_json::to_string(properties).map_or(usize::MAX, |text| text.len());
    if size > MAX_SECTION { Err(TwinLimitError::Size(size)) } else { Ok(()) }
}

fn check_object(object: &Map<String, Value>, path: &str, depth: usize) -> Result<(), TwinLimitError> {
    if depth > MAX_DEPTH {
        return Err(TwinLimitError::Depth(path.to_owned()));
    }
    for (name, value) in object {
        let forbidden = |c: char| c.is_control() || matches!(c, '.' | '$' | '#' | ' ');
        if name.len() > MAX_NAME || name.contains(forbidden) {
            return Err(TwinLimitError::Name(name.clone()));
        }
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        check_value(value, &path, depth)?;
    }
    Ok(())
}

fn check_value(value: &Value, path: &str, depth: usize) -> Result<(), TwinLimitError> {
    match value {
        Value::String(text) if text.len() > MAX_TEXT => {
            Err(TwinLimitError::Text { path: path.to_owned(), size: text.len() })
        }
        Value::Number(number) => {
            let within = match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => (MIN_INTEGER..=MAX_INTEGER).contains(&value),
                (None, Some(_)) => false,
                (None, None) => true,
            };
            if within { Ok(()) } else { Err(TwinLimitError::Integer(path.to_owned())) }
        }
        Value::Object(inner) => check_object(inner, path, depth + 1),
        Value::Array(items) => {
            if depth + 1 > MAX_DEPTH {
                return Err(TwinLimitError::Depth(path.to_owned()));
            }
            for item in items {
                if item.is_null() {
                    return Err(TwinLimitError::NullInArray(path.to_owned()));
                }
                check_value(item, path, depth + 1)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(object) => object,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_merge_patch_adds_changes_and_deletes() {
        let mut target = object(json!({"a": 1, "o": {"x": 1, "y": 2}, "l": [1, 2], "s": "t"}));
        let patch = json!({"a": null, "o": {"x": null, "z": 3}, "l": [3], "s": {"n": 1}, "$version": 4, "none": null});
        merge(&mut target, &object(patch));
        assert_eq!(Value::Object(target), json!({"o": {"y": 2, "z": 3}, "l": [3], "s": {"n": 1}}));
    }

    /// Objects as twins hold them: no nulls, names without a dollar sign.
    fn twin() -> impl Strategy<Value = Map<String, Value>> {
        let leaf = prop_oneof![any::<bool>().prop_map(Value::from), any::<i32>().prop_map(Value::from)];
        let value = leaf.prop_recursive(3, 24, 4, |inner| {
            proptest::collection::btree_map("[a-d]", inner, 0..4).prop_map(|map| json!(map))
        });
        proptest::collection::btree_map("[a-d]", value, 0..4).prop_map(|map| map.into_iter().collect())
    }

    proptest! {
        #[test]
        fn a_difference_leads_from_one_twin_to_the_other(from in twin(), to in twin()) {
            let mut patched = from.clone();
            merge(&mut patched, &difference(&from, &to));
            prop_assert_eq!(patched, to);
        }
    }
}
