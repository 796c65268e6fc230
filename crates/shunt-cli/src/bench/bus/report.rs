//! What was measured: arithmetic, bars, table, JSON.

use serde_json::{Map, Value, json};

use super::note::ANSWER;
use crate::output;

/// The sizes of the questions in bytes; the last is a raw frame, 640x480 in RGB.
pub(in super::super) const SIZES: [usize; 4] = [256, 10_000, 100_000, FRAME];
pub(in super::super) const FRAME: usize = 640 * 480 * 3;

/// What all is compared with: the id of its row.
pub(super) const BASE: &str = "uds";

/// Times of one cell, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in super::super) struct Times {
    pub(in super::super) p50: f64,
    pub(in super::super) p99: f64,
    pub(in super::super) count: usize,
}

/// One way, measured or not.
#[derive(Debug, Clone)]
pub(in super::super) struct Row {
    /// As in `--only`.
    pub(in super::super) id: &'static str,
    pub(in super::super) name: &'static str,
    /// The threads of its processes.
    pub(in super::super) runtime: &'static str,
    pub(in super::super) outcome: Outcome,
}

/// What became of a way.
#[derive(Debug, Clone)]
pub(in super::super) enum Outcome {
    Measured(Measured),
    /// A server is not installed; the command that installs it.
    NotInstalled(&'static str),
    Failed(String),
}

/// What was measured of a way.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Measured {
    /// Round trips by the size of the question, answers of [`ANSWER`] bytes.
    pub(in super::super) round_trips: Vec<(usize, Times)>,
    /// Messages a second, one way.
    pub(in super::super) rate: Option<f64>,
    /// Six processes, one after the other, and back to the first.
    pub(in super::super) chain: Option<Times>,
    /// Of a raw frame: from before it is written until the reader holds its checked copy.
    pub(in super::super) hand_over: Option<Times>,
}

/// A promise, and whether it is kept.
#[derive(Debug, Clone)]
pub(in super::super) struct Bar {
    pub(in super::super) row: &'static str,
    pub(in super::super) what: &'static str,
    pub(in super::super) limit: f64,
    pub(in super::super) unit: &'static str,
    /// Nothing where it was not measured.
    pub(in super::super) value: Option<f64>,
}

/// What a bar is about.
#[derive(Debug, Clone, Copy)]
enum Figure {
    /// p50 at 256 B, beside that of the raw Unix socket.
    Ratio,
    HandOver,
    ChainP50,
    ChainP99,
}

/// The whole run.
#[derive(Debug, Clone)]
pub(in super::super) struct Report {
    /// When, RFC 3339.
    pub(in super::super) time: String,
    /// Cores, kind of machine, load before the run.
    pub(in super::super) machine: String,
    /// Bytes of the questions, the smallest first.
    pub(in super::super) sizes: Vec<usize>,
    pub(in super::super) rounds: usize,
    pub(in super::super) rows: Vec<Row>,
}

/// The bars: row, figure, limit.
const BARS: [(&str, Figure, f64); 16] = [
    ("mqtt-fast", Figure::Ratio, 9.0),
    ("mqtt-assured", Figure::Ratio, 9.0),
    ("redis-fast", Figure::Ratio, 9.0),
    ("redis-assured", Figure::Ratio, 9.0),
    ("tls-fast", Figure::Ratio, 12.0),
    ("tls-assured", Figure::Ratio, 12.0),
    ("direct", Figure::Ratio, 3.5),
    ("gateway", Figure::Ratio, 6.0),
    ("frame", Figure::HandOver, 100.0),
    ("mqtt-fast", Figure::ChainP50, 600.0),
    ("mqtt-fast", Figure::ChainP99, 1000.0),
    ("mqtt-assured", Figure::ChainP50, 600.0),
    ("mqtt-assured", Figure::ChainP99, 1000.0),
    ("tls-fast", Figure::ChainP50, 600.0),
    ("tls-fast", Figure::ChainP99, 1000.0),
    ("local", Figure::ChainP50, 600.0),
];

// === impl Times ===

