//! What the fields of a settings struct are, in words: read from its JSON schema.

use schemars::JsonSchema;
use serde_json::{Map, Value};

use crate::Settings;

/// The fields of a settings struct.
#[derive(Debug, Clone)]
pub(crate) struct Fields {
    fields: Vec<Field>,
}

/// One field.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) name: String,
    /// What values it takes, in words.
    pub(crate) allowed: String,
    /// Its doc comment in one line.
    pub(crate) meaning: String,
}

// === impl Fields ===

impl Fields {
    pub(crate) fn of<S: Settings + JsonSchema>() -> Self {
        let schema = schemars::SchemaGenerator::default().into_root_schema_for::<S>();
        let root = schema.as_value();
        let none = Map::new();
        let properties = root.get("properties").and_then(Value::as_object).unwrap_or(&none);
        let fields = properties.iter().map(|(name, schema)| Field {
            name: name.clone(),
            allowed: words(root, schema, 0),
            meaning: schema
                .get("description")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "),
        });
        Self { fields: fields.collect() }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Field> {
        self.fields.iter()
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field.name == name)
    }

    /// What values the field takes, in words.
    pub(crate) fn allowed(&self, name: &str) -> &str {
        self.fields.iter().find(|field| field.name == name).map_or("nothing", |field| field.allowed.as_str())
    }

    /// What to say about a field that is none.
    pub(crate) fn unknown(&self) -> String {
        let names: Vec<_> = self.fields.iter().map(|field| field.name.as_str()).collect();
        format!("there is no such field; allowed are {}", names.join(", "))
    }
}

/// A schema in words. Objects in objects are told to a depth that still reads well.
fn words(root: &Value, schema: &Value, depth: usize) -> String {
    const DEEPEST: usize = 5;
    if depth > DEEPEST {
        return "a value".to_owned();
    }
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let target = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        return target.map_or_else(|| "a value".to_owned(), |target| words(root, target, depth));
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        let values: Vec<_> = values.iter().map(Value::to_string).collect();
        return values.join(" or ");
    }
    if let Some(value) = schema.get("const") {
        return value.to_string();
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(choices) = schema.get(key).and_then(Value::as_array) {
            let choices: Vec<_> = choices.iter().map(|choice| words(root, choice, depth)).collect();
            return choices.join(" or ");
        }
    }
    match schema.get("type") {
        Some(Value::Array(types)) => {
            let types = types.iter().filter_map(Value::as_str);
            types.map(|name| simple(root, schema, name, depth)).collect::<Vec<_>>().join(" or ")
        }
        Some(Value::String(name)) => simple(root, schema, name, depth),
        _ => "any value".to_owned(),
    }
}

fn simple(root: &Value, schema: &Value, name: &str, depth: usize) -> String {
    let bounds = |word: &str| {
        let bound = |key: &str| schema.get(key).filter(|bound| bound.is_number()).map(Value::to_string);
        match (bound("minimum"), bound("maximum")) {
            (Some(low), Some(high)) => format!("{word} from {low} to {high}"),
            (Some(low), None) => format!("{word}, {low} or more"),
            (None, Some(high)) => format!("{word}, {high} or less"),
            (None, None) => word.to_owned(),
        }
    };
    match name {
        "string" => "a text".to_owned(),
        "boolean" => "true or false".to_owned(),
        "integer" => bounds("a whole number"),
        "number" => bounds("a number"),
        "null" => "null".to_owned(),
        "array" => {
            let items = schema.get("items").map_or_else(String::new, |items| words(root, items, depth + 1));
            format!("a list of [{items}]")
        }
        "object" => {
            if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
                let properties = properties
                    .iter()
                    .map(|(name, schema)| format!("\"{name}\": {}", words(root, schema, depth + 1)));
                return format!("{{{}}}", properties.collect::<Vec<_>>().join(", "));
            }
            match schema.get("additionalProperties") {
                Some(values @ Value::Object(_)) => {
                    format!("a map of names to {}", words(root, values, depth + 1))
                }
                _ => "a map".to_owned(),
            }
        }
        other => other.to_owned(),
    }
}
