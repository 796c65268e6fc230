//! Conditions of routes, in CEL.

use cel::{Context, Program, to_value};
use serde_json::{Value, json};

/// The longest condition, in characters.
const LONGEST: usize = 1024;

/// Where an event goes, and when.
#[derive(Debug)]
pub(crate) struct Rule {
    /// None: always.
    condition: Option<(String, Program)>,
    path: String,
}

// === impl Rule ===

impl Rule {
    /// The path for events for which this condition holds.
    pub(crate) fn new(condition: &str, path: String) -> Result<Self, String> {
        let condition = condition.trim();
        if condition.is_empty() {
            return Ok(Self::always(path));
        }
        if condition.chars().count() > LONGEST {
            return Err(format!("a match may have {LONGEST} characters at most"));
        }
        let program =
            Program::compile(condition).map_err(|error| format!("the match {condition:?}: {error}"))?;
        Ok(Self { condition: Some((condition.to_owned(), program)), path })
    }

    pub(crate) fn always(path: String) -> Self {
        Self { condition: None, path }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Does it hold for the event with these fields? A condition that looks at what is not there does not.
    pub(crate) fn holds(&self, event: impl FnOnce() -> Value) -> bool {
        let Some((text, program)) = &self.condition else { return true };
        let Ok(event) = to_value(event()) else { return false };
        let mut context = Context::default();
        context.add_variable_from_value("event", event);
        match program.execute(&context) {
            Ok(cel::Value::Bool(holds)) => holds,
            Ok(_) => {
                tracing::debug!(text, "A match is neither true nor false; it counts as false.");
                false
            }
            Err(error) => {
                tracing::debug!(text, %error, "A match could not be decided; it counts as false.");
                false
            }
        }
    }

    /// As `/v1.0/metadata` tells it.
    pub(crate) fn metadata(&self) -> Value {
        let condition = self.condition.as_ref().map_or("", |(text, _)| text.as_str());
        json!({"match": condition, "path": self.path})
    }
}