impl Times {
    /// Of these nanoseconds; nothing where there are none.
    pub(super) fn of(nanos: &[u64]) -> Option<Self> {
        let mut sorted = nanos.to_vec();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        let at = |percent: usize| sorted.get(last * percent / 100).map(|nanos| *nanos as f64 / 1000.0);
        Some(Self { p50: at(50)?, p99: at(99)?, count: sorted.len() })
    }

    fn to_json(self) -> Value {
        json!({"p50": self.p50, "p99": self.p99, "count": self.count})
    }

    fn to_text(self) -> String {
        format!("{} / {}", micros(self.p50), micros(self.p99))
    }
}

/// Microseconds as a reader wants them.
pub(in super::super) fn micros(value: f64) -> String {
    if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// Bytes as a reader wants them.
pub(in super::super) fn size_text(size: usize) -> String {
    match size {
        FRAME => "raw frame".to_owned(),
        size if size >= 10_000 => format!("{} kB", size / 1000),
        size => format!("{size} B"),
    }
}

// === impl Measured ===

impl Measured {
    /// The round trips of this size.
    pub(in super::super) fn at(&self, size: usize) -> Option<Times> {
        self.round_trips.iter().find(|(measured, _)| *measured == size).map(|(_, times)| *times)
    }

    fn to_json(&self, ratio: Option<f64>) -> Value {
        let sizes: Map<String, Value> =
            self.round_trips.iter().map(|(size, times)| (size.to_string(), times.to_json())).collect();
        json!({
            "round_trip_us": sizes,
            "ratio": ratio,
            "messages_per_s": self.rate.map(f64::round),
            "chain_us": self.chain.map(Times::to_json),
            "hand_over_us": self.hand_over.map(Times::to_json),
        })
    }
}

// === impl Bar ===

impl Bar {
    /// Is it kept? Nothing where it was not measured.
    pub(in super::super) fn is_met(&self) -> Option<bool> {
        self.value.map(|value| value <= self.limit)
    }

    /// The verdict in words.
    pub(in super::super) fn verdict(&self) -> &'static str {
        match self.is_met() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "not measured",
        }
    }

    /// The value as a reader wants it.
    pub(in super::super) fn text(&self) -> String {
        match self.value {
            None => "-".to_owned(),
            Some(value) if self.unit == "us" => micros(value),
            Some(value) => format!("{value:.1}"),
        }
    }
}

// === impl Figure ===

impl Figure {
    fn what(self) -> &'static str {
        match self {
            Self::Ratio => "round trip of 256 B, times the raw Unix socket",
            Self::HandOver => "hand-over of a raw frame, p50",
            Self::ChainP50 => "chain of six processes, p50",
            Self::ChainP99 => "chain of six processes, p99 (of a quiet machine)",
        }
    }

    fn unit(self) -> &'static str {
        if matches!(self, Self::Ratio) { "x" } else { "us" }
    }
}

// === impl Report ===

impl Report {
    /// What all is compared with is known better now.
    pub(super) fn set_base(&mut self, times: Option<Times>) {
        let [smallest, ..] = SIZES;
        let base = self.rows.iter_mut().find(|row| row.id == BASE);
        if let (Some(times), Some(Row { outcome: Outcome::Measured(measured), .. })) = (times, base) {
            measured.round_trips.retain(|(size, _)| *size != smallest);
            measured.round_trips.insert(0, (smallest, times));
        }
    }

    /// What was measured of this row.
    pub(in super::super) fn measured(&self, id: &str) -> Option<&Measured> {
        self.rows.iter().find(|row| row.id == id).and_then(|row| match &row.outcome {
            Outcome::Measured(measured) => Some(measured),
            _ => None,
        })
    }

    /// p50 at the smallest size beside that of the raw Unix socket.
    pub(in super::super) fn ratio(&self, id: &str) -> Option<f64> {
        let [smallest, ..] = SIZES;
        let of = |id| Some(self.measured(id)?.at(smallest)?.p50);
        Some(of(id)? / of(BASE).filter(|base| *base > 0.0)?)
    }

