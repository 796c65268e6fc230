//! Conditions at work: three-valued logic over bool, number, text, null and undefined.

use std::{cell::OnceCell, cmp::Ordering};

use serde_json::Value as Json;

use super::{
    RouteMessage,
    expression::{Arithmetic, Comparison, Expression, Function, Step},
};

/// A value; the order of the kinds is the order in which values of different kinds compare.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Undefined,
    Bool(bool),
    Number(f64),
    Text(String),
    Null,
}

/// One message, and its body once it was read.
#[derive(Debug)]
pub(super) struct Context<'a> {
    message: &'a RouteMessage,
    body: OnceCell<Option<Json>>,
}

// === impl Value ===

impl Value {
    fn of_bool(value: Option<bool>) -> Self {
        value.map_or(Self::Undefined, Self::Bool)
    }

    /// edgeHub uses NaN for an undefined number.
    fn of_number(value: f64) -> Self {
        if value.is_nan() { Self::Undefined } else { Self::Number(value) }
    }

    fn of_text(value: Option<&str>) -> Self {
        value.map_or(Self::Undefined, |text| Self::Text(text.to_owned()))
    }

    fn truth(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    fn number(&self) -> Option<f64> {
        match self {
            Self::Number(value) => Some(*value),
            _ => None,
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(value) => Some(value),
            _ => None,
        }
    }

    fn is_defined(&self) -> bool {
        *self != Self::Undefined
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Undefined => 0,
            Self::Bool(_) => 1,
            Self::Number(_) => 2,
            Self::Text(_) => 3,
            Self::Null => 4,
        }
    }

    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bool(left), Self::Bool(right)) => left.cmp(right),
            (Self::Number(left), Self::Number(right)) => left.partial_cmp(right).unwrap_or(Ordering::Equal),
            (Self::Text(left), Self::Text(right)) => left.cmp(right),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

// === impl Context ===

impl<'a> Context<'a> {
    pub(super) fn new(message: &'a RouteMessage) -> Self {
        Self { message, body: OnceCell::new() }
    }

    /// Is the condition true, and not false or undefined?
    pub(super) fn is_true(&self, condition: &Expression) -> bool {
        self.value(condition).truth() == Some(true)
    }

    fn value(&self, expression: &Expression) -> Value {
        match expression {
            Expression::Bool(value) => Value::Bool(*value),
            Expression::Number(value) => Value::of_number(*value),
            Expression::Text(value) => Value::Text(value.clone()),
            Expression::Null => Value::Null,
            Expression::Undefined => Value::Undefined,
            Expression::Property(name) => Value::of_text(self.message.property(name)),
            Expression::System(name) => {
                Value::of_text(self.message.property(name).or_else(|| self.system_property(name)))
            }
            Expression::SystemOnly(name) => Value::of_text(self.system_property(name)),
            Expression::Body { name, path } => match self.message.property(name) {
                Some(text) => Value::Text(text.to_owned()),
                None => self.body_value(path),
            },
            Expression::BodyOnly(path) => self.body_value(path),
            Expression::TwinChangeIncludes(path) => {
                Value::of_bool(self.body().map(|body| find(body, path).is_some()))
            }
            Expression::Negate(operand) => {
                self.value(operand).number().map_or(Value::Undefined, |number| Value::Number(-number))
            }
            Expression::Not(operand) => Value::of_bool(self.value(operand).truth().map(|value| !value)),
            Expression::Arithmetic(operator, pair) => self.arithmetic(*operator, &pair.0, &pair.1),
            Expression::Compare(operator, pair) => self.compare(*operator, &pair.0, &pair.1),
            Expression::And(pair) => {
                let pair = (self.value(&pair.0).truth(), self.value(&pair.1).truth());
                Value::of_bool(match pair {
                    (Some(false), _) | (_, Some(false)) => Some(false),
                    (Some(true), Some(true)) => Some(true),
                    _ => None,
                })
            }
            Expression::Or(pair) => {
                let pair = (self.value(&pair.0).truth(), self.value(&pair.1).truth());
                Value::of_bool(match pair {
                    (Some(true), _) | (_, Some(true)) => Some(true),
                    (Some(false), Some(false)) => Some(false),
                    _ => None,
                })
            }
            Expression::Coalesce(pair) => match self.value(&pair.0) {
                Value::Undefined => self.value(&pair.1),
                value => value,
            },
            Expression::Call(function, arguments) => {
                let arguments: Vec<Value> = arguments.iter().map(|argument| self.value(argument)).collect();
                call(*function, &arguments)
            }
        }
    }

