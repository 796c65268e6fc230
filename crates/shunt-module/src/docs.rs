//! The tables of settings and metrics in `docs/`, made from the code, so that they cannot be wrong.
//!
//! Each module has a test that calls [`check_section`]; `SHUNT_BLESS=1` rewrites the section instead.

use std::{fmt::Write as _, fs, io, path::Path};

use prometheus::{core::Collector, proto::MetricType};
use serde_json::Value;

use crate::{
    Health, Settings, metrics,
    schema::Fields,
    settings::{object, variable},
    start::VARIABLES,
};

/// Why a document does not say what the code says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocsError {
    /// It differs.
    #[error("the section {section:?} of {file} is not what the code says; run the test with SHUNT_BLESS=1")]
    Outdated {
        /// The file.
        file: String,
        /// The section.
        section: String,
    },
    /// It cannot be read or written.
    #[error("cannot read or write {file}: {source}")]
    File {
        /// The file.
        file: String,
        /// The cause.
        source: io::Error,
    },
}

/// The table of a module's settings, in Markdown.
pub fn settings_table<S: Settings>() -> String {
    let defaults = object(&S::default());
    let mut table =
        String::from("| Field | Variable | Allowed | Default | Meaning |\n|---|---|---|---|---|\n");
    for field in Fields::of::<S>().iter() {
        let default = defaults.get(&field.name).map_or_else(String::new, Value::to_string);
        // Writing to a String cannot fail.
        writeln!(
            table,
            "| `{}` | `{}` | {} | `{}` | {} |",
            field.name,
            variable(S::MODULE, &field.name),
            cell(&field.allowed),
            cell(&default),
            cell(&field.meaning),
        )
        .ok();
    }
    table
}

/// The table of metrics, in Markdown.
pub fn metrics_table(collectors: &[&dyn Collector]) -> String {
    let mut rows = Vec::new();
    for collector in collectors {
        let families = collector.collect();
        for description in collector.desc() {
            let kind = families
                .iter()
                .find(|family| family.name() == description.fq_name)
                .map(prometheus::proto::MetricFamily::get_field_type);
            let kind = match kind {
                Some(MetricType::COUNTER) => "counter",
                Some(MetricType::HISTOGRAM) => "histogram",
                Some(MetricType::SUMMARY) => "summary",
                _ => "gauge",
            };
            let labels: Vec<_> =
                description.variable_labels.iter().map(|label| format!("`{label}`")).collect();
            rows.push(format!(
                "| `{}` | {kind} | {} | {} |\n",
                description.fq_name,
                labels.join(", "),
                cell(&description.help)
            ));
        }
    }
    rows.sort();
    format!("| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n{}", rows.concat())
}

/// The table of the metrics that every module has, in Markdown.
pub fn common_metrics_table() -> String {
    metrics_table(&[&metrics::Common::new("", None, None, Health::new())])
}

/// Compares a section of a document with what the code says; writes it instead where `SHUNT_BLESS` is set. For
/// tests.
///
/// # Errors
/// If it differs, or the file cannot be read or written.
pub fn check_section(file: &Path, section: &str, text: &str) -> Result<(), DocsError> {
    let failed = |source| DocsError::File { file: file.display().to_string(), source };
    let (begin, end) = (format!("<!-- begin {section} -->\n"), format!("<!-- end {section} -->\n"));
    let wanted = format!("{begin}\n{}\n{end}", text.trim_end().to_owned() + "\n");
    let document = match fs::read_to_string(file) {
        Ok(document) => document,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(failed(error)),
    };
    let found = document.find(&begin).and_then(|from| {
        let to = from + document.get(from..)?.find(&end)? + end.len();
        Some(from..to)
    });
    let current = found.clone().and_then(|range| document.get(range));
    if current == Some(wanted.as_str()) {
        return Ok(());
    }
    if std::env::var_os("SHUNT_BLESS").is_none() {
        let file = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Err(DocsError::Outdated { file, section: section.to_owned() });
    }
    let document = match found {
        Some(range) => {
            let mut document = document;
            document.replace_range(range, &wanted);
            document
        }
        None if document.is_empty() => format!("## {section}\n\n{wanted}"),
        None => format!("{}\n\n## {section}\n\n{wanted}", document.trim_end()),
    };
    fs::write(file, document).map_err(failed)
}

/// The table of the variables that every module reads, in Markdown.
pub fn variables_table() -> String {
    let mut table = String::from("| Variable | Default | Meaning |\n|---|---|---|\n");
    for (name, default, meaning) in VARIABLES {
        writeln!(table, "| `{name}` | {default} | {} |", cell(meaning)).ok();
    }
    table
}

/// Text as a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
