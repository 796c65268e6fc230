//! `shunt rules`: checks rules, and tells what they would have done.

use std::{
    io::{BufRead, BufReader, Read},
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use shunt_rules::{
    Event, Failure, Format, Limits, MAX_FILE, Output, RuleSet, RuleState, Span, check_file, dry_run_into,
};

use crate::output;

/// Check rules, or see what they would have done with events of a file.
#[derive(Debug, Args)]
pub(crate) struct Rules {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check the rules of a file; says the line and column of each mistake.
    Check(Check),
    /// Run the rules of a file over events, one a line as `shunt tail --bus --json` prints them.
    DryRun(DryRun),
}

#[derive(Debug, Args)]
struct Check {
    /// TOML (.toml) or JSON.
    file: PathBuf,
}

#[derive(Debug, Args)]
struct DryRun {
    /// The rules: TOML (.toml) or JSON.
    file: PathBuf,
    /// The events; - is standard input.
    events: PathBuf,
    /// How long time goes on after the last event, as in 5m.
    #[arg(long, value_name = "TIME", value_parser = Span::parse, default_value = "0s")]
    after: Span,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The longest line of a file of events, in bytes.
const LINE: u64 = 1024 * 1024;

// === impl Rules ===

impl Rules {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        // Reads files and computes: not for the async threads.
        let work = tokio::task::spawn_blocking(move || match self.action {
            Action::Check(check) => check.run(),
            Action::DryRun(run) => run.run(),
        });
        work.await.context("it ended early")?
    }
}

/// The rules of a file; nothing, after naming every mistake, if it cannot be used.
fn read(file: &Path) -> anyhow::Result<Option<RuleSet>> {
    let cannot = || format!("cannot read {}", file.display());
    let mut text = String::new();
    let open = std::fs::File::open(file).with_context(cannot)?;
    open.take(MAX_FILE as u64 + 1).read_to_string(&mut text).with_context(cannot)?;
    match check_file(&text, Format::of(&file.to_string_lossy()), &Limits::default()) {
        Ok(set) => Ok(Some(set)),
        Err(findings) => {
            for finding in findings {
                output::complain(format_args!("{}:{finding}", file.display()));
            }
            Ok(None)
        }
    }
}

// === impl Check ===

impl Check {
    fn run(self) -> anyhow::Result<ExitCode> {
        let Some(set) = read(&self.file)? else { return Ok(ExitCode::FAILURE) };
        let topics: Vec<_> = set.filters().iter().map(ToString::to_string).collect();
        let kb = set.bytes().div_ceil(1024);
        output::line(format_args!(
            "{}: {} rules are sound; they look at {}, and their windows need {kb} KB at most",
            self.file.display(),
            set.len(),
            topics.join(", ")
        ))?;
        Ok(ExitCode::SUCCESS)
    }
}

// === impl DryRun ===

impl DryRun {
    fn run(self) -> anyhow::Result<ExitCode> {
        let Some(set) = read(&self.file)? else { return Ok(ExitCode::FAILURE) };
        let name = self.events.display().to_string();
        let lines: Box<dyn Read> = if name == "-" {
            Box::new(std::io::stdin())
        } else {
            Box::new(std::fs::File::open(&self.events).with_context(|| format!("cannot read {name}"))?)
        };
        let mut events = Events { lines: BufReader::new(lines), number: 0, failure: None, name };
        let mut printed = Ok(());
        // As it comes: the events may be those of a tail.
        let run = dry_run_into(set, &mut events, self.after.ms(), |mut out| {
            printed = out.try_for_each(|told| {
                output::line(if self.json { as_json(&told)?.to_string() } else { told.describe() })
            });
            if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        printed?;
        if let Some(failure) = events.failure {
            return Err(failure);
        }
        if !self.json {
            for rule in &run.rules {
                output::line(summary(rule))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Events from the lines of a file, until one cannot be read.
struct Events {
    lines: BufReader<Box<dyn Read>>,
    number: u64,
    failure: Option<anyhow::Error>,
    name: String,
}

impl Iterator for &mut Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        loop {
            let mut line = String::new();
            self.number += 1;
            let read = (&mut self.lines).take(LINE).read_line(&mut line);
            let event = match read.context("it cannot be read") {
                Ok(0) => return None,
                Ok(_) if line.trim().is_empty() => continue,
                Ok(_) => Event::read_line(line.trim()).map_err(anyhow::Error::from),
                Err(error) => Err(error),
            };
            match event {
                Ok(event) => return Some(event),
                Err(error) => {
                    self.failure = Some(error.context(format!("{} line {}", self.name, self.number)));
                    return None;
                }
            }
        }
    }
}

fn as_json(output: &Output) -> anyhow::Result<Value> {
    Ok(match output {
        Output::Window { id, window, .. } => json!({"id": id, "window": serde_json::to_value(window)?}),
        Output::Alert { id, alert, acts, publish, .. } => json!({
            "id": id,
            "alert": serde_json::to_value(alert)?,
            "published": publish,
            "acts": serde_json::to_value(acts)?,
        }),
    })
}

fn summary(rule: &RuleState) -> String {
    let counters = &rule.counters;
    let mut text = format!(
        "{}: {} of {} events counted, {} windows, {} alerts raised",
        rule.name, counters.counted, counters.events, counters.windows, counters.raised
    );
    for (count, what) in [(counters.late, "late"), (counters.evicted, "groups evicted")] {
        if count > 0 {
            text = format!("{text}, {count} {what}");
        }
    }
    if let Some(failure) = &rule.last_failure {
        let Failure { part, message, .. } = failure;
        text = format!("{text}, {} failures, the last: {part}: {message}", counters.failures);
    }
    text
}
