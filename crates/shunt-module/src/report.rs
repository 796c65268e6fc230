//! The answer to desired properties in the reported twin: IoT Plug and Play's acknowledgement of each writable
//! property, within edgeHub's limits (`ReportedPropertiesValidator.cs` in Azure/iotedge). Passwords in addresses are
//! left out.

use serde_json::{Map, Value, json};
use shunt_hub::Desired;

use crate::{
    Problems, Settings, redact,
    settings::{Layers, object, variable},
};

/// Most characters of an `ad` text.
const TEXT: usize = 512;
/// edgeHub: bytes of a text value.
const STRING_BYTES: usize = 4096;
/// edgeHub: depth of the reported section is 10, of which field and `value` take two.
const DEPTH: usize = 8;
/// edgeHub: whole numbers between -2^52 and 2^52-1.
const INTEGER: i64 = 1 << 52;
/// edgeHub: bytes of a property name.
const NAME_BYTES: usize = 1024;
/// edgeHub takes 32 KiB of reported properties; some room is left.
const REPORT_BYTES: usize = 30 * 1024;
/// Most of them that facts may take.
const FACTS_BYTES: usize = 8 * 1024;

/// What became of the desired properties.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome<'a> {
    /// All in force.
    Applied,
    /// The module is still at work with them.
    InProgress,
    /// None applied, and why.
    Refused(&'a Problems),
}

/// The whole reported section for these settings in force, this twin, and what became of it. `last_good` are the
/// desired properties that are in force.
pub(crate) fn report<S: Settings>(
    layers: &Layers<S>,
    in_force: &S,
    desired: &Desired,
    last_good: &Map<String, Value>,
    outcome: Outcome<'_>,
) -> Map<String, Value> {
    let values = object(in_force);
    let mut report = Map::new();
    for field in layers.fields().iter().map(|field| field.name.as_str()) {
        let value = values.get(field).cloned().unwrap_or_default();
        let wanted = desired.properties.get(field).filter(|wanted| !wanted.is_null());
        let same = wanted.is_some_and(|wanted| layers.normal(field, wanted).as_ref() == Some(&value));
        let changes = if wanted.is_some() { !same } else { last_good.contains_key(field) };
        let (code, version, text) = match outcome {
            Outcome::Refused(problems) => match problems.of(field) {
                Some(problem) => (400, desired.version, problem),
                None if changes => {
                    let refused = problems.fields().join(", ");
                    (400, desired.version, format!("not applied, because refused with it: {refused}"))
                }
                None if same => (200, desired.version, "in force".to_owned()),
                None => below(layers, field),
            },
            Outcome::InProgress if changes => (202, desired.version, "being applied".to_owned()),
            Outcome::InProgress | Outcome::Applied if wanted.is_some() => {
                (200, desired.version, "applied".to_owned())
            }
            Outcome::InProgress | Outcome::Applied => below(layers, field),
        };
        report.insert(field.to_owned(), acknowledgement(field, &value, code, version, &text));
    }
    if let Outcome::Refused(problems) = outcome {
        for (field, value) in &desired.properties {
            if !value.is_null()
                && !report.contains_key(field)
                && check_name(field).is_ok()
                && let Some(problem) = problems.of(field)
            {
                let answer = json!({"ac": 400, "av": desired.version, "ad": shorten(&problem)});
                report.insert(field.clone(), answer);
            }
        }
    }
    shrink(&mut report);
    report
}

/// The report with the facts that the module tells of itself. One that edgeHub would not take, that has the name of a
/// setting, or that is beyond [`FACTS_BYTES`], is left out.
pub(crate) fn with_facts(mut report: Map<String, Value>, facts: &Map<String, Value>) -> Map<String, Value> {
    let mut room = FACTS_BYTES;
    let mut told = Map::new();
    for (name, value) in facts {
        let size = name.len() + value.to_string().len() + 4;
        let fits = if report.contains_key(name) {
            Err("a setting has its name")
        } else if size > room {
            Err("all facts together may have 8 KiB")
        } else {
            check_name(name).and_then(|()| check_value(value, 1))
        };
        match fits {
            Ok(()) => {
                room -= size;
                told.insert(name.clone(), value.clone());
            }
            Err(reason) => {
                tracing::warn!(fact = name, reason, "A fact cannot be told in the reported twin.");
            }
        }
    }
    report.extend(told);
    shrink(&mut report);
    report
}

/// The answer for a field that the twin does not set: 203 with version 0.
fn below<S: Settings>(layers: &Layers<S>, field: &str) -> (u16, u64, String) {
    let text = if layers.in_environment(field) {
        format!("set by {}", variable(S::MODULE, field))
    } else {
        "default".to_owned()
    };
    (203, 0, text)
}

/// Says of these fields that they were set on the device, over what the twin wants.
pub(crate) fn mark_local<S: Settings>(
    report: &mut Map<String, Value>,
    in_force: &S,
    local: &Map<String, Value>,
) {
    let values = object(in_force);
    for field in local.keys() {
        let value = values.get(field).cloned().unwrap_or_default();
        let text = "set on this device by the direct method setSettings, until the desired properties change";
        report.insert(field.clone(), acknowledgement(field, &value, 203, 0, text));
    }
}

