//! What the command prints.

use std::{
    fmt::Display,
    io::{self, Write},
};

/// One line on standard output. Fails where nobody reads any more, as in `shunt tail | head -1`.
pub(crate) fn line(text: impl Display) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

/// One line on standard error. Where that is closed there is nobody to tell.
pub(crate) fn complain(text: impl Display) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// Did it fail because the reader of our output went away? That is no failure of ours.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// A table with a head line, each column as wide as its widest cell; numbers to the right.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let is_number = |cell: &str| cell.starts_with(|first: char| first.is_ascii_digit());
    let format = |cells: Vec<&str>| {
        let mut text = String::new();
        for (cell, width) in cells.into_iter().zip(&widths) {
            if !text.is_empty() {
                text.push_str("  ");
            }
            let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
            let (before, after) =
                if is_number(cell) { (padding.as_str(), "") } else { ("", padding.as_str()) };
            text.extend([before, cell, after]);
        }
        text.trim_end().to_owned()
    };
    let mut lines = vec![format(head.to_vec())];
    lines.extend(rows.iter().map(|row| format(row.iter().map(String::as_str).collect())));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up_its_columns() {
        let rows =
            vec![vec!["camera".to_owned(), "1.5".to_owned()], vec!["x".to_owned(), "12.25".to_owned()]];
        assert_eq!(table(&["module", "ms"], &rows), "module  ms\ncamera    1.5\nx       12.25");
    }
}