    /// A system property by `$name`.
    fn system_property(&self, name: &str) -> Option<&str> {
        self.message.system_property(name.strip_prefix('$').unwrap_or(name))
    }

    fn arithmetic(&self, operator: Arithmetic, left: &Expression, right: &Expression) -> Value {
        let (Some(left), Some(right)) = (self.value(left).number(), self.value(right).number()) else {
            return Value::Undefined;
        };
        Value::of_number(match operator {
            Arithmetic::Add => left + right,
            Arithmetic::Subtract => left - right,
            Arithmetic::Multiply => left * right,
            Arithmetic::Divide => left / right,
            Arithmetic::Modulo => left % right,
        })
    }

    fn compare(&self, operator: Comparison, left: &Expression, right: &Expression) -> Value {
        let (left, right) = (self.value(left), self.value(right));
        if !left.is_defined() || !right.is_defined() {
            return Value::Undefined;
        }
        let order = left.order(&right);
        Value::Bool(match operator {
            Comparison::Equal => order.is_eq(),
            Comparison::NotEqual => order.is_ne(),
            Comparison::Less => order.is_lt(),
            Comparison::LessEqual => order.is_le(),
            Comparison::Greater => order.is_gt(),
            Comparison::GreaterEqual => order.is_ge(),
        })
    }

    /// A leaf of the body. Nothing there is `null`; an object, a list or no readable body is undefined.
    fn body_value(&self, path: &[Step]) -> Value {
        let Some(body) = self.body() else { return Value::Undefined };
        match find(body, path) {
            None | Some(Json::Null) => Value::Null,
            Some(Json::Bool(value)) => Value::Bool(*value),
            Some(Json::Number(value)) => value.as_f64().map_or(Value::Undefined, Value::of_number),
            // edgeHub's JSON reader makes a date of such a text, and a date is no value of the language.
            Some(Json::String(value)) if is_date_and_time(value) => Value::Undefined,
            Some(Json::String(value)) => Value::Text(value.clone()),
            Some(Json::Array(_) | Json::Object(_)) => Value::Undefined,
        }
    }

    /// The body, if it is a JSON object whose content type and encoding say that it is.
    fn body(&self) -> Option<&Json> {
        self.body.get_or_init(|| read_body(self.message)).as_ref()
    }
}

fn read_body(message: &RouteMessage) -> Option<Json> {
    // A twin change is JSON by its nature.
    if !message.is_twin_change {
        let content_type = message.system_property("contentType")?;
        if !content_type.eq_ignore_ascii_case("application/json") {
            return None;
        }
    }
    let encoding = match message.system_property("contentEncoding") {
        Some(encoding) => encoding.to_ascii_lowercase(),
        None if message.is_twin_change => "utf-8".to_owned(),
        None => return None,
    };
    let text = match encoding.as_str() {
        "utf-8" => String::from_utf8_lossy(&message.body).into_owned(),
        "utf-16" => {
            let units = message.body.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit));
            char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
        }
        "utf-32" => {
            let units = message.body.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit));
            units.map(|unit| char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
        }
        _ => return None,
    };
    let body: Json = serde_json::from_str(text.strip_prefix('\u{feff}').unwrap_or(&text)).ok()?;
    body.is_object().then_some(body)
}

fn find<'a>(body: &'a Json, path: &[Step]) -> Option<&'a Json> {
    path.iter().try_fold(body, |place, step| {
        let place = place.as_object()?.get(&step.name)?;
        match step.index {
            Some(index) => place.as_array()?.get(index),
            None => Some(place),
        }
    })
}

/// `2026-11-21T09:00:00`, with or without a fraction and a zone.
fn is_date_and_time(text: &str) -> bool {
    let shape = b"dddd-dd-ddTdd:dd:dd";
    let bytes = text.as_bytes();
    let Some((date, rest)) = bytes.split_at_checked(shape.len()) else { return false };
    let fits = date.iter().zip(shape).all(|(byte, wanted)| match wanted {
        b'd' => byte.is_ascii_digit(),
        wanted => byte == wanted,
    });
    let rest = match rest.strip_prefix(b".") {
        Some(fraction) => fraction.get(digits(fraction)..).unwrap_or_default(),
        None => rest,
    };
    let zone = match rest {
        [] | [b'Z'] => true,
        [b'+' | b'-', zone @ ..] => {
            matches!(zone, [a, b, b':', c, d] | [a, b, c, d] if [a, b, c, d].iter().all(|b| b.is_ascii_digit()))
        }
        _ => false,
    };
    fits && zone
}

