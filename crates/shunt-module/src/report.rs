//! The answer to desired properties in the reported twin: IoT Plug and Play's acknowledgement of each writable
//! property (iot-edge.md, section 10), within edgeHub's limits (section 3).

use serde_json::{Map, Value, json};
use shunt_hub::Desired;

use crate::{
    Problems, Settings,
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
        report.insert(field.to_owned(), acknowledgement(value, code, version, text));
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

/// The answer for a field that the twin does not set: 203 with version 0.
fn below<S: Settings>(layers: &Layers<S>, field: &str) -> (u16, u64, String) {
    let text = if layers.in_environment(field) {
        format!("set by {}", variable(S::MODULE, field))
    } else {
        "default".to_owned()
    };
    (203, 0, text)
}

fn acknowledgement(value: Value, code: u16, version: u64, text: String) -> Value {
    match check_value(&value, 0) {
        Ok(()) => json!({"value": value, "ac": code, "av": version, "ad": shorten(&text)}),
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
        Value::Null | Value::Bool(_) => Ok(()),
        Value::Number(number) => {
            let whole = number.as_i64().is_some() || number.as_u64().is_some();
            let fits = number.as_i64().is_some_and(|number| (-INTEGER..INTEGER).contains(&number));
            if !whole || fits { Ok(()) } else { Err("a number is beyond 2^52") }
        }
        Value::String(text) if text.len() > STRING_BYTES => Err("a text is longer than 4096 bytes"),
        Value::String(_) => Ok(()),
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