fn acknowledgement(field: &str, value: &Value, code: u16, version: u64, text: &str) -> Value {
    match check_value(value, 0) {
        Ok(()) => {
            json!({"value": redact::field(field, value), "ac": code, "av": version, "ad": shorten(text)})
        }
        Err(reason) => {
            let text = format!("{text} (the value cannot be reported: {reason})");
            json!({"ac": code, "av": version, "ad": shorten(&text)})
        }
    }
}

/// Takes the largest values out until the report is small enough for edgeHub.
fn shrink(report: &mut Map<String, Value>) {
    let size = |value: &Value| value.to_string().len();
    while report.iter().map(|(name, answer)| name.len() + size(answer) + 4).sum::<usize>() > REPORT_BYTES {
        let largest = report
            .values_mut()
            .filter(|answer| answer.get("value").is_some_and(|value| !value.is_null()))
            .max_by_key(|answer| answer.get("value").map_or(0, size));
        let Some(Value::Object(answer)) = largest else { return };
        answer.insert("value".to_owned(), Value::Null);
    }
}

fn shorten(text: &str) -> String {
    let clean: String = text.chars().map(|sign| if sign.is_control() { ' ' } else { sign }).collect();
    if clean.chars().count() <= TEXT {
        clean
    } else {
        clean.chars().take(TEXT - 3).chain("...".chars()).collect()
    }
}

/// Would edgeHub take this as a part of the reported section?
fn check_value(value: &Value, depth: usize) -> Result<(), &'static str> {
    if depth > DEPTH {
        return Err("it is too deep");
    }
    match value {
        Value::Number(number) => {
            let whole = number.as_i64().is_some() || number.as_u64().is_some();
            let fits = number.as_i64().is_some_and(|number| (-INTEGER..INTEGER).contains(&number));
            if !whole || fits { Ok(()) } else { Err("a number is beyond 2^52") }
        }
        Value::String(text) if text.len() > STRING_BYTES => Err("a text is longer than 4096 bytes"),
        Value::Null | Value::Bool(_) | Value::String(_) => Ok(()),
        Value::Array(items) => items.iter().try_for_each(|item| {
            if item.is_null() { Err("a list holds null") } else { check_value(item, depth + 1) }
        }),
        Value::Object(object) => object.iter().try_for_each(|(name, value)| {
            check_name(name)?;
            check_value(value, depth + 1)
        }),
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > NAME_BYTES {
        return Err("a name is empty or longer than 1024 bytes");
    }
    let wrong = |sign: char| sign.is_control() || matches!(sign, ' ' | '.' | '$' | '#');
    if name.contains(wrong) { Err("a name holds a blank, '.', '$' or '#'") } else { Ok(()) }
}

