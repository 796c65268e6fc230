//! The module twin: desired properties with their versions, and answers of the hub.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value};

/// Patches that came while a GET is open are kept for its answer; of more than these the GET is made again.
const MAX_EARLY: usize = 32;

/// The desired properties as the client holds them: fetched at each connect, patched since, gaps healed.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// `$version`.
    pub version: u64,
    /// The properties; `$version` and `$metadata` taken out.
    pub properties: Map<String, Value>,
}

/// Both sections of the twin, as the hub holds them now.
#[derive(Debug, Clone, PartialEq)]
pub struct Twin {
    /// The desired properties; `None` where the hub has never seen them (edgeHub, offline since its start).
    pub desired: Option<Desired>,
    /// The reported properties; `$version` and `$metadata` taken out.
    pub reported: Map<String, Value>,
}

/// Why a twin could not be read or reported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TwinError {
    /// The hub answered with this status.
    #[error("the hub answered {0}")]
    Status(u16),
    /// No answer in time, or not connected.
    #[error("no answer from the hub: {0}")]
    NoAnswer(&'static str),
    /// The answer is not a twin.
    #[error("the hub's answer is not a twin: {0}")]
    Malformed(String),
    /// The patch is larger than the hub takes. Never sent. The hub refuses more than 32 KiB in all with 400.
    #[error("the report makes a packet of {size} bytes, the hub takes {max}")]
    TooLarge {
        /// Bytes of the packet.
        size: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The client was closed.
    #[error("the hub client is closed")]
    Closed,
}

/// What to do after a message about desired properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing changed.
    Nothing,
    /// [`TwinCache::held`] changed.
    Changed,
    /// A version is missing: the twin has to be fetched (again). [`TwinCache::held`] may have changed.
    Fetch,
}

/// The desired properties, and the rules that keep them right.
///
/// A patch counts only on top of the version before it. One with an older version came twice; one with a newer
/// version shows that a patch was lost. What comes while the twin is being fetched waits for the answer.
#[derive(Debug, Default)]
pub(crate) struct TwinCache {
    held: Option<Desired>,
    fetching: bool,
    early: BTreeMap<u64, Map<String, Value>>,
    /// A patch came that could not be kept, so the answer to the GET under way may be too old.
    lost: bool,
}

// === impl TwinCache ===

impl TwinCache {
    pub(crate) fn held(&self) -> Option<&Desired> {
        self.held.as_ref()
    }

    /// A GET is on its way. What was kept for an earlier one stays: versions tell what it is worth.
    pub(crate) fn fetching(&mut self) {
        self.fetching = true;
    }

    /// The GET got no answer, or the connection ended: patches may have been lost.
    pub(crate) fn interrupted(&mut self) {
        self.fetching = false;
        self.lost = false;
        self.early.clear();
    }

    /// The answer to the GET, which is right whatever was held before: the version may be lower, after the
    /// module was made anew. An answer that knows no version (edgeHub, offline, has never seen the twin) changes
    /// nothing.
    pub(crate) fn fetched(&mut self, desired: Option<Desired>) -> Step {
        self.fetching = false;
        let lost = std::mem::take(&mut self.lost);
        let Some(desired) = desired else {
            self.early.clear();
            return Step::Nothing;
        };
        let mut changed = self.held.as_ref() != Some(&desired);
        let mut version = desired.version;
        let held = self.held.insert(desired);
        let early = std::mem::take(&mut self.early);
        for (next, patch) in early {
            if next == version + 1 {
                merge(&mut held.properties, &patch);
                held.version = next;
                version = next;
                changed = true;
            } else if next > version {
                // Newer than the answer, and something between is missing.
                return Step::Fetch;
            }
        }
        match (lost, changed) {
            (true, _) => Step::Fetch,
            (false, true) => Step::Changed,
            (false, false) => Step::Nothing,
        }
    }

    /// A patch of the desired properties, `$version` taken out.
    pub(crate) fn patched(&mut self, version: Option<u64>, patch: Map<String, Value>) -> Step {
        if self.fetching {
            match version {
                Some(version) if self.early.len() < MAX_EARLY => {
                    self.early.insert(version, patch);
                }
                _ => self.lost = true,
            }
            return Step::Nothing;
        }
        let Some(version) = version else { return Step::Fetch };
        match &mut self.held {
            Some(held) if version <= held.version => Step::Nothing,
            Some(held) if version == held.version + 1 => {
                merge(&mut held.properties, &patch);
                held.version = version;
                Step::Changed
            }
            _ => {
                self.early.insert(version, patch);
                Step::Fetch
            }
        }
    }
}

