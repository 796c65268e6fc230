//! Rules in a file, JSON or TOML, with the line and column of what is wrong.

use std::{collections::BTreeMap, fmt};

use serde_json::{Map, Number, Value, value::RawValue};
use toml::de::{DeTable, DeValue};

use crate::{Limits, Problem, RuleSet};

/// The largest file, in bytes.
pub const MAX_FILE: usize = 1024 * 1024;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// As the twin is: `{"rules": {"name": {...}}}`.
    Json,
    /// `[rules.name]`.
    Toml,
}

/// What is wrong with a file of rules, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its line, from 1.
    pub line: u32,
    /// Its column, from 1, in characters.
    pub column: u32,
    /// The rule; empty where it is about the whole file.
    pub rule: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

/// A value and where it is in the file.
#[derive(Debug)]
struct Located {
    value: Value,
    /// Its first and last byte.
    span: (usize, usize),
    parts: Vec<(String, Located)>,
}

/// The rules of a file, by name. They are not checked.
///
/// # Errors
///
/// It is not in its format, or has no rules.
pub fn read_rules(text: &str, format: Format) -> Result<BTreeMap<String, Value>, Vec<Finding>> {
    Ok(rules(&read(text, format)?, text)?
        .into_iter()
        .map(|(name, rule)| (name, rule.value.clone()))
        .collect())
}

/// Checks and compiles the rules of a file.
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn check_file(text: &str, format: Format, limits: &Limits) -> Result<RuleSet, Vec<Finding>> {
    let file = read(text, format)?;
    let rules = rules(&file, text)?;
    RuleSet::compile(rules.iter().map(|(name, rule)| (name.as_str(), &rule.value)), limits).map_err(
        |problems| {
            let mut findings: Vec<_> = problems
                .into_iter()
                .map(|(name, problem)| {
                    let rule = rules.get(&name).copied().unwrap_or(&file);
                    let byte = rule.place(text, &problem);
                    let message = if problem.path.is_empty() {
                        problem.message
                    } else {
                        format!("{}: {}", problem.path.join("."), problem.message)
                    };
                    Finding::at(text, byte, name, message)
                })
                .collect();
            findings.sort_by_key(|finding| (finding.line, finding.column));
            findings
        },
    )
}

fn read(text: &str, format: Format) -> Result<Located, Vec<Finding>> {
    if text.len() > MAX_FILE {
        let message = format!("the file has {} bytes, {MAX_FILE} are allowed", text.len());
        return Err(vec![Finding::at(text, 0, String::new(), message)]);
    }
    match format {
        Format::Json => read_json(text),
        Format::Toml => read_toml(text),
    }
    .map_err(|finding| vec![finding])
}

/// The rules of a file, by name.
fn rules<'a>(file: &'a Located, text: &str) -> Result<BTreeMap<String, &'a Located>, Vec<Finding>> {
    let wrong = |byte: usize, message: &str| vec![Finding::at(text, byte, String::new(), message.to_owned())];
    let mut found = None;
    for (name, part) in &file.parts {
        if name == "rules" {
            found = Some(part);
        } else if name != "$schema" {
            return Err(wrong(
                part.span.0,
                &format!("there is no {name:?} here; rules stand under \"rules\""),
            ));
        }
    }
    let rules = found.ok_or_else(|| wrong(0, "there is no \"rules\": a map of names to rules"))?;
    if !rules.value.is_object() {
        return Err(wrong(rules.span.0, "\"rules\" must be a map of names to rules"));
    }
    Ok(rules.parts.iter().map(|(name, rule)| (name.clone(), rule)).collect())
}

fn read_json(text: &str) -> Result<Located, Finding> {
    let wrong = |error: serde_json::Error| {
        let (line, column) = (error.line().max(1) as u32, error.column().max(1) as u32);
        let whole = error.to_string();
        // The place is told beside it.
        let message = whole.split(" at line ").next().unwrap_or(&whole).to_owned();
        Finding { line, column, rule: String::new(), message }
    };
    // Only a whole value has a bound of depth: what it refuses is not read in parts.
    serde_json::from_str::<Value>(text).map_err(wrong)?;
    Ok(locate_json(text, serde_json::from_str(text).map_err(wrong)?))
}

fn locate_json(text: &str, raw: &RawValue) -> Located {
    let start = (raw.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    let span = (start, start + raw.get().len());
    // What was read once as a whole can be read in parts.
    let parts: Vec<(String, Located)> = if let Ok(map) =
        serde_json::from_str::<BTreeMap<String, &RawValue>>(raw.get())
    {
        map.into_iter().map(|(name, raw)| (name, locate_json(text, raw))).collect()
    } else if let Ok(list) = serde_json::from_str::<Vec<&RawValue>>(raw.get()) {
        list.into_iter().enumerate().map(|(index, raw)| (index.to_string(), locate_json(text, raw))).collect()
    } else {
        Vec::new()
    };
    Located { value: serde_json::from_str(raw.get()).unwrap_or_default(), span, parts }
}

fn read_toml(text: &str) -> Result<Located, Finding> {
    let table = DeTable::parse(text).map_err(|error| {
        let byte = error.span().map_or(0, |span| span.start);
        Finding::at(text, byte, String::new(), error.message().to_owned())
    })?;
    let span = (table.span().start, table.span().end);
    locate_table(text, table.get_ref(), span)
}

fn locate_table(text: &str, table: &DeTable<'_>, span: (usize, usize)) -> Result<Located, Finding> {
    let (mut parts, mut map) = (Vec::new(), Map::new());
    for (name, value) in table {
        let located = locate_toml(text, value.get_ref(), (value.span().start, value.span().end))?;
        let name = name.get_ref().to_string();
        map.insert(name.clone(), located.value.clone());
        parts.push((name, located));
    }
    Ok(Located { value: Value::Object(map), span, parts })
}

fn locate_toml(text: &str, value: &DeValue<'_>, span: (usize, usize)) -> Result<Located, Finding> {
    let wrong = |what: &str| Finding::at(text, span.0, String::new(), what.to_owned());
    let plain = match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Integer(number) => {
            let whole = i64::from_str_radix(number.as_str(), number.radix());
            Value::from(whole.map_err(|_| wrong("the number is too large"))?)
        }
        DeValue::Float(number) => {
            let number = number.as_str().parse().ok().and_then(Number::from_f64);
            Value::Number(number.ok_or_else(|| wrong("JSON has no such number"))?)
        }
        DeValue::Datetime(_) => return Err(wrong("rules have no dates")),
        DeValue::Array(list) => {
            let mut parts = Vec::new();
            for (index, element) in list.iter().enumerate() {
                let span = (element.span().start, element.span().end);
                parts.push((index.to_string(), locate_toml(text, element.get_ref(), span)?));
            }
            let list = parts.iter().map(|(_, part)| part.value.clone()).collect();
            return Ok(Located { value: Value::Array(list), span, parts });
        }
        DeValue::Table(table) => return locate_table(text, table, span),
    };
    Ok(Located { value: plain, span, parts: Vec::new() })
}

