//! Texts and JSON with expressions in them: `${n} faces at ${group.source}`.

use serde_json::{Map, Value};

use crate::{
    event::{Paths, View},
    expression::{Expression, ExpressionError, Names},
    value::plain,
};

/// The longest text that is filled in, and the most of one action, in bytes: nearly all of what an event may be.
const LONGEST: usize = crate::MAX_DATA;

/// A text with expressions in it.
#[derive(Debug)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug)]
enum Part {
    Text(String),
    Expression(Expression),
}

/// JSON whose texts may hold expressions.
#[derive(Debug)]
pub(crate) enum Form {
    Plain(Value),
    /// A text that is nothing but an expression becomes its value.
    Value(Expression),
    Text(Template),
    List(Vec<Form>),
    Object(Vec<(String, Form)>),
}

// === impl Template ===

impl Template {
    pub(crate) fn compile(text: &str, names: Names<'_>, paths: &mut Paths) -> Result<Self, ExpressionError> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some(start) = rest.find("${") {
            let (before, after) = rest.split_at(start);
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let inner = after.get(2..).unwrap_or_default();
            let place = text.len() - inner.len();
            let end = end_of(inner);
            let end = end.ok_or_else(|| ExpressionError::at(text, place - 2, "this ${ has no }"))?;
            let (expression, after) = inner.split_at(end);
            let compiled = Expression::compile(expression, names, paths);
            parts.push(Part::Expression(compiled.map_err(|error| moved(text, place, error))?));
            rest = after.get(1..).unwrap_or_default();
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self(parts))
    }

    /// The text.
    pub(crate) fn fill<'a>(&'a self, view: &View<'a>) -> Result<String, ExpressionError> {
        self.fill_within(view, &mut 0)
    }

    fn fill_within<'a>(&'a self, view: &View<'a>, filled: &mut usize) -> Result<String, ExpressionError> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Expression(expression) => {
                    let part = plain(&expression.evaluate(view)?.to_json());
                    grow(filled, part.len())?;
                    text.push_str(&part);
                }
            }
        }
        Ok(text)
    }
}

/// So much more is filled in.
fn grow(filled: &mut usize, more: usize) -> Result<(), ExpressionError> {
    *filled = filled.saturating_add(more);
    if *filled <= LONGEST {
        return Ok(());
    }
    let message = format!("what is filled in has more than the {LONGEST} bytes that are allowed");
    Err(ExpressionError::at("", 0, message))
}

/// Where the `}` of a `${` is, past those in texts and maps.
fn end_of(inner: &str) -> Option<usize> {
    let (mut quote, mut escaped, mut depth) = (None, false, 0_u32);
    for (place, sign) in inner.char_indices() {
        match (quote, sign) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), sign) if sign == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(sign),
            (None, '{') => depth += 1,
            (None, '}') if depth == 0 => return Some(place),
            (None, '}') => depth -= 1,
            _ => {}
        }
    }
    None
}

/// An error of an expression that begins at this byte of a text.
fn moved(text: &str, start: usize, error: ExpressionError) -> ExpressionError {
    let place = ExpressionError::at(text, start, "");
    let column = if error.line == 1 { place.column + error.column - 1 } else { error.column };
    ExpressionError { message: error.message, line: place.line + error.line - 1, column }
}

// === impl Form ===

impl Form {
    /// Compiles; an error comes with the way to the text.
    pub(crate) fn compile(
        value: &Value,
        names: Names<'_>,
        paths: &mut Paths,
    ) -> Result<Self, (Vec<String>, ExpressionError)> {
        let below = |name: String| {
            |(mut path, error): (Vec<String>, ExpressionError)| {
                path.insert(0, name);
                (path, error)
            }
        };
        Ok(match value {
            Value::String(text) if text.contains("${") => {
                let mut template =
                    Template::compile(text, names, paths).map_err(|error| (Vec::new(), error))?;
                match (template.0.pop(), template.0.is_empty()) {
                    (Some(Part::Expression(only)), true) => Self::Value(only),
                    (last, _) => {
                        template.0.extend(last);
                        Self::Text(template)
                    }
                }
            }
            Value::Array(list) => {
                let forms = list.iter().enumerate().map(|(index, value)| {
                    Self::compile(value, names, paths).map_err(below(index.to_string()))
                });
                Self::List(forms.collect::<Result<_, _>>()?)
            }
            Value::Object(map) => {
                let forms = map.iter().map(|(name, value)| {
                    Ok((name.clone(), Self::compile(value, names, paths).map_err(below(name.clone()))?))
                });
                Self::Object(forms.collect::<Result<_, _>>()?)
            }
            plain => Self::Plain(plain.clone()),
        })
    }

    pub(crate) fn fill<'a>(&'a self, view: &View<'a>) -> Result<Value, ExpressionError> {
        self.fill_within(view, &mut 0)
    }

    fn fill_within<'a>(&'a self, view: &View<'a>, filled: &mut usize) -> Result<Value, ExpressionError> {
        Ok(match self {
            Self::Plain(value) => value.clone(),
            Self::Value(expression) => {
                let value = expression.evaluate(view)?.to_json();
                let long = match &value {
                    Value::String(text) => text.len(),
                    Value::Array(_) | Value::Object(_) => value.to_string().len(),
                    _ => 0,
                };
                grow(filled, long)?;
                value
            }
            Self::Text(template) => Value::String(template.fill_within(view, filled)?),
            Self::List(list) => Value::Array(
                list.iter().map(|form| form.fill_within(view, filled)).collect::<Result<_, _>>()?,
            ),
            Self::Object(map) => {
                let mut object = Map::new();
                for (name, form) in map {
                    object.insert(name.clone(), form.fill_within(view, filled)?);
                }
                Value::Object(object)
            }
        })
    }
}
