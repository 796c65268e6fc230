//! `shunt bench rules`: how many events a second go through rules, and what memory that takes.

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use shunt_rules::{Engine, Event, Limits, RuleSet};
use shunt_wire::{Envelope, Kind, Name};

use crate::output;

/// Events a second through rules on one core, from the bytes of an event to windows and alerts, and the memory at the
/// beginning and at the end. Fails where the first row has less than 100000 events a second, or memory grows by more
/// than a tenth. In the first two rows each event is looked at by those rules that name its source: 5 of 100.
#[derive(Debug, Args)]
pub(crate) struct RulesBench {
    /// Rules.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=200))]
    rules: u32,
    /// Events a measurement.
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u32).range(10_000..=100_000_000))]
    events: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Sources that the events come from in turn.
const SOURCES: u32 = 20;
/// Milliseconds from one event to the next, in the time of the events.
const STEP_MS: i64 = 5;
/// 2026-11-21T09:00:00Z.
const START: i64 = 1_795_251_600_000;
/// What the bar asks, in events a second.
const BAR: f64 = 100_000.0;
/// How much larger than at the first tenth the memory may be at the end.
const GROWTH: f64 = 1.1;

/// What was measured.
#[derive(Debug)]
struct Row {
    name: &'static str,
    /// Rules that look at one event.
    looks: f64,
    /// Events in a second of processor time.
    rate: f64,
    outputs: u64,
    memory_kb: (u64, u64),
    groups: usize,
}

// === impl RulesBench ===

impl RulesBench {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let json = self.json;
        let rows = tokio::task::spawn_blocking(move || self.rows()).await.context("it ended early")??;
        if json {
            let rows: Vec<_> = rows.iter().map(Row::to_json).collect();
            output::line(json!({"rows": rows, "bar_per_s": BAR}))?;
        } else {
            let head = [
                "events",
                "rules an event",
                "events/s of a core",
                "outputs",
                "memory at 1/10",
                "at the end",
                "groups",
            ];
            let cells: Vec<_> = rows.iter().map(Row::cells).collect();
            output::line(output::table(&head, &cells))?;
        }
        // The bar is that of rules which look at their own topics; the other rows tell the limits. Memory grows in none.
        let met = rows.first().is_some_and(|row| row.rate >= BAR) && rows.iter().all(Row::is_even);
        Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn rows(&self) -> anyhow::Result<Vec<Row>> {
        Ok(vec![
            self.measure("emotion, each rule its source", false, true)?,
            self.measure("the same, read already", false, false)?,
            self.measure("emotion, each rule all", true, true)?,
        ])
    }

    /// One measurement: rules that look at one source each or at all, events from their bytes or read already.
    fn measure(&self, name: &'static str, all: bool, read: bool) -> anyhow::Result<Row> {
        let rules: Vec<(String, Value)> =
            (0..self.rules).map(|number| (format!("r{number:03}"), rule(number, all))).collect();
        let set =
            RuleSet::compile(rules.iter().map(|(name, rule)| (name.as_str(), rule)), &Limits::default());
        let set = set.map_err(|problems| anyhow::anyhow!("the rules are not sound: {problems:?}"))?;
        let mut engine = Engine::new(set, Limits::default(), START);
        // As many different ones as fit into a cache of the second level, so that none is known by heart.
        let bodies: Vec<Envelope> = (0..200).map(emotion).collect::<Result<_, _>>()?;
        let ready: Vec<Event> = bodies.iter().map(Event::read).collect::<Result<_, _>>()?;
        let events = if all { self.events / 10 } else { self.events };
        let (mut out, mut outputs, mut memory_kb) = (Vec::new(), 0, (0, 0));
        let mut took = Duration::ZERO;
        let mut begun = processor_time();
        for number in 0..events {
            let now = START + i64::from(number) * STEP_MS;
            let index = number as usize % bodies.len();
            let (Some(body), Some(ready)) = (bodies.get(index), ready.get(index)) else { continue };
            let mut event = if read { Event::read(body)? } else { ready.clone() };
            event.time_ms = now;
            engine.take(&event, now, &mut out);
            if number % 200 == 0 {
                engine.tick(now, &mut out);
            }
            outputs += out.len() as u64;
            out.clear();
            if number == events / 10 {
                took += processor_time().saturating_sub(begun);
                memory_kb.0 = memory()?;
                begun = processor_time();
            }
        }
        took += processor_time().saturating_sub(begun);
        memory_kb.1 = memory()?;
        let seen: u64 = engine.rules().iter().map(|rule| rule.counters.events).sum();
        let failures: u64 = engine.rules().iter().map(|rule| rule.counters.failures).sum();
        anyhow::ensure!(failures == 0, "{failures} expressions have failed");
        let looks = seen as f64 / f64::from(events);
        let rate = f64::from(events) / took.as_secs_f64();
        Ok(Row { name, looks, rate, outputs, memory_kb, groups: engine.groups() })
    }
}

