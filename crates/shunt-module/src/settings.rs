//! Settings: their layers, their checks, and the words for what is wrong with them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{redact, schema::Fields, start::VARIABLES};

/// The settings of a module: one flat typed struct with `#[serde(default, deny_unknown_fields)]`, whose doc
/// comments and defaults make the reference table, whose fields are the twin's desired properties, and whose
/// environment variables are `SHUNT_<MODULE>_<FIELD>` (for example `SHUNT_CAMERA_SOURCE`).
pub trait Settings:
    Serialize + DeserializeOwned + JsonSchema + Default + Clone + PartialEq + Send + Sync + 'static
{
    /// The module's name: `camera`.
    const MODULE: &'static str;

    /// Rules that types cannot tell: notes each broken one.
    fn check(&self, problems: &mut Problems);
}

/// What is wrong with settings, field by field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(Vec<(String, String)>);

// === impl Problems ===

impl Problems {
    /// Notes a problem: the field, and a sentence that says what was wrong and what is allowed.
    ///
    /// A part of a field is named with dots (`kinds.emotion`); it is answered at the field. What stands before the
    /// `@` of an address in the sentence is replaced by `***`: the sentence goes to the log and the twin.
    pub fn note(&mut self, field: &str, problem: impl Into<String>) {
        self.0.push((field.to_owned(), redact::text(&problem.into()).into_owned()));
    }

    /// Nothing wrong?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All notes: field, problem.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(field, problem)| (field.as_str(), problem.as_str()))
    }

    /// What is wrong with this field and its parts; nothing if nothing is.
    pub(crate) fn of(&self, field: &str) -> Option<String> {
        let mut texts = Vec::new();
        for (noted, problem) in self.iter() {
            match noted.strip_prefix(field) {
                Some("") => texts.push(problem.to_owned()),
                Some(part) if part.starts_with('.') => {
                    texts.push(format!("{}: {problem}", part.trim_start_matches('.')));
                }
                _ => {}
            }
        }
        if texts.is_empty() { None } else { Some(texts.join("; ")) }
    }

    /// The fields with problems, each once.
    pub(crate) fn fields(&self) -> Vec<&str> {
        let mut fields: Vec<_> =
            self.iter().map(|(field, _)| field.split('.').next().unwrap_or(field)).collect();
        fields.sort_unstable();
        fields.dedup();
        fields
    }
}

impl std::fmt::Display for Problems {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (field, problem)) in self.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(formatter, "{separator}{field}: {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// One unusable environment variable: what makes a module end with exit code 78.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable} is {value:?}: {rule}")]
pub struct BadVariable {
    /// The variable.
    pub variable: String,
    /// Its value, or the default's where it is not set.
    pub value: String,
    /// What is wrong with it and what is allowed.
    pub rule: String,
}

/// The environment variable of a field: `SHUNT_<MODULE>_<FIELD>`.
pub(crate) fn variable(module: &str, field: &str) -> String {
    format!("SHUNT_{}_{}", module.to_ascii_uppercase().replace('-', "_"), field.to_ascii_uppercase())
}

/// Defaults and environment, upon which the desired properties of the twin are laid.
#[derive(Debug, Clone)]
pub(crate) struct Layers<S> {
    fields: Fields,
    defaults: Map<String, Value>,
    environment: Map<String, Value>,
    settings: std::marker::PhantomData<fn() -> S>,
}

// === impl Layers ===