/// The merge patch that makes the reported section `new`, if it was `old` or something that lacks parts of it:
/// everything of `new`, and `null` for what only `old` has.
pub(crate) fn patch(old: &Map<String, Value>, new: &Map<String, Value>) -> Map<String, Value> {
    let mut patch = Map::new();
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, value) in new {
        let value = match (old.get(name), value) {
            (Some(Value::Object(old)), Value::Object(new)) => Value::Object(self::patch(old, new)),
            _ => value.clone(),
        };
        patch.insert(name.clone(), value);
    }
    patch
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::testing::Lamp;

    fn layers(variables: &[(&str, &str)]) -> Layers<Lamp> {
        let variables: BTreeMap<_, _> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Layers::read(&variables).unwrap()
    }

    fn desired(version: u64, properties: Value) -> Desired {
        Desired { version, properties: serde_json::from_value(properties).unwrap() }
    }

    #[test]
    fn each_field_is_acknowledged_with_value_code_version_and_text() {
        let layers = layers(&[("SHUNT_LAMP_NAME", "desk")]);
        let twin = desired(7, json!({"watts": 9}));
        let in_force = layers.with(&twin.properties).unwrap();
        let report = report(&layers, &in_force, &twin, &twin.properties, Outcome::Applied);
        assert_eq!(
            Value::Object(report),
            json!({
                "watts": {"value": 9.0, "ac": 200, "av": 7, "ad": "applied"},
                "name": {"value": "desk", "ac": 203, "av": 0, "ad": "set by SHUNT_LAMP_NAME"},
                "colour": {"value": "warm", "ac": 203, "av": 0, "ad": "default"},
                "zones": {"value": {}, "ac": 203, "av": 0, "ad": "default"},
                "limit": {"value": null, "ac": 203, "av": 0, "ad": "default"},
            })
        );
    }

    #[test]
    fn a_password_in_an_address_is_not_reported() {
        let layers = layers(&[]);
        let twin = desired(7, json!({"name": "x://u:secret@h"}));
        let in_force = layers.with(&twin.properties).unwrap();
        assert_eq!(in_force.name, "x://u:secret@h");
        let answer = report(&layers, &in_force, &twin, &twin.properties, Outcome::Applied);
        let expected = json!({"value": "x://***@h", "ac": 200, "av": 7, "ad": "applied"});
        assert_eq!(answer["name"], expected);
        let twin = desired(8, json!({"name": "x://u:secret@a-host-too-long"}));
        let problems = layers.with(&twin.properties).unwrap_err();
        assert!(!problems.to_string().contains("secret"), "{problems}");
        let answer = report(&layers, &in_force, &twin, &Map::new(), Outcome::Refused(&problems));
        assert!(!Value::Object(answer).to_string().contains("secret"));
    }

    #[test]
    fn a_refused_twin_is_answered_field_by_field_with_the_values_still_in_force() {
        let layers = layers(&[]);
        let last_good = desired(7, json!({"watts": 9, "limit": 4}));
        let in_force = layers.with(&last_good.properties).unwrap();
        let twin = desired(8, json!({"watts": 9, "name": "x", "colour": "cold", "shade": 1}));
        let problems = layers.with(&twin.properties).unwrap_err();
        let report = report(&layers, &in_force, &twin, &last_good.properties, Outcome::Refused(&problems));
        let together = "not applied, because refused with it: name, shade";
        assert_eq!(
            Value::Object(report),
            json!({
                "watts": {"value": 9.0, "ac": 200, "av": 8, "ad": "in force"},
                "name": {"value": "lamp", "ac": 400, "av": 8,
                    "ad": "it is \"x\", but must have 2 to 20 characters"},
                "colour": {"value": "warm", "ac": 400, "av": 8, "ad": together},
                "zones": {"value": {}, "ac": 203, "av": 0, "ad": "default"},
                "limit": {"value": 4, "ac": 400, "av": 8, "ad": together},
                "shade": {"ac": 400, "av": 8,
                    "ad": "there is no such field; allowed are watts, name, colour, zones, limit"},
            })
        );
    }

    #[test]
    fn what_edgehub_would_refuse_is_left_out_and_said() {
        assert!(check_value(&json!("x".repeat(4096)), 0).is_ok());
        assert!(check_value(&json!("x".repeat(4097)), 0).is_err());
        assert!(check_value(&json!({"a.b": 1}), 0).is_err());
        assert!(check_value(&json!({"a b": 1}), 0).is_err());
        assert!(check_value(&json!([1, null]), 0).is_err());
        assert!(check_value(&json!(1_u64 << 52), 0).is_err());
        assert!(check_value(&json!((1_i64 << 52) - 1), 0).is_ok());
        assert!(check_value(&json!(1e30), 0).is_ok());
        let deep = (0..9).fold(json!(1), |inner, _| json!({"a": inner}));
        assert!(check_value(&deep, 0).is_err());
        let answer = acknowledgement("x", &json!({"front.door": 1}), 203, 0, "default");
        assert_eq!(answer["value"], Value::Null);
        assert!(answer["ad"].as_str().unwrap().contains("cannot be reported"), "{answer}");
    }

    #[test]
    fn a_report_beyond_edgehub_s_limit_loses_its_largest_values_only() {
        let mut report = Map::new();
        for name in 0..10 {
            let answer = acknowledgement("x", &json!("x".repeat(3_500 + name)), 200, 1, "applied");
            report.insert(format!("field{name}"), answer);
        }
        shrink(&mut report);
        assert!(Value::Object(report.clone()).to_string().len() <= 32 * 1024);
        assert_eq!(report["field9"]["value"], Value::Null);
        assert_ne!(report["field0"]["value"], Value::Null);
        assert_eq!(report["field9"]["ac"], 200);
    }

    #[test]
    fn facts_stand_beside_the_verdicts_and_what_cannot_be_told_is_left_out() {
        let verdicts = |name: &str| Map::from_iter([(name.to_owned(), json!({"value": 1, "ac": 200}))]);
        let facts = json!({
            "serving": {"model": "small", "ms": 1.5},
            "watts": 7,
            "a b": 1,
            "long": "x".repeat(5000),
            "rows": ["x".repeat(4090), "y".repeat(4090)],
        });
        let facts = serde_json::from_value(facts).unwrap();
        let report = with_facts(verdicts("watts"), &facts);
        let expected = json!({"watts": {"value": 1, "ac": 200}, "serving": {"model": "small", "ms": 1.5}});
        assert_eq!(Value::Object(report), expected);
    }

    #[test]
    fn what_is_gone_is_deleted_by_name() {
        let object = |value: Value| serde_json::from_value::<Map<String, Value>>(value).unwrap();
        let old =
            object(json!({"shade": {"ac": 400}, "zones": {"value": {"a": {"level": 1}, "b": 2}, "ac": 200}}));
        let new = object(json!({"zones": {"value": {"a": {"level": 2}}, "ac": 200}}));
        assert_eq!(
            Value::Object(patch(&old, &new)),
            json!({"shade": null, "zones": {"value": {"b": null, "a": {"level": 2}}, "ac": 200}})
        );
    }
}