/// A rule like those that are shipped: a condition, a group, a window, values, an alert.
fn rule(number: u32, all: bool) -> Value {
    let from = if all { "emotion".to_owned() } else { format!("emotion/camera-{}", number % SOURCES) };
    let window = match number % 3 {
        0 => json!({"tumbling": "10s"}),
        1 => json!({"sliding": "1m", "every": "10s"}),
        _ => json!({"count": 100}),
    };
    json!({
        "from": [from],
        "where": "data.probability > 0.5",
        "group_by": ["data.track"],
        "max_groups": 20,
        "window": window,
        "values": {
            "unhappy": "share(data.emotion in ['sadness', 'anger', 'disgust', 'fear', 'contempt'])",
            "sure": "mean(data.probability)",
            "slow": "percentile(data.inference_ms, 95)",
        },
        "when": format!("unhappy > 0.{} && n >= 20", 3 + number % 6),
        "until": "unhappy < 0.2",
        "publish": number % 10 == 0,
    })
}

/// An emotion event as the module publishes it.
fn emotion(number: u32) -> anyhow::Result<Envelope> {
    let source: Name = format!("camera-{}", number % SOURCES).parse()?;
    let feeling = ["neutral", "happiness", "sadness", "anger", "surprise"].get(number as usize % 5).copied();
    let data = json!({
        "sequence": number, "width": 640, "height": 480, "track": number / SOURCES % 5,
        "bounds": {"x": 120.5, "y": 84.25, "width": 96.0, "height": 110.5}, "score": 0.93,
        "emotion": feeling, "probability": 0.4 + f64::from(number % 7) * 0.08,
        "probabilities": {"neutral": 0.05, "happiness": 0.7, "surprise": 0.05, "sadness": 0.05, "anger": 0.05,
            "disgust": 0.04, "fear": 0.03, "contempt": 0.03},
        "models": ["blazeface-full-range", "emotion-ferplus-8"], "inference_ms": 20.0 + f64::from(number % 13), "model_ms": 18.5,
    });
    let event = Envelope::new(format!("e-{number}"), Kind::EMOTION, source, "2026-11-21T09:00:00Z");
    Ok(event.with_json(&data)?)
}

/// The time that this thread has had a core: what else the machine does is not in it.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Resident memory of this process, in KB.
fn memory() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

// === impl Row ===

impl Row {
    fn is_even(&self) -> bool {
        self.memory_kb.1 as f64 <= self.memory_kb.0 as f64 * GROWTH
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.to_owned(),
            format!("{:.0}", self.looks),
            format!("{:.0}", self.rate),
            self.outputs.to_string(),
            format!("{:.1} MB", self.memory_kb.0 as f64 / 1024.0),
            format!("{:.1} MB", self.memory_kb.1 as f64 / 1024.0),
            self.groups.to_string(),
        ]
    }

    fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "rules_an_event": self.looks,
            "events_per_s": self.rate,
            "outputs": self.outputs,
            "memory_kb": [self.memory_kb.0, self.memory_kb.1],
            "groups": self.groups,
        })
    }
}
