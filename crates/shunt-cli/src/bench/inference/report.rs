//! What was found, and which bars are met.

use std::fmt;

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::super::{
    bus::report::Bar,
    contestant::Ready,
    page::{self, Plotted},
};
use crate::{bench::machine, output};

pub(super) const MOBILENET: &str = "MobileNet v1, real uint8";
pub(super) const VGG: &str = "VGG13 as FER+, int8";
pub(super) const RESNET: &str = "ResNet50v2, int8";
pub(super) const FERPLUS: &str = "ferplus-small";
pub(super) const FERPLUS_INT8: &str = "ferplus-small-int8";
pub(super) const SCORE: &str = "/score, 150,528 numbers";

/// A model or a request, and who ran it.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) cells: Vec<Cell>,
}

/// One contestant.
#[derive(Debug)]
pub(super) struct Cell {
    name: &'static str,
    is_ours: bool,
    outcome: Result<Measured, String>,
}

#[derive(Debug)]
struct Measured {
    version: String,
    median_ms: f64,
    load_ms: f64,
    memory_mb: Option<f64>,
}

/// What the running modules showed.
#[derive(Debug, Default)]
pub(super) struct Modules {
    /// A picture over HTTP, the inference taken out; p50 in milliseconds.
    pub(super) image_added_ms: Option<f64>,
    /// From capture to the relay's acceptance, a frame with one face; p50 in milliseconds.
    pub(super) chain_ms: Option<f64>,
    /// MiB of `emotion` with its two models.
    pub(super) emotion_mb: Option<f64>,
    /// What could not be measured.
    pub(super) problems: Vec<String>,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Report {
    time: String,
    machine: String,
    runs: u32,
    pub(super) rows: Vec<Row>,
    pub(super) modules: Modules,
}

// === impl Cell ===

impl Cell {
    pub(super) fn measured(name: &'static str, is_ours: bool, ready: &Ready, median_ms: f64) -> Self {
        let Ready { version, load_ms, memory_mb, .. } = ready.clone();
        Self { name, is_ours, outcome: Ok(Measured { version, median_ms, load_ms, memory_mb }) }
    }

    pub(super) fn failed(name: &'static str, is_ours: bool, error: &anyhow::Error) -> Self {
        Self { name, is_ours, outcome: Err(format!("{error:#}")) }
    }

    fn ms(&self) -> Option<f64> {
        self.outcome.as_ref().ok().map(|measured| measured.median_ms)
    }
}

// === impl Row ===

impl Row {
    /// The fastest of ours, or of the others.
    fn best(&self, ours: bool) -> Option<f64> {
        self.cells.iter().filter(|cell| cell.is_ours == ours).filter_map(Cell::ms).min_by(f64::total_cmp)
    }

    fn of(&self, name: &str) -> Option<f64> {
        self.cells.iter().find(|cell| cell.name == name)?.ms()
    }
}

// === impl Report ===

impl Report {
    pub(super) fn new(runs: u32) -> anyhow::Result<Self> {
        let time = OffsetDateTime::now_utc().format(&Rfc3339)?;
        Ok(Self { time, machine: machine(), runs, rows: Vec::new(), modules: Modules::default() })
    }

    fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// What was asked for, beside what was found.
    fn bars(&self) -> Vec<Bar> {
        let ratio = |name, limit, what, peer: &dyn Fn(&Row) -> Option<f64>| {
            let value = self.row(name).and_then(|row| Some(row.best(true)? / peer(row)?));
            Bar { row: name, what, limit, unit: "x", value }
        };
        let time = |name, limit, what| {
            let value = self.row(name).and_then(|row| row.best(true));
            Bar { row: name, what, limit, unit: "ms", value }
        };
        let Modules { image_added_ms, chain_ms, emotion_mb, .. } = self.modules;
        vec![
            ratio(MOBILENET, 0.55, "beside LiteRT", &|row| row.of("Python, litert")),
            ratio(VGG, 1.0, "beside the faster of the two", &|row| row.best(false)),
            ratio(RESNET, 1.0, "beside the faster of the two", &|row| row.best(false)),
            time(FERPLUS, 2.0, "a run"),
            time(SCORE, 1.5, "reading the request"),
            Bar {
                row: "POST /image, 640x480 JPEG",
                what: "added to the inference",
                limit: 3.0,
                unit: "ms",
                value: image_added_ms,
            },
            Bar {
                row: "capture, face, emotion, relay",
                what: "transport and the inference of one face, each at p50",
                limit: 6.0,
                unit: "ms",
                value: chain_ms,
            },
            Bar {
                row: "emotion",
                what: "memory with its two models",
                limit: 90.0,
                unit: "MiB",
                value: emotion_mb,
            },
        ]
    }