    /// The bars of the rows that are in this report.
    pub(in super::super) fn bars(&self) -> Vec<Bar> {
        let known = |id: &str| self.rows.iter().any(|row| row.id == id);
        let value = |row: &str, figure: Figure| match figure {
            Figure::Ratio => self.ratio(row),
            Figure::HandOver => Some(self.measured(row)?.hand_over?.p50),
            Figure::ChainP50 => Some(self.measured(row)?.chain?.p50),
            Figure::ChainP99 => Some(self.measured(row)?.chain?.p99),
        };
        let bar = |(row, figure, limit): (&'static str, Figure, f64)| Bar {
            row,
            what: figure.what(),
            limit,
            unit: figure.unit(),
            value: value(row, figure),
        };
        BARS.into_iter().filter(|(row, ..)| known(row)).map(bar).collect()
    }

    /// Did something break that should have worked?
    pub(super) fn has_failed(&self) -> bool {
        self.rows.iter().any(|row| matches!(row.outcome, Outcome::Failed(_)))
    }

    pub(super) fn to_json(&self) -> Value {
        let row = |row: &Row| {
            let (status, why, measured) = match &row.outcome {
                Outcome::Measured(measured) => ("measured", None, Some(measured.to_json(self.ratio(row.id)))),
                Outcome::NotInstalled(command) => ("not installed", Some((*command).to_owned()), None),
                Outcome::Failed(why) => ("failed", Some(why.clone()), None),
            };
            json!({
                "id": row.id,
                "name": row.name,
                "runtime": row.runtime,
                "status": status,
                "why": why,
                "measured": measured,
            })
        };
        let bar = |bar: &Bar| {
            json!({
                "row": bar.row,
                "what": bar.what,
                "unit": bar.unit,
                "limit": bar.limit,
                "value": bar.value,
                "met": bar.is_met(),
            })
        };
        json!({
            "time": self.time,
            "machine": self.machine,
            "sizes": self.sizes,
            "rounds": self.rounds,
            "answer_bytes": ANSWER,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "bars": self.bars().iter().map(bar).collect::<Vec<_>>(),
        })
    }

    pub(super) fn to_table(&self) -> String {
        let mut head = vec!["microseconds, p50 / p99".to_owned()];
        for size in &self.sizes {
            head.push(size_text(*size));
            if head.len() == 2 {
                head.extend(["x raw", "messages/s"].map(str::to_owned));
            }
        }
        head.extend(["hand-over", "six processes"].map(str::to_owned));
        let head: Vec<&str> = head.iter().map(String::as_str).collect();
        let mut notes = Vec::new();
        let mut rows = Vec::new();
        for row in &self.rows {
            match &row.outcome {
                Outcome::Measured(measured) => rows.push(self.cells(row, measured)),
                Outcome::NotInstalled(command) => {
                    notes.push(format!("{}: not installed: {command}", row.name));
                }
                Outcome::Failed(why) => notes.push(format!("{}: FAILED: {why}", row.name)),
            }
        }
        let bars: Vec<Vec<String>> = self
            .bars()
            .iter()
            .map(|bar| {
                let limit = if bar.unit == "us" { micros(bar.limit) } else { bar.limit.to_string() };
                let cells = [bar.row.to_owned(), bar.what.to_owned(), limit, bar.text(), bar.unit.to_owned()];
                cells.into_iter().chain([bar.verdict().to_owned()]).collect()
            })
            .collect();
        let mut text = output::table(&head, &rows);
        for note in notes {
            text.push('\n');
            text.push_str(&note);
        }
        format!(
            "{text}\n\n{}\n\n{}; answers of {ANSWER} B; {} rounds a cell",
            output::table(&["row", "bar", "limit", "value", "", "verdict"], &bars),
            self.machine,
            self.rounds
        )
    }

    fn cells(&self, row: &Row, measured: &Measured) -> Vec<String> {
        let text = |times: Option<Times>| times.map_or_else(|| "-".to_owned(), Times::to_text);
        let mut cells = vec![format!("{} ({})", row.name, row.id)];
        for size in &self.sizes {
            cells.push(text(measured.at(*size)));
            if cells.len() == 2 {
                cells.push(self.ratio(row.id).map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.1}")));
                cells.push(measured.rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}")));
            }
        }
        cells.extend([text(measured.hand_over), text(measured.chain)]);
        cells
    }
}