// === impl Located ===

impl Located {
    /// The byte of a problem of this rule.
    fn place(&self, text: &str, problem: &Problem) -> usize {
        let mut at = self;
        for name in &problem.path {
            match at.parts.iter().find(|(known, _)| known == name) {
                Some((_, part)) => at = part,
                None => break,
            }
        }
        match (problem.inside, &at.value) {
            (Some((line, column)), Value::String(value)) => at.inside(text, value, line, column),
            _ => at.span.0,
        }
    }

    /// The byte of this line and column of a text; its beginning where the file writes it otherwise than it is.
    fn inside(&self, text: &str, value: &str, line: u32, column: u32) -> usize {
        let (start, end) = self.span;
        let written = text.get(start..end).unwrap_or_default();
        let Some(begin) = written.find(value) else { return start };
        let lines = value.split_inclusive('\n').take(line.saturating_sub(1) as usize);
        let before: usize = lines.map(str::len).sum();
        let rest = value.get(before..).unwrap_or_default();
        let within: usize = rest.chars().take(column.saturating_sub(1) as usize).map(char::len_utf8).sum();
        start + begin + before + within
    }
}

// === impl Finding ===

impl Finding {
    fn at(text: &str, byte: usize, rule: String, message: String) -> Self {
        let place = crate::ExpressionError::at(text, byte, "");
        Self { line: place.line, column: place.column, rule, message }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: ", self.line, self.column)?;
        if !self.rule.is_empty() {
            write!(formatter, "{}: ", self.rule)?;
        }
        formatter.write_str(&self.message)
    }
}

// === impl Format ===

impl Format {
    /// By the name of the file: `.toml`, else JSON.
    pub fn of(file: &str) -> Self {
        let extension = file.rsplit_once('.').map(|(_, extension)| extension);
        if extension.is_some_and(|extension| extension.eq_ignore_ascii_case("toml")) {
            Self::Toml
        } else {
            Self::Json
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, format: Format, expected: &[&str]) {
        let findings = check_file(text, format, &Limits::default()).unwrap_err();
        let found: Vec<_> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found:?} does not begin with {expected:?}");
        }
    }

    #[test]
    fn what_is_wrong_in_toml_is_told_with_its_place() {
        check("[rules.a]\nfrom = [\"emotion\"]\nwhen = \"kind >\"\n", Format::Toml, &["3:15: a: when: "]);
        let text = "[rules.a]\nfrom = [\"emotion\", \"+\"]\nwhere = \"data.x > 1 && nothing\"\nwhen = \"true\"\n\n[rules.b]\nfrom = [\"emotion\"]\nwindow = {tumbling = \"5 minutes\"}\n";
        check(
            text,
            Format::Toml,
            &[
                "2:20: a: from.1:",
                "3:24: a: where: there is no \"nothing\" here",
                "8:22: b: window.tumbling:",
            ],
        );
        check("[rules.a\n", Format::Toml, &["1:9: "]);
        check("[rule.a]\n", Format::Toml, &["1:"]);
        check("", Format::Toml, &["1:1: there is no \"rules\""]);
    }

    #[test]
    fn what_is_wrong_in_json_is_told_with_its_place() {
        let text = "{\"rules\": {\n  \"a\": {\"from\": [\"emotion\"],\n    \"when\": \"kind > 'x\"}\n}}";
        check(text, Format::Json, &["3:21: a: when: "]);
        let text = "{\"rules\": {\n  \"a\": {\"from\": [\"emotion\"], \"whem\": \"true\"}\n}}";
        check(text, Format::Json, &["2:38: a: whem: unknown field `whem`"]);
        check("{\"rules\": [}", Format::Json, &["1:12: expected value"]);
        let deep = format!("{{\"rules\": {}", "[".repeat(100_000));
        check(&deep, Format::Json, &["1:137: recursion limit exceeded"]);
        check("{\"rules\": 1}", Format::Json, &["1:11: \"rules\" must be"]);
    }

    #[test]
    fn the_place_in_a_text_of_many_lines_is_found() {
        let text = "[rules.a]\nfrom = [\"emotion\"]\nwhen = '''\ndata.x > 1\n  && wrong\n'''\n";
        check(text, Format::Toml, &["5:6: a: when: there is no \"wrong\""]);
    }
}