impl<S: Settings> Layers<S> {
    /// Reads the module's variables. Names every variable that cannot be used, also those that no field has.
    ///
    /// Text fields take the variable as it is, other fields take JSON. An empty variable counts as not set.
    pub(crate) fn read(environment: &BTreeMap<String, String>) -> Result<Self, Vec<BadVariable>> {
        let (fields, defaults) = (Fields::of::<S>(), object(&S::default()));
        let prefix = variable(S::MODULE, "");
        let (mut values, mut bad) = (Map::new(), Vec::new());
        for (name, text) in environment.range(prefix.clone()..) {
            let Some(field) = name.strip_prefix(&prefix) else { break };
            // The module `bus` finds SHUNT_BUS_URL and the like among its own, and every module reads those.
            if VARIABLES.iter().any(|(common, _, _)| common == name) {
                continue;
            }
            let field = field.to_ascii_lowercase();
            let problem = if !fields.contains(&field) {
                fields.unknown()
            } else if text.is_empty() {
                continue;
            } else {
                match parse::<S>(&defaults, &field, text) {
                    Ok(value) => {
                        values.insert(field, value);
                        continue;
                    }
                    Err(error) => format!("{error}; allowed is {}", fields.allowed(&field)),
                }
            };
            bad.push(BadVariable { variable: name.clone(), value: text.clone(), rule: problem });
        }
        let layers = Self { fields, defaults, environment: values, settings: std::marker::PhantomData };
        if let Err(problems) = layers.with(&Map::new()) {
            for field in problems.fields() {
                let name = variable(S::MODULE, field);
                let value = match environment.get(&name) {
                    Some(text) => text.clone(),
                    None => layers.defaults.get(field).map(Value::to_string).unwrap_or_default(),
                };
                if !bad.iter().any(|known| known.variable == name) {
                    let rule = problems.of(field).unwrap_or_default();
                    bad.push(BadVariable { variable: name, value, rule });
                }
            }
        }
        if bad.is_empty() { Ok(layers) } else { Err(bad) }
    }

    /// The settings that result when these desired properties are laid over the other layers, or everything that
    /// is wrong with them. A `null` property falls back to the layer below.
    pub(crate) fn with(&self, desired: &Map<String, Value>) -> Result<S, Problems> {
        let mut problems = Problems::default();
        let mut merged = self.defaults.clone();
        merged.extend(self.environment.clone());
        for (field, value) in desired.iter().filter(|(_, value)| !value.is_null()) {
            if !self.fields.contains(field) {
                problems.note(field, self.fields.unknown());
            } else if let Err(error) = single::<S>(&self.defaults, field, value.clone()) {
                // The reader's words quote the value.
                let error =
                    if redact::is_secret(field) { "it cannot be read".to_owned() } else { error.to_string() };
                problems.note(field, format!("{error}; allowed is {}", self.fields.allowed(field)));
            } else {
                merged.insert(field.clone(), value.clone());
            }
        }
        match serde_json::from_value::<S>(Value::Object(merged)) {
            Ok(settings) => {
                let mut broken = Problems::default();
                settings.check(&mut broken);
                let known: Vec<_> = problems.fields().into_iter().map(ToOwned::to_owned).collect();
                for (field, problem) in broken.iter() {
                    if !known.iter().any(|known| field.split('.').next() == Some(known)) {
                        problems.note(field, problem);
                    }
                }
                if problems.is_empty() { Ok(settings) } else { Err(problems) }
            }
            Err(error) => {
                // Fields that are right one by one but wrong together: only a hand-written reader does that.
                if problems.is_empty() {
                    for field in desired.keys() {
                        problems.note(field, error.to_string());
                    }
                }
                Err(problems)
            }
        }
    }

    pub(crate) fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Does the environment set this field?
    pub(crate) fn in_environment(&self, field: &str) -> bool {
        self.environment.contains_key(field)
    }

    /// The value as the settings would hold it (5 becomes 5.0 in a field of that type).
    pub(crate) fn normal(&self, field: &str, value: &Value) -> Option<Value> {
        object(&single::<S>(&self.defaults, field, value.clone()).ok()?).remove(field)
    }
}