    pub(super) fn to_json(&self) -> Value {
        let cell = |cell: &Cell| match &cell.outcome {
            Ok(measured) => json!({
                "who": cell.name,
                "version": measured.version,
                "median_ms": measured.median_ms,
                "load_ms": measured.load_ms,
                "memory_mb": measured.memory_mb,
            }),
            Err(error) => json!({"who": cell.name, "error": error}),
        };
        let row =
            |row: &Row| json!({"name": row.name, "cells": row.cells.iter().map(cell).collect::<Vec<_>>()});
        let bar = |bar: &Bar| {
            json!({
                "name": bar.row, "what": bar.what, "limit": bar.limit, "unit": bar.unit, "value": bar.value,
                "met": bar.is_met(),
            })
        };
        json!({
            "time": self.time,
            "machine": self.machine,
            "runs": self.runs,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "bars": self.bars().iter().map(bar).collect::<Vec<_>>(),
            "problems": self.modules.problems,
        })
    }

    pub(super) fn to_table(&self) -> String {
        let mut text = format!("{}; {}; {} runs each\n\n", self.time, self.machine, self.runs);
        let line = |row: &Row, cell: &Cell| {
            let mut line = vec![row.name.to_owned(), cell.name.to_owned()];
            match &cell.outcome {
                Ok(measured) => line.extend([
                    format!("{:.2}", measured.median_ms),
                    format!("{:.0}", measured.load_ms),
                    measured.memory_mb.map_or("-".to_owned(), |memory| format!("{memory:.0}")),
                    measured.version.clone(),
                ]),
                Err(error) => {
                    line.extend(["-".to_owned(), "-".to_owned(), "-".to_owned(), error.clone()]);
                }
            }
            line
        };
        let lines = self.rows.iter().flat_map(|row| row.cells.iter().map(move |cell| line(row, cell)));
        let head = ["what", "who", "median ms", "load ms", "memory MiB", "version"];
        text.push_str(&output::table(&head, &lines.collect::<Vec<_>>()));
        let bar = |bar: &Bar| {
            let (limit, unit) = (bar.limit, bar.unit);
            let value = bar.value.map_or("-".to_owned(), |value| format!("{value:.2}"));
            let texts = [bar.row, bar.what, &format!("{limit} {unit}"), &value, bar.verdict()];
            texts.map(ToOwned::to_owned).to_vec()
        };
        let bars: Vec<Vec<String>> = self.bars().iter().map(bar).collect();
        text.push_str("\n\n");
        text.push_str(&output::table(&["bar", "of", "limit", "value", "verdict"], &bars));
        for problem in &self.modules.problems {
            text.push_str("\nnot measured: ");
            text.push_str(problem);
        }
        text
    }

    pub(super) fn to_page(&self) -> Result<String, fmt::Error> {
        let about = format!(
            "shunt bench inference, {}; {}; {} runs each, one thread.",
            self.time, self.machine, self.runs
        );
        let mut page = page::begin("What a model costs", &about)?;
        page::verdicts(&mut page, &self.bars())?;
        for row in &self.rows {
            page::heading(
                &mut page,
                row.name,
                "Milliseconds, median. Each step of the scale is ten times the one before.",
            )?;
            let plotted = |cell: &Cell| {
                let value = cell.ms()?;
                Some(Plotted { name: cell.name, value, reach: None, text: format!("{value:.2} ms") })
            };
            page::plot(&mut page, &row.cells.iter().filter_map(plotted).collect::<Vec<_>>(), None)?;
            for cell in &row.cells {
                if let Err(error) = &cell.outcome {
                    page::paragraph(&mut page, &format!("{}: {error}", cell.name))?;
                }
            }
        }
        page.push_str("</body></html>\n");
        Ok(page)
    }
}
