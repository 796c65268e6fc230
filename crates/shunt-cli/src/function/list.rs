//! `shunt function list`: what is installed.

use clap::Args;
use serde_json::Value;

use super::Place;
use crate::output;

/// List the functions: what they are, what they may reach, how they fare.
#[derive(Debug, Args)]
pub(super) struct List {
    /// Print the module's entries as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

// === impl List ===

impl List {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let list = self.place.door()?.get(&["functions"]).await?;
        if self.json {
            return output::words(&list.to_string());
        }
        let rows: Vec<Vec<String>> = list.as_array().into_iter().flatten().map(row).collect();
        let head = ["name", "kind", "bytes", "calls", "errors", "p50 us", "p99 us", "grants", "last error"];
        output::words(&output::table(&head, &rows))
    }
}

fn row(entry: &Value) -> Vec<String> {
    let plain = |key: &str| match entry.get(key) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    let error = entry.pointer("/last_error/message").or_else(|| entry.get("error")).and_then(Value::as_str);
    // The rest of a traceback is in the log.
    let error = error.and_then(|error| error.lines().next()).unwrap_or("-").to_owned();
    let mut row = ["name", "kind", "size", "calls", "errors", "p50_us", "p99_us"].map(plain).to_vec();
    row.extend([granted(entry.get("grants")), error]);
    row
}

/// The grants as `--grant` gives them.
fn granted(grants: Option<&Value>) -> String {
    let mut words = Vec::new();
    for (key, value) in grants.and_then(Value::as_object).into_iter().flatten() {
        let kind = match key.as_str() {
            "models" => "model",
            "hosts" => "host",
            other => other,
        };
        let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        words.extend(values.iter().filter_map(Value::as_str).map(|value| format!("{kind}={value}")));
    }
    if words.is_empty() { "-".to_owned() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_entry_is_a_row_with_its_grants_and_the_first_line_of_its_last_error() {
        let entry = json!({
            "name": "average", "kind": "python", "size": 120, "calls": 3, "errors": 1, "p50_us": 900, "p99_us": null,
            "grants": {"state": "averages", "store": null, "publish": ["shunt/label/+"], "models": ["m"], "hosts": []},
            "last_error": {"at": "2026-11-21T20:00:00Z", "message": "ValueError: x\n  line 2"},
        });
        let row = row(&entry);
        let expected = ["average", "python", "120", "3", "1", "900", "-"];
        assert_eq!(row[..7], expected);
        assert_eq!(row[7..], ["state=averages publish=shunt/label/+ model=m", "ValueError: x"]);
    }
}
