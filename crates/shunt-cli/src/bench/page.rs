//! The report as a page: no scripts, nothing from elsewhere, readable in light and dark.

use std::fmt::{self, Write as _};

use super::bus::report::{Bar, Measured, Outcome, Report, Times, micros, size_text};

/// Widths of a plot in pixels: of the names, of the plot itself, of the numbers behind it.
const NAMES: f64 = 250.0;
const WIDE: f64 = 520.0;
const NUMBERS: f64 = 130.0;
/// Height of a row and of the scale below.
const HIGH: f64 = 30.0;
const SCALE: f64 = 28.0;

const STYLE: &str = "
:root { color-scheme: light dark; --back: #fcfcfb; --ink: #1b1b1a; --soft: #5d5c58; --line: #dedcd6; --bar: #2a78d6;
  --bad: #b3261e; --good: #1b7f3b; --a: #2a78d6; --b: #d9730d; --c: #1a936f; --d: #8b5fbf; }
@media (prefers-color-scheme: dark) { :root { --back: #1a1a19; --ink: #f3f2ee; --soft: #aaa8a1; --line: #3a3936;
  --bar: #5b9be8; --bad: #ff8a80; --good: #7ddc9a; --a: #5b9be8; --b: #f0954a; --c: #4cc5a0; --d: #b897e0; } }
body { background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; max-width: 940px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .2rem; }
p { color: var(--soft); margin: .2rem 0 .8rem; }
.wide { overflow-x: auto; }
svg { display: block; width: 100%; min-width: 640px; height: auto; font: 13px system-ui, sans-serif; }
svg text { fill: var(--ink); } svg .soft { fill: var(--soft); } svg .bar { fill: var(--bar); }
svg line { stroke: var(--line); } svg line.reach { stroke: var(--ink); } svg line.limit { stroke: var(--bad); stroke-dasharray: 5 4; }
svg .s0 { fill: var(--a); } svg .s1 { fill: var(--b); } svg .s2 { fill: var(--c); } svg .s3 { fill: var(--d); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; font-size: 14px; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child, td.text { text-align: left; }
.met { color: var(--good); } .missed { color: var(--bad); font-weight: 600; }
";

/// A row of a plot.
pub(super) struct Plotted<'a> {
    pub(super) name: &'a str,
    /// A bar to here.
    pub(super) value: f64,
    /// And a line on to here.
    pub(super) reach: Option<f64>,
    /// What stands behind it.
    pub(super) text: String,
}

/// A scale of tens from one value to another.
struct Tens {
    low: i32,
    high: i32,
}

/// Begins a page: its title, and what was measured where.
pub(super) fn begin(title: &str, about: &str) -> Result<String, fmt::Error> {
    let mut page = String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\n");
    page.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n");
    let title = escape(title);
    write!(page, "<title>{title}</title>\n<style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n")?;
    paragraph(&mut page, about)?;
    Ok(page)
}

/// A heading, and a sentence below it.
pub(super) fn heading(page: &mut String, text: &str, below: &str) -> fmt::Result {
    writeln!(page, "<h2>{}</h2>", escape(text))?;
    paragraph(page, below)
}

/// A paragraph of plain text.
pub(super) fn paragraph(page: &mut String, text: &str) -> fmt::Result {
    writeln!(page, "<p>{}</p>", escape(text))
}

/// The page of `shunt bench bus`.
pub(super) fn write(report: &Report) -> Result<String, fmt::Error> {
    let about = format!(
        "shunt bench bus, {}; {}; {} round trips a cell, answers of 256 B.",
        report.time, report.machine, report.rounds
    );
    let mut page = begin("What each way between processes costs", &about)?;
    verdicts(&mut page, &report.bars())?;
    page.push_str("<h2>Round trip of 256 B</h2>\n<p>Bar: p50; line: to p99. Each step of the scale is ten times the one before.</p>\n");
    plot(&mut page, &times_rows(report, |measured| measured.at(256)), None)?;
    sizes(&mut page, report)?;
    page.push_str("<h2>A chain of six processes</h2>\n<p>From the first through all others and back to it, 256 B. Dashed: 600 microseconds.</p>\n");
    plot(&mut page, &times_rows(report, |measured| measured.chain), Some(600.0))?;
    page.push_str("<h2>Messages a second</h2>\n<p>One way, 256 B, at most 128 under way.</p>\n");
    let rates = rows(report, |measured| Some((measured.rate?, None, format!("{:.0}", measured.rate?))));
    plot(&mut page, &rates, None)?;
    table(&mut page, report)?;
    page.push_str("</body></html>\n");
    Ok(page)
}

/// What was asked for, beside what was found.
pub(super) fn verdicts(page: &mut String, bars: &[Bar]) -> fmt::Result {
    page.push_str("<h2>Bars</h2>\n<div class=\"wide\"><table><tr><th>of</th><th>bar</th><th>limit</th><th>value</th><th>verdict</th></tr>\n");
    for bar in bars {
        let class = match bar.is_met() {
            Some(true) => "met",
            Some(false) => "missed",
            None => "",
        };
        writeln!(
            page,
            "<tr><td>{}</td><td class=\"text\">{}</td><td>{} {}</td><td>{}</td><td class=\"{class}\">{}</td></tr>",
            escape(bar.row),
            escape(bar.what),
            bar.limit,
            bar.unit,
            bar.text(),
            bar.verdict()
        )?;
    }
    page.push_str("</table></div>\n");
    Ok(())
}

/// A row for each way that has this figure.
fn rows(
    report: &Report,
    figure: impl Fn(&Measured) -> Option<(f64, Option<f64>, String)>,
) -> Vec<Plotted<'_>> {
    let of = |row: &'_ super::bus::report::Row| match &row.outcome {
        Outcome::Measured(measured) => figure(measured).map(|figure| (row.name, figure)),
        _ => None,
    };
    let row = |(name, (value, reach, text))| Plotted { name, value, reach, text };
    report.rows.iter().filter_map(of).map(row).collect()
}

fn times_rows(report: &Report, figure: impl Fn(&Measured) -> Option<Times>) -> Vec<Plotted<'_>> {
    rows(report, |measured| {
        let times = figure(measured)?;
        let text = format!("{} / {}", micros(times.p50), micros(times.p99));
        Some((times.p50, Some(times.p99), text))
    })
}

