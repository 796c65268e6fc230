//! Names that an object has twice. Readers of JSON keep the last and say nothing, so a module may vanish.

use std::{cell::RefCell, collections::BTreeSet, fmt};

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::content::below;

/// The places (JSON Pointers) of names that stand twice in their object. Of a text that is no JSON, those before the fault.
pub(crate) fn duplicates(text: &str) -> Vec<String> {
    let found = RefCell::new(Vec::new());
    let mut deserializer = serde_json::Deserializer::from_str(text);
    // A fault of form is told by the reader proper.
    drop(Walk { path: "", found: &found }.deserialize(&mut deserializer));
    found.into_inner()
}

#[derive(Clone, Copy)]
struct Walk<'a> {
    path: &'a str,
    found: &'a RefCell<Vec<String>>,
}

// === impl Walk ===

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut names = BTreeSet::new();
        while let Some(name) = map.next_key::<String>()? {
            let path = below(self.path, &name);
            map.next_value_seed(Walk { path: &path, ..self })?;
            if !names.insert(name) {
                self.found.borrow_mut().push(path);
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut index = 0;
        while items.next_element_seed(Walk { path: &format!("{}/{index}", self.path), ..self })?.is_some() {
            index += 1;
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_stand_twice_are_found_at_any_depth() {
        let text = r#"{"a": {"b": 1, "c/d": [null, {"e": 1.5, "e": "x"}], "b": -2}, "f": true, "a": false}"#;
        assert_eq!(duplicates(text), ["/a/c~1d/1/e", "/a/b", "/a"]);
        assert_eq!(duplicates("{\"a\": 1, \"a\": 2, oh"), ["/a"]);
        assert_eq!(duplicates("no json"), Vec::<String>::new());
    }
}