/// JSON merge patch (RFC 7396): `null` deletes, objects are merged, everything else replaces.
pub(crate) fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.remove(key);
            }
            Value::Object(patch) => {
                if let Some(Value::Object(target)) = target.get_mut(key) {
                    merge(target, patch);
                } else {
                    let mut object = Map::new();
                    merge(&mut object, patch);
                    target.insert(key.clone(), Value::Object(object));
                }
            }
            value => {
                target.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Takes `$version` (and `$metadata`) out of a section.
pub(crate) fn split_version(mut section: Map<String, Value>) -> (Option<u64>, Map<String, Value>) {
    let version = section.get("$version").and_then(Value::as_u64);
    section.retain(|key, _| !key.starts_with('$'));
    (version, section)
}

/// Reads the answer to a GET.
pub(crate) fn parse_twin(body: &[u8]) -> Result<Twin, TwinError> {
    let malformed = |reason: &str| TwinError::Malformed(reason.to_owned());
    let twin: Value = serde_json::from_slice(body).map_err(|error| malformed(&error.to_string()))?;
    let Value::Object(mut twin) = twin else { return Err(malformed("not an object")) };
    let mut section = |name: &str| match twin.remove(name) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(section)) => Ok(section),
        Some(_) => Err(malformed(&format!("{name} is not an object"))),
    };
    let (version, desired) = split_version(section("desired")?);
    let (_, reported) = split_version(section("reported")?);
    let desired = match version {
        Some(version) => Some(Desired { version, properties: desired }),
        None if desired.is_empty() => None,
        None => return Err(malformed("desired has no $version")),
    };
    Ok(Twin { desired, reported })
}