/// Begins a plot of so many rows, with its scale; where a value lies in it.
fn begin_plot(page: &mut String, count: usize, tens: &Tens) -> fmt::Result {
    let (width, height) = (NAMES + WIDE + NUMBERS, HIGH * count as f64 + SCALE);
    writeln!(page, "<div class=\"wide\"><svg viewBox=\"0 0 {width} {height}\" role=\"img\">")?;
    let bottom = height - SCALE;
    for power in tens.low..=tens.high {
        let value = 10_f64.powi(power);
        let x = tens.place(value);
        writeln!(
            page,
            "<line x1=\"{x:.1}\" y1=\"0\" x2=\"{x:.1}\" y2=\"{bottom:.1}\"/><text class=\"soft\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            height - 9.0,
            with_commas(value)
        )?;
    }
    Ok(())
}

fn name(page: &mut String, name: &str, middle: f64) -> fmt::Result {
    writeln!(
        page,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
        NAMES - 10.0,
        middle + 4.5,
        escape(name)
    )
}

/// Bars on a scale of tens.
pub(super) fn plot(page: &mut String, rows: &[Plotted<'_>], limit: Option<f64>) -> fmt::Result {
    let ends = rows.iter().flat_map(|row| [Some(row.value), row.reach]).flatten().chain(limit);
    let Some(tens) = Tens::of(ends) else {
        page.push_str("<p>Not measured.</p>\n");
        return Ok(());
    };
    begin_plot(page, rows.len(), &tens)?;
    for (number, row) in rows.iter().enumerate() {
        let middle = HIGH * (number as f64 + 0.5);
        name(page, row.name, middle)?;
        let (from, to) = (NAMES, tens.place(row.value));
        writeln!(
            page,
            "<rect class=\"bar\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"16\" rx=\"2\"/>",
            middle - 8.0,
            (to - from).max(1.0)
        )?;
        if let Some(reach) = row.reach {
            let reach = tens.place(reach);
            writeln!(
                page,
                "<line class=\"reach\" x1=\"{to:.1}\" y1=\"{middle:.1}\" x2=\"{reach:.1}\" y2=\"{middle:.1}\"/>"
            )?;
        }
        writeln!(
            page,
            "<text class=\"soft\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            NAMES + WIDE + 8.0,
            middle + 4.5,
            escape(&row.text)
        )?;
    }
    if let Some(limit) = limit {
        let x = tens.place(limit);
        writeln!(
            page,
            "<line class=\"limit\" x1=\"{x:.1}\" y1=\"0\" x2=\"{x:.1}\" y2=\"{:.1}\"/>",
            HIGH * rows.len() as f64
        )?;
    }
    page.push_str("</svg></div>\n");
    Ok(())
}

/// A dot for each size, a row for each way.
fn sizes(page: &mut String, report: &Report) -> fmt::Result {
    page.push_str("<h2>Round trip by size</h2>\n<p>p50 in microseconds:");
    for (number, size) in report.sizes.iter().enumerate() {
        write!(
            page,
            " <svg style=\"display:inline;width:12px;min-width:0\" viewBox=\"0 0 12 12\"><circle class=\"s{}\" cx=\"6\" cy=\"6\" r=\"5\"/></svg> {}",
            number % 4,
            size_text(*size)
        )?;
    }
    page.push_str("</p>\n");
    let measured: Vec<(&str, &Measured)> = report
        .rows
        .iter()
        .filter_map(|row| match &row.outcome {
            Outcome::Measured(measured) if !measured.round_trips.is_empty() => Some((row.name, measured)),
            _ => None,
        })
        .collect();
    let values = measured.iter().flat_map(|(_, measured)| measured.round_trips.iter());
    let Some(tens) = Tens::of(values.map(|(_, times)| times.p50)) else { return Ok(()) };
    begin_plot(page, measured.len(), &tens)?;
    for (row, (way, measured)) in measured.iter().enumerate() {
        let middle = HIGH * (row as f64 + 0.5);
        name(page, way, middle)?;
        for (number, size) in report.sizes.iter().enumerate() {
            let Some(times) = measured.at(*size) else { continue };
            writeln!(
                page,
                "<circle class=\"s{}\" cx=\"{:.1}\" cy=\"{middle:.1}\" r=\"6\"><title>{}: {} us</title></circle>",
                number % 4,
                tens.place(times.p50),
                size_text(*size),
                micros(times.p50)
            )?;
        }
    }
    page.push_str("</svg></div>\n");
    Ok(())
}

fn table(page: &mut String, report: &Report) -> fmt::Result {
    page.push_str("<h2>All figures</h2>\n<p>Microseconds, p50 / p99.</p>\n<div class=\"wide\"><table><tr><th>way</th><th>threads</th>");
    for size in &report.sizes {
        write!(page, "<th>{}</th>", size_text(*size))?;
    }
    page.push_str(
        "<th>times raw</th><th>messages/s</th><th>frame hand-over</th><th>six processes</th></tr>\n",
    );
    let text = |times: Option<Times>| {
        times.map_or_else(|| "-".to_owned(), |times| format!("{} / {}", micros(times.p50), micros(times.p99)))
    };
    for row in &report.rows {
        write!(page, "<tr><td>{}</td><td class=\"text\">{}</td>", escape(row.name), escape(row.runtime))?;
        let why = match &row.outcome {
            Outcome::Measured(measured) => {
                for size in &report.sizes {
                    write!(page, "<td>{}</td>", text(measured.at(*size)))?;
                }
                let number = |number: Option<f64>, digits: usize| {
                    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.digits$}"))
                };
                writeln!(
                    page,
                    "<td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                    number(report.ratio(row.id), 1),
                    number(measured.rate, 0),
                    text(measured.hand_over),
                    text(measured.chain)
                )?;
                continue;
            }
            Outcome::NotInstalled(command) => format!("not installed: {command}"),
            Outcome::Failed(why) => format!("failed: {why}"),
        };
        writeln!(
            page,
            "<td class=\"text\" colspan=\"{}\">{}</td></tr>",
            report.sizes.len() + 4,
            escape(&why)
        )?;
    }
    page.push_str("</table></div>\n");
    Ok(())
}

