//! The values that expressions work with: JSON's, borrowed from the event wherever they can be.

use std::{cmp::Ordering, rc::Rc};

use serde_json::{Number, Value};

/// A value of an expression.
#[derive(Debug, Clone)]
pub(crate) enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(&'a str),
    /// A text that an expression made.
    Made(Rc<str>),
    /// A list or an object of the event.
    Json(&'a Value),
    /// A list that an expression made.
    List(Rc<List<'a>>),
}

/// A list that an expression made. Its parts may be shared, so that it is much larger than what it takes.
#[derive(Debug)]
pub(crate) struct List<'a> {
    parts: Vec<Val<'a>>,
    /// Its size written out: see [`Val::size`].
    size: u32,
}

// === impl List ===

impl<'a> List<'a> {
    /// Of these parts; its size is counted to a little above `most`.
    pub(crate) fn new(parts: Vec<Val<'a>>, most: u32) -> Self {
        let mut size = 0_u32;
        for part in &parts {
            size = size.saturating_add(1).saturating_add(part.size(most.saturating_sub(size)));
            if size > most {
                break;
            }
        }
        Self { parts, size }
    }

    pub(crate) fn size(&self) -> u32 {
        self.size
    }
}

// === impl Val ===

impl<'a> Val<'a> {
    pub(crate) fn of(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => match number.as_i64() {
                Some(whole) => Self::Int(whole),
                None => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => Self::Text(text),
            Value::Array(_) | Value::Object(_) => Self::Json(value),
        }
    }

    /// Its type, as CEL calls it.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Double(_) => "double",
            Self::Text(_) | Self::Made(_) => "string",
            Self::Json(Value::Object(_)) => "map",
            Self::Json(_) | Self::List(_) => "list",
        }
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Made(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn as_number(&self) -> Option<f64> {
        match self {
            Self::Int(whole) => Some(*whole as f64),
            Self::Double(number) => Some(*number),
            _ => None,
        }
    }

    /// How much it is when all of it is looked at or written out: one for each part and for every 16 bytes of text.
    /// Above `most` it need not be right.
    pub(crate) fn size(&self, most: u32) -> u32 {
        match self {
            Self::Text(text) => text_size(text),
            Self::Made(text) => text_size(text),
            Self::Json(value) => json_size(value, most),
            Self::List(list) => list.size,
            _ => 0,
        }
    }

    /// Is it a list or a map?
    pub(crate) fn has_parts(&self) -> bool {
        matches!(self, Self::Json(_) | Self::List(_))
    }

    /// The elements of a list: how many there are.
    pub(crate) fn list_len(&self) -> Option<usize> {
        match self {
            Self::Json(Value::Array(list)) => Some(list.len()),
            Self::List(list) => Some(list.parts.len()),
            _ => None,
        }
    }

    pub(crate) fn list_get(&self, index: usize) -> Option<Val<'a>> {
        match self {
            Self::Json(Value::Array(list)) => list.get(index).map(Val::of),
            Self::List(list) => list.parts.get(index).cloned(),
            _ => None,
        }
    }

    /// CEL's equality: numbers by their value, whatever their type; values of different types are not equal.
    pub(crate) fn equals(&self, other: &Val<'_>) -> bool {
        if let (Some(one), Some(other)) = (self.as_text(), other.as_text()) {
            return one == other;
        }
        match (self, other) {
            (Val::Null, Val::Null) => true,
            (Val::Bool(one), Val::Bool(other)) => one == other,
            (Val::Int(one), Val::Int(other)) => one == other,
            (Val::Json(Value::Object(one)), Val::Json(Value::Object(other))) => {
                one.len() == other.len()
                    && one.iter().all(|(name, value)| {
                        other.get(name).is_some_and(|other| Val::of(value).equals(&Val::of(other)))
                    })
            }
            _ => match (self.as_number(), other.as_number(), self.list_len(), other.list_len()) {
                (Some(one), Some(other), ..) => one.partial_cmp(&other) == Some(Ordering::Equal),
                (_, _, Some(one), Some(length)) => {
                    one == length
                        && (0..one).all(|index| match (self.list_get(index), other.list_get(index)) {
                            (Some(one), Some(other)) => one.equals(&other),
                            _ => false,
                        })
                }
                _ => false,
            },
        }
    }

    /// CEL's order; nothing where the two have none.
    pub(crate) fn order(&self, other: &Val<'_>) -> Option<Ordering> {
        if let (Val::Int(one), Val::Int(other)) = (self, other) {
            return Some(one.cmp(other));
        }
        if let (Some(one), Some(other)) = (self.as_number(), other.as_number()) {
            return one.partial_cmp(&other);
        }
        if let (Some(one), Some(other)) = (self.as_text(), other.as_text()) {
            return Some(one.cmp(other));
        }
        match (self, other) {
            (Val::Bool(one), Val::Bool(other)) => Some(one.cmp(other)),
            _ => None,
        }
    }

    /// As JSON; a number that JSON has not is null. What an expression made has had its size counted as steps.
    pub(crate) fn to_json(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(whole) => Value::from(*whole),
            Self::Double(number) => json_number(*number),
            Self::Text(text) => Value::String((*text).to_owned()),
            Self::Made(text) => Value::String(text.to_string()),
            Self::Json(value) => (*value).clone(),
            Self::List(list) => Value::Array(list.parts.iter().map(Val::to_json).collect()),
        }
    }
}

fn text_size(text: &str) -> u32 {
    u32::try_from(text.len() / 16).unwrap_or(u32::MAX)
}

fn json_size(value: &Value, most: u32) -> u32 {
    let mut size = 0_u32;
    // One after the other, and none after the bound.
    let mut add = |more: u32, value: &Value| {
        if size <= most {
            let part = json_size(value, most - size);
            size = size.saturating_add(more).saturating_add(part);
        }
    };
    match value {
        Value::String(text) => return text_size(text),
        Value::Array(list) => list.iter().for_each(|value| add(1, value)),
        Value::Object(map) => map.iter().for_each(|(name, value)| add(1 + text_size(name), value)),
        _ => {}
    }
    size
}

/// A number as JSON; null where JSON has none.
pub(crate) fn json_number(number: f64) -> Value {
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

/// A value as a person reads it: a text as it is, anything else as JSON.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            // What was computed may have many digits that say nothing.
            Some(number) if number.fract() != 0.0 => {
                let text = format!("{number:.3}");
                let text = text.trim_end_matches('0').trim_end_matches('.');
                if text == "-0" { "0".to_owned() } else { text.to_owned() }
            }
            Some(whole) if number.as_i64().is_none() && whole.abs() < 1e15 => format!("{:.0}", whole + 0.0),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}