/// How long to wait before asking the hub again: it doubles, up to a limit.
pub(crate) fn pause(tried: u32, first: Duration, limit: Duration) -> Duration {
    first.saturating_mul(1 << tried.min(16)).min(limit).mul_f64(0.75 + 0.5 * rand::random::<f64>())
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

    #[expect(clippy::unnecessary_wraps, reason = "an answer and what is held may be none")]
    fn desired(version: u64, properties: Value) -> Option<Desired> {
        Some(Desired { version, properties: object(properties) })
    }

    #[test]
    fn null_deletes_objects_merge_arrays_replace() {
        let mut target = object(json!({"a": 1, "b": {"c": [1, 2], "d": 2}, "e": 5}));
        merge(
            &mut target,
            &object(json!({"a": null, "b": {"c": [3], "x": {"y": null, "z": 1}}, "e": {"f": null}})),
        );
        assert_eq!(Value::Object(target), json!({"b": {"c": [3], "d": 2, "x": {"z": 1}}, "e": {}}));
    }

    #[test]
    fn a_patch_counts_only_on_top_of_the_version_before() {
        let mut cache = TwinCache::default();
        cache.fetching();
        assert_eq!(cache.fetched(desired(4, json!({"fps": 1}))), Step::Changed);
        assert_eq!(cache.patched(Some(4), object(json!({"fps": 9}))), Step::Nothing);
        assert_eq!(cache.patched(Some(5), object(json!({"fps": 2}))), Step::Changed);
        assert_eq!(cache.patched(Some(5), object(json!({"fps": 3}))), Step::Nothing);
        assert_eq!(cache.held(), desired(5, json!({"fps": 2})).as_ref());
        assert_eq!(cache.patched(Some(7), object(json!({"fps": 4}))), Step::Fetch);
        assert_eq!(
            cache.held(),
            desired(5, json!({"fps": 2})).as_ref(),
            "a patch after a gap is not applied"
        );
        cache.fetching();
        assert_eq!(cache.fetched(desired(7, json!({"fps": 4, "x": 1}))), Step::Changed);
        assert_eq!(cache.held(), desired(7, json!({"fps": 4, "x": 1})).as_ref());
    }

    #[test]
    fn patches_that_overtake_the_answer_are_not_lost() {
        let mut cache = TwinCache::default();
        cache.fetching();
        assert_eq!(cache.patched(Some(2), object(json!({"a": 2}))), Step::Nothing);
        assert_eq!(cache.patched(Some(3), object(json!({"b": 3}))), Step::Nothing);
        assert_eq!(cache.fetched(desired(1, json!({"a": 1}))), Step::Changed);
        assert_eq!(cache.held(), desired(3, json!({"a": 2, "b": 3})).as_ref());
        cache.fetching();
        assert_eq!(cache.patched(Some(6), object(json!({"c": 1}))), Step::Nothing);
        assert_eq!(cache.fetched(desired(4, json!({}))), Step::Fetch);
    }

    #[test]
    fn an_empty_twin_without_version_is_not_a_deletion() {
        let mut cache = TwinCache::default();
        let unknown = || parse_twin(br#"{"desired":{},"reported":{}}"#).unwrap().desired;
        assert_eq!(cache.fetched(unknown()), Step::Nothing);
        assert_eq!(cache.held(), None, "it does not count as known");
        assert_eq!(cache.patched(Some(1), Map::new()), Step::Fetch);
        assert_eq!(cache.fetched(desired(1, json!({"a": 1}))), Step::Changed);
        assert_eq!(cache.fetched(unknown()), Step::Nothing);
        assert_eq!(cache.held(), desired(1, json!({"a": 1})).as_ref());
        assert_eq!(cache.fetched(desired(2, json!({}))), Step::Changed, "with a version it is a deletion");
    }

    #[test]
    fn a_module_made_anew_starts_again_with_a_lower_version() {
        let mut cache = TwinCache::default();
        cache.fetched(desired(90, json!({"a": 1})));
        assert_eq!(cache.fetched(desired(1, json!({"a": 2}))), Step::Changed);
        assert_eq!(cache.patched(Some(2), object(json!({"a": 3}))), Step::Changed);
    }

    #[test]
    fn answers_that_are_no_twin_are_refused() {
        for bad in
            ["", "[]", "7", r#"{"desired":[]}"#, r#"{"desired":{"a":1},"reported":{}}"#, "{\"desired\":"]
        {
            assert!(matches!(parse_twin(bad.as_bytes()), Err(TwinError::Malformed(_))), "{bad}");
        }
        let twin =
            parse_twin(br#"{"desired":{"a":1,"$version":3,"$metadata":{}},"reported":{"b":2,"$version":1}}"#)
                .unwrap();
        assert_eq!(twin.desired, desired(3, json!({"a": 1})));
        assert_eq!(twin.reported, object(json!({"b": 2})));
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i8>().prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-d]", inner, 0..3)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn section() -> impl Strategy<Value = Map<String, Value>> {
        prop::collection::btree_map("[a-d]", json_value(), 0..4).prop_map(|map| map.into_iter().collect())
    }

    fn has_null(section: &Map<String, Value>) -> bool {
        section.values().any(|value| match value {
            Value::Null => true,
            Value::Object(inner) => has_null(inner),
            _ => false,
        })
    }

    proptest! {
        #[test]
        fn merging_twice_is_merging_once_and_leaves_no_null(first in section(), patch in section()) {
            let mut once = Map::new();
            merge(&mut once, &first);
            merge(&mut once, &patch);
            let mut twice = once.clone();
            merge(&mut twice, &patch);
            prop_assert_eq!(&once, &twice);
            prop_assert!(!has_null(&once));
        }

        /// A hub that loses, repeats and reorders patches as it likes, and answers each GET, late or not.
        #[test]
        fn the_client_ends_with_what_the_hub_holds(
            patches in prop::collection::vec(section(), 1..12),
            order in prop::collection::vec((0_usize..12, any::<bool>()), 0..40),
        ) {
            let mut states = vec![Desired { version: 1, properties: Map::new() }];
            for patch in &patches {
                let mut next = states.last().unwrap().clone();
                merge(&mut next.properties, patch);
                next.version += 1;
                states.push(next);
            }
            let mut cache = TwinCache::default();
            let mut newest = 0;
            let mut fetch = true;
            for (index, answer) in order {
                let index = index % patches.len();
                newest = newest.max(index + 1);
                match cache.patched(Some(index as u64 + 2), patches[index].clone()) {
                    Step::Fetch => fetch = true,
                    Step::Changed | Step::Nothing => {}
                }
                if fetch {
                    cache.fetching();
                    if answer {
                        fetch = cache.fetched(Some(states[newest].clone())) == Step::Fetch;
                    }
                }
            }
            // The last patch arrives, and open questions are answered.
            newest = patches.len();
            if cache.patched(Some(newest as u64 + 1), patches[newest - 1].clone()) == Step::Fetch {
                fetch = true;
            }
            for _ in 0..3 {
                if fetch {
                    cache.fetching();
                    fetch = cache.fetched(Some(states[newest].clone())) == Step::Fetch;
                }
            }
            prop_assert_eq!(cache.held(), Some(&states[newest]));
        }
    }
}