#[cfg(test)]
pub(in super::super) mod tests {
    use super::*;

    pub(in super::super::super) fn times(p50: f64, p99: f64) -> Times {
        Times { p50, p99, count: 100 }
    }

    /// A report of four rows: two measured, one not installed, one failed.
    pub(in super::super::super) fn sample() -> Report {
        let row = |id, name, outcome| Row { id, name, runtime: "current-thread", outcome };
        let raw = Measured {
            round_trips: vec![(256, times(9.0, 19.0)), (10_000, times(11.0, 20.0))],
            rate: Some(359_000.4),
            chain: Some(times(50.0, 94.0)),
            hand_over: None,
        };
        let mqtt = Measured {
            round_trips: vec![(256, times(90.0, 145.0))],
            rate: None,
            chain: Some(times(425.0, 627.0)),
            hand_over: None,
        };
        Report {
            time: "2026-11-21T14:00:00Z".to_owned(),
            machine: "2 cores".to_owned(),
            sizes: vec![256, 10_000],
            rounds: 100,
            rows: vec![
                row("uds", "Unix socket, raw", Outcome::Measured(raw)),
                row("mqtt-fast", "MQTT QoS 0", Outcome::Measured(mqtt)),
                row("redis-fast", "Redis", Outcome::NotInstalled("apt-get install redis-server")),
                row("direct", "direct <call>", Outcome::Failed("it & broke".to_owned())),
            ],
        }
    }

    #[test]
    fn quantiles_are_those_of_sorted_values_in_microseconds() {
        let nanos: Vec<u64> = (0..=100).rev().map(|micros| micros * 1000).collect();
        assert_eq!(Times::of(&nanos), Some(Times { p50: 50.0, p99: 99.0, count: 101 }));
        assert_eq!(Times::of(&[1500]), Some(Times { p50: 1.5, p99: 1.5, count: 1 }));
        assert_eq!(Times::of(&[]), None);
    }

    #[test]
    fn ratios_and_bars_are_those_of_the_same_run() {
        let report = sample();
        assert_eq!(report.ratio("mqtt-fast"), Some(10.0));
        assert_eq!(report.ratio("redis-fast"), None);
        let bars = report.bars();
        let verdict = |row: &str, unit: &str| {
            let bar = bars.iter().find(|bar| bar.row == row && bar.unit == unit).unwrap();
            (bar.is_met(), bar.verdict())
        };
        assert_eq!(verdict("mqtt-fast", "x"), (Some(false), "MISSED"));
        assert_eq!(verdict("mqtt-fast", "us"), (Some(true), "met"));
        assert_eq!(verdict("direct", "x"), (None, "not measured"));
        // A row that was not asked for has no bar.
        assert!(!bars.iter().any(|bar| bar.row == "gateway"));
    }

    #[test]
    fn the_table_says_what_was_missed_and_what_is_not_installed() {
        let table = sample().to_table();
        for text in ["90 / 145", "10.0", "MISSED", "not installed: apt-get install redis-server", "FAILED"] {
            assert!(table.contains(text), "{text} in\n{table}");
        }
    }

    #[test]
    fn the_json_has_every_row_and_bar() {
        let json = sample().to_json();
        assert_eq!(json["rows"][0]["measured"]["round_trip_us"]["256"]["p50"], 9.0);
        assert_eq!(json["rows"][0]["measured"]["messages_per_s"], 359_000.0);
        assert_eq!(json["rows"][1]["measured"]["ratio"], 10.0);
        assert_eq!(json["rows"][2]["status"], "not installed");
        assert_eq!(json["rows"][2]["why"], "apt-get install redis-server");
        assert_eq!(json["rows"][3]["status"], "failed");
        assert_eq!(json["bars"][0]["met"], false);
        assert_eq!(json["answer_bytes"], 256);
    }
}