// === impl Tens ===

impl Tens {
    /// From the power of ten below the least value to the one above the greatest; nothing where there are none.
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let powers = values.filter(|value| *value > 0.0).map(f64::log10);
        let (low, high) = powers
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), power| (low.min(power), high.max(power)));
        if !low.is_finite() {
            return None;
        }
        let low = low.floor() as i32;
        Some(Self { low, high: (high.ceil() as i32).max(low + 1) })
    }

    /// Where a value lies, in pixels from the left.
    fn place(&self, value: f64) -> f64 {
        let part = (value.log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        NAMES + WIDE * part.clamp(0.0, 1.0)
    }
}

/// `1,000,000`, or `0.1`.
fn with_commas(value: f64) -> String {
    if value < 1.0 {
        return value.to_string();
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (number, digit) in digits.chars().enumerate() {
        if number > 0 && (digits.len() - number).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::bus::report::tests::sample;

    /// Every tag that is opened is closed, in order.
    fn check_tags(page: &str) {
        let mut open: Vec<&str> = Vec::new();
        let body = page.split_once("<html").map(|(_, rest)| rest).unwrap();
        let body = format!("<html{body}");
        for tag in body.split('<').skip(1) {
            let (tag, _) = tag.split_once('>').unwrap();
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "</{name}> in {open:?}");
            } else if !tag.ends_with('/') {
                open.push(tag.split(' ').next().unwrap());
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn the_page_is_well_formed_and_needs_nothing_from_elsewhere() {
        let page = write(&sample()).unwrap();
        // What stands in the style has no tags.
        let (head, rest) = page.split_once("<style>").unwrap();
        let (_, rest) = rest.split_once("</style>").unwrap();
        check_tags(&format!("{head}{rest}"));
        for forbidden in ["<script", "http:", "https:", "src=", "@import", "NaN", "inf"] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
    }

    #[test]
    fn names_and_failures_are_escaped() {
        let page = write(&sample()).unwrap();
        assert!(page.contains("direct &lt;call&gt;") && !page.contains("<call>"), "{page}");
        assert!(page.contains("failed: it &amp; broke"), "{page}");
        assert!(page.contains("not installed: apt-get install redis-server"), "{page}");
    }

    #[test]
    fn a_scale_of_tens_holds_all_its_values() {
        let tens = Tens::of([9.0, 88_000.0].into_iter()).unwrap();
        assert_eq!((tens.low, tens.high), (0, 5));
        assert!((tens.place(1.0) - NAMES).abs() < 0.001);
        assert!((tens.place(100_000.0) - NAMES - WIDE).abs() < 0.001);
        assert!(Tens::of([].into_iter()).is_none());
        assert_eq!(Tens::of([100.0].into_iter()).map(|tens| (tens.low, tens.high)), Some((2, 3)));
        assert_eq!((with_commas(0.1), with_commas(1_000_000.0)), ("0.1".to_owned(), "1,000,000".to_owned()));
    }
}
