//! What the command prints.

use std::{
    borrow::Cow,
    fmt::Display,
    io::{self, IsTerminal, Write},
};

/// One line on standard output. Fails where nobody reads any more, as in `shunt tail | head -1`.
pub(crate) fn line(text: impl Display) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

/// Words that somebody else wrote, as a function does: on a terminal they steer nothing, elsewhere they are as they
/// are.
pub(crate) fn words(text: &str) -> anyhow::Result<()> {
    if io::stdout().is_terminal() { line(plain(text)) } else { line(text) }
}

/// One line on standard error. Where that is closed there is nobody to tell. What is told may have somebody else's
/// words in it: on a terminal they steer nothing.
pub(crate) fn complain(text: impl Display) {
    let text = text.to_string();
    let mut err = io::stderr().lock();
    drop(if err.is_terminal() { writeln!(err, "{}", plain(&text)) } else { writeln!(err, "{text}") });
}

/// The text without the signs that steer a terminal: only the ends of lines and tabs stay.
fn plain(text: &str) -> Cow<'_, str> {
    let steers = |sign: char| sign.is_control() && !matches!(sign, '\n' | '\t');
    if text.contains(steers) { text.replace(steers, " ").into() } else { text.into() }
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
    fn words_cannot_steer_a_terminal() {
        let told = "red \u{1b}[31m, \u{9b}31m, back\r and up\u{8}\n\tnext \u{e9}";
        assert_eq!(plain(told), "red  [31m,  31m, back  and up \n\tnext \u{e9}");
        assert!(matches!(plain("a\nb"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_table_lines_up_its_columns() {
        let rows =
            vec![vec!["camera".to_owned(), "1.5".to_owned()], vec!["x".to_owned(), "12.25".to_owned()]];
        assert_eq!(table(&["module", "ms"], &rows), "module  ms\ncamera    1.5\nx       12.25");
    }
}