/// The settings as JSON. Structs always make objects.
pub(crate) fn object<S: Serialize>(settings: &S) -> Map<String, Value> {
    match serde_json::to_value(settings) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

/// The default settings with one field set.
fn single<S: Settings>(
    defaults: &Map<String, Value>,
    field: &str,
    value: Value,
) -> Result<S, serde_json::Error> {
    let mut settings = defaults.clone();
    settings.insert(field.to_owned(), value);
    serde_json::from_value(Value::Object(settings))
}

/// Reads a variable: as text where the field takes text, else as JSON.
fn parse<S: Settings>(defaults: &Map<String, Value>, field: &str, text: &str) -> Result<Value, String> {
    let plain = Value::String(text.to_owned());
    match single::<S>(defaults, field, plain.clone()) {
        Ok(_) => Ok(plain),
        Err(error) => match serde_json::from_str::<Value>(text) {
            Err(_) => Err(error.to_string()),
            Ok(value) => match single::<S>(defaults, field, value.clone()) {
                Ok(_) => Ok(value),
                Err(error) => Err(error.to_string()),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::Lamp;

    fn read(variables: &[(&str, &str)]) -> Result<Layers<Lamp>, Vec<BadVariable>> {
        Layers::read(
            &variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        )
    }

    fn desired(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_twin_lies_over_the_environment_and_that_over_the_defaults() {
        let layers =
            read(&[("SHUNT_LAMP_NAME", "55"), ("SHUNT_LAMP_ZONES", r#"{"a": {"level": 3}}"#)]).unwrap();
        let settings = layers.with(&desired(json!({"watts": 7, "zones": null}))).unwrap();
        assert_eq!((settings.watts, settings.name.as_str()), (7.0, "55"));
        assert_eq!(settings.zones["a"].level, 3);
        assert_eq!(layers.with(&desired(json!({"name": "twin"}))).unwrap().name, "twin");
        assert_eq!(layers.with(&desired(json!({"name": null}))).unwrap().name, "55");
    }

    #[test]
    fn an_empty_variable_counts_as_not_set() {
        assert_eq!(read(&[("SHUNT_LAMP_WATTS", "")]).unwrap().with(&Map::new()).unwrap(), Lamp::default());
    }

    #[test]
    fn other_modules_variables_and_common_ones_are_left_alone() {
        read(&[("SHUNT_BUS_URL", "x"), ("SHUNT_LAMPION_X", "y"), ("SHUNT_LAM", "z")]).unwrap();
    }

    #[test]
    fn every_bad_variable_is_named_with_its_value_and_the_rule() {
        let bad = read(&[
            ("SHUNT_LAMP_WATTS", "bright"),
            ("SHUNT_LAMP_COLOUR", "blue"),
            ("SHUNT_LAMP_WATT", "7"),
            ("SHUNT_LAMP_NAME", "x"),
        ])
        .unwrap_err();
        let texts: Vec<_> = bad.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                r#"SHUNT_LAMP_COLOUR is "blue": unknown variant `blue`, expected `warm` or `cold`; allowed is "warm" or "cold""#,
                r#"SHUNT_LAMP_WATT is "7": there is no such field; allowed are watts, name, colour, zones, limit"#,
                r#"SHUNT_LAMP_WATTS is "bright": invalid type: string "bright", expected f64; allowed is a number"#,
                r#"SHUNT_LAMP_NAME is "x": it is "x", but must have 2 to 20 characters"#,
            ]
        );
    }

    #[test]
    fn all_problems_of_a_twin_are_told_at_once() {
        let problems = read(&[])
            .unwrap()
            .with(&desired(json!({"watts": "much", "shade": 1, "name": "", "limit": 3})))
            .unwrap_err();
        let texts: Vec<_> = problems.iter().map(|(field, problem)| format!("{field}: {problem}")).collect();
        assert_eq!(
            texts,
            [
                r#"watts: invalid type: string "much", expected f64; allowed is a number"#,
                "shade: there is no such field; allowed are watts, name, colour, zones, limit",
                r#"name: it is "", but must have 2 to 20 characters"#,
            ]
        );
    }

    #[test]
    fn a_part_of_a_field_is_answered_at_the_field() {
        let mut problems = Problems::default();
        problems.note("zones.a", "too high");
        problems.note("zones", "too many");
        problems.note("zonesx", "other");
        assert_eq!(problems.of("zones").unwrap(), "a: too high; too many");
        assert_eq!(problems.fields(), ["zones", "zonesx"]);
    }
}