fn digits(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

fn call(function: Function, arguments: &[Value]) -> Value {
    let first = arguments.first().unwrap_or(&Value::Undefined);
    let second = arguments.get(1).unwrap_or(&Value::Undefined);
    let math = |calculate: fn(f64) -> f64| {
        first.number().map_or(Value::Undefined, |x| Value::of_number(calculate(x)))
    };
    let texts = |test: fn(&str, &str) -> Value| match (first.text(), second.text()) {
        (Some(text), Some(part)) => test(text, part),
        _ => Value::Undefined,
    };
    match function {
        Function::Abs => math(f64::abs),
        Function::Exp => math(f64::exp),
        Function::Square => math(|x| x * x),
        Function::Ceiling => math(f64::ceil),
        Function::Floor => math(f64::floor),
        Function::Sign => math(|x| if x == 0.0 { 0.0 } else { x.signum() }),
        Function::Sqrt => math(f64::sqrt),
        Function::Power => match (first.number(), second.number()) {
            (Some(base), Some(exponent)) => Value::of_number(base.powf(exponent)),
            _ => Value::Undefined,
        },
        Function::AsNumber => match first {
            Value::Text(text) => as_number(text),
            Value::Number(number) => Value::Number(*number),
            _ => Value::Undefined,
        },
        Function::IsBool => Value::Bool(matches!(first, Value::Bool(_))),
        Function::IsDefined => Value::Bool(first.is_defined()),
        Function::IsNull => Value::Bool(matches!(first, Value::Null)),
        Function::IsNumber => Value::Bool(matches!(first, Value::Number(_))),
        Function::IsString => Value::Bool(matches!(first, Value::Text(_))),
        Function::Concat => {
            let texts: Option<Vec<&str>> = arguments.iter().map(Value::text).collect();
            texts.map_or(Value::Undefined, |texts| Value::Text(texts.concat()))
        }
        Function::Length => {
            first.text().map_or(Value::Undefined, |text| Value::Number(text.encode_utf16().count() as f64))
        }
        Function::Lower => first.text().map_or(Value::Undefined, |text| Value::Text(text.to_lowercase())),
        Function::Upper => first.text().map_or(Value::Undefined, |text| Value::Text(text.to_uppercase())),
        Function::Substring => substring(first, second, arguments.get(2)).unwrap_or(Value::Undefined),
        Function::IndexOf => texts(|text, part| match text.split_once(part) {
            Some((before, _)) => Value::Number(before.encode_utf16().count() as f64),
            None => Value::Number(-1.0),
        }),
        Function::StartsWith => texts(|text, part| Value::Bool(text.starts_with(part))),
        Function::EndsWith => texts(|text, part| Value::Bool(text.ends_with(part))),
        Function::Contains => texts(|text, part| Value::Bool(text.contains(part))),
    }
}

/// .NET reads blanks around a number and commas between thousands; it knows no `inf` or `nan` in small letters.
fn as_number(text: &str) -> Value {
    let text = text.trim().replace(',', "");
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'))
        || text.ends_with(['y', 'f', 'n', 'N'])
    {
        return Value::Undefined;
    }
    text.parse().map_or(Value::Undefined, Value::of_number)
}

/// Places and lengths count UTF-16 units, as .NET does.
fn substring(text: &Value, start: &Value, length: Option<&Value>) -> Option<Value> {
    let units: Vec<u16> = text.text()?.encode_utf16().collect();
    let start = start.number().filter(|start| *start >= 0.0)?;
    let rest = units.get(start as usize..)?;
    let part = match length {
        None => rest,
        Some(length) => {
            let length = length.number().filter(|length| *length >= 0.0)?;
            if rest.is_empty() {
                return None;
            }
            rest.get(..length as usize)?
        }
    };
    Some(Value::Text(String::from_utf16_lossy(part)))
}
