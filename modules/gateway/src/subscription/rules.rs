//! Conditions of routes, in CEL.
//!
//! They come from apps and are decided on the thread that does everything else, and CEL knows no limit of its own. So
//! a condition may not go through lists, and the data that it looks at is bounded: its work is bounded by both.

use cel::{
    Context, Program,
    common::ast::{EntryExpr, Expr, IdedEntryExpr, IdedExpr},
    to_value,
};
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

/// What conditions look at: the event, as CEL knows it. Made once for an event.
pub(crate) struct Facts(Context<'static, 'static>);

// === impl Facts ===

impl Facts {
    pub(crate) fn of(event: &Value) -> Self {
        let mut context = Context::default();
        if let Ok(event) = to_value(event) {
            context.add_variable_from_value("event", event);
        }
        Self(context)
    }
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
        if goes_through_lists(program.expression()) {
            return Err(format!(
                "the match {condition:?} may not go through lists: no all, exists, exists_one, map, filter"
            ));
        }
        Ok(Self { condition: Some((condition.to_owned(), program)), path })
    }

    pub(crate) fn always(path: String) -> Self {
        Self { condition: None, path }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Does it hold for the event with these facts? A condition that looks at what is not there does not.
    pub(crate) fn holds<'a>(&self, facts: impl FnOnce() -> &'a Facts) -> bool {
        let Some((text, program)) = &self.condition else { return true };
        match program.execute(&facts().0) {
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

/// Has it a macro that works on each element of a list or map? In each other they take the product of all lengths.
fn goes_through_lists(expression: &IdedExpr) -> bool {
    let any = |parts: &[IdedExpr]| parts.iter().any(goes_through_lists);
    let entry = |entry: &IdedEntryExpr| match &entry.expr {
        EntryExpr::StructField(field) => goes_through_lists(&field.value),
        EntryExpr::MapEntry(entry) => goes_through_lists(&entry.key) || goes_through_lists(&entry.value),
    };
    match &expression.expr {
        Expr::Comprehension(_) => true,
        Expr::Call(call) => call.target.as_deref().is_some_and(goes_through_lists) || any(&call.args),
        Expr::List(list) => any(&list.elements),
        Expr::Map(map) => map.entries.iter().any(entry),
        Expr::Struct(fields) => fields.entries.iter().any(entry),
        Expr::Select(select) => goes_through_lists(&select.operand),
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => false,
    }
}
