//! What is known of the running chain: written by those who watch it, read by the views and the report.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Add,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use shunt_wire::{Mono, events};

use super::{ledger::Ledger, metrics::Counters};
use crate::{
    chain::{Chain, ProcessNote},
    child,
    control::HubRecord,
};

/// News kept for the views; the oldest go.
const NEWS: usize = 200;
/// Emotions kept for the views; the oldest go.
const SIGHTINGS: usize = 50;

/// One process of the chain.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProcessState {
    /// Running now: its process id.
    pub(crate) pid: Option<i32>,
    /// Its HTTP address.
    pub(crate) address: Option<String>,
    /// It was told to stop.
    pub(crate) stopped: bool,
    /// Times it was started again.
    pub(crate) restarts: u32,
    /// Memory in RAM at the last look, in MiB.
    pub(crate) rss_mb: Option<f64>,
    /// Connected to the hub?
    pub(crate) connected: Option<bool>,
}

/// A face as an event told of it.
#[derive(Debug, Clone)]
pub(crate) struct Sighting {
    /// The camera's name.
    pub(crate) source: String,
    /// The data.
    pub(crate) emotion: events::Emotion,
}

/// How the chain does.
#[derive(Debug)]
pub(crate) struct State {
    /// When `shunt up` was started.
    pub(crate) started: Mono,
    /// What runs.
    pub(crate) processes: BTreeMap<String, ProcessState>,
    /// The counters of each module.
    pub(crate) counters: BTreeMap<String, Counters>,
    /// What reached the hub.
    pub(crate) ledger: Ledger,
    /// The latest emotions, newest last.
    pub(crate) sightings: VecDeque<Sighting>,
    /// The latest news, newest last.
    pub(crate) news: VecDeque<String>,
    /// News in all, so that a reader knows what it has not seen.
    pub(crate) news_count: u64,
    /// Frames a second, over the last seconds.
    pub(crate) frames_per_second: f64,
    /// The chain is being stopped.
    pub(crate) stopping: bool,
    /// Times at which frames were counted.
    rate: VecDeque<(Mono, f64)>,
    chain: Chain,
    folder: PathBuf,
}

/// The board; clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Board(Arc<Mutex<State>>);

// === impl Board ===

impl Board {
    pub(crate) fn new(started: Mono, chain: Chain, folder: PathBuf) -> Self {
        Self(Arc::new(Mutex::new(State {
            started,
            processes: BTreeMap::new(),
            counters: BTreeMap::new(),
            ledger: Ledger::default(),
            sightings: VecDeque::new(),
            news: VecDeque::new(),
            news_count: 0,
            frames_per_second: 0.0,
            stopping: false,
            rate: VecDeque::new(),
            chain,
            folder,
        })))
    }

    /// Looks at the state.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.0.lock())
    }

    /// Tells the user something.
    pub(crate) fn say(&self, news: impl Into<String>) {
        let mut state = self.0.lock();
        if state.news.len() == NEWS {
            state.news.pop_front();
        }
        state.news.push_back(news.into());
        state.news_count += 1;
    }

    /// The chain is being stopped: what misses another part from now on is no news.
    pub(crate) fn stops(&self) {
        self.0.lock().stopping = true;
    }

    /// A process was started.
    pub(crate) fn began(&self, name: &str, pid: i32, address: Option<String>) {
        let mut state = self.0.lock();
        let process = state.processes.entry(name.to_owned()).or_default();
        process.pid = Some(pid);
        process.stopped = false;
        process.address.clone_from(&address);
        let note = ProcessNote { pid, address };
        state.chain.processes.insert(name.to_owned(), note);
        state.leave_note();
    }

    /// A process ended; will it be started again?
    pub(crate) fn ended(&self, name: &str, again: bool) {
        let mut state = self.0.lock();
        if let Some(process) = state.processes.get_mut(name) {
            process.pid = None;
            process.stopped = !again;
            process.restarts += u32::from(again);
        }
        state.chain.processes.remove(name);
        state.leave_note();
    }

    /// A process is no longer wanted.
    pub(crate) fn forget(&self, name: &str) {
        self.0.lock().processes.remove(name);
    }

    /// A page of a module's metrics.
    pub(crate) fn counted(&self, module: &str, page: &str, now: Mono) {
        let mut state = self.0.lock();
        state.counters.entry(module.to_owned()).or_default().take(page);
        if module == "camera" {
            let frames = state.total("shunt_camera_frames_total");
            state.rate.push_back((now, frames));
            while state.rate.len() > 2
                && state.rate.front().is_some_and(|(at, _)| now.since(*at) > Duration::from_secs(5))
            {
                state.rate.pop_front();
            }
            if let Some((at, before)) = state.rate.front().copied() {
                let seconds = now.since(at).as_secs_f64();
                state.frames_per_second = if seconds > 0.0 { (frames - before) / seconds } else { 0.0 };
            }
        }
    }

    /// A message reached the hub. Says whether it is the first.
    pub(crate) fn arrived(&self, record: &HubRecord) -> Option<Duration> {
        let mut state = self.0.lock();
        let first = state.ledger.first.is_none();
        if !state.ledger.take(record) {
            return None;
        }
        if record.property("kind") == Some("emotion")
            && let Ok(emotion) = serde_json::from_value::<events::Emotion>(record.body.clone())
        {
            let source = record.property("source").unwrap_or_default();
            let source = source.strip_prefix("shunt/").unwrap_or(source).to_owned();
            if state.sightings.len() == SIGHTINGS {
                state.sightings.pop_front();
            }
            state.sightings.push_back(Sighting { source, emotion });
        }
        let at = state.ledger.first.filter(|_| first)?;
        Some(at.since(state.started))
    }

    /// Looks at the memory of all processes, and at who is connected.
    pub(crate) fn look(&self, connected: &BTreeMap<String, bool>) {
        for (name, process) in &mut self.0.lock().processes {
            if let Some(mb) = process.pid.and_then(child::resident_mb) {
                process.rss_mb = Some(mb);
            }
            if let Some(connected) = connected.get(name) {
                process.connected = Some(*connected);
            }
        }
    }
}

// === impl State ===

impl State {
    fn leave_note(&mut self) {
        if let Err(error) = self.chain.write(&self.folder) {
            self.news.push_back(format!("{error:#}"));
            self.news_count += 1;
        }
    }

    /// A counter, summed over all modules.
    pub(crate) fn total(&self, name: &str) -> f64 {
        self.counters.values().map(|counters| counters.sum(name)).fold(0.0, f64::add)
    }

    /// Events that relay accepted and that are nowhere: not at the hub, not dropped and counted, not queued.
    pub(crate) fn lost(&self) -> u64 {
        let accepted = self.total("shunt_relay_accepted_events_total");
        let elsewhere = self.dropped() + self.total("shunt_relay_queued_events") + self.ledger.events as f64;
        (accepted - elsewhere).max(0.0) as u64
    }

    /// Events that relay dropped, for whatever reason.
    pub(crate) fn dropped(&self) -> f64 {
        self.total("shunt_relay_dropped_events_total")
    }

    /// The object that `--json` prints.
    pub(crate) fn report(&self) -> Value {
        let first = self.ledger.first.map(|first| milliseconds(first.since(self.started)));
        let memory: Map<String, Value> = self
            .processes
            .iter()
            .filter_map(|(name, process)| Some((name.clone(), json!(process.rss_mb?))))
            .collect();
        let by_label = |metric: &str, label: &str| {
            let mut all = BTreeMap::<String, u64>::new();
            for counters in self.counters.values() {
                for (name, value) in counters.by_label(metric, label) {
                    *all.entry(name).or_default() += value;
                }
            }
            all
        };
        let restarts: BTreeMap<&str, u32> = self
            .processes
            .iter()
            .filter(|(_, process)| process.restarts > 0)
            .map(|(name, process)| (name.as_str(), process.restarts))
            .collect();
        json!({
            "first_event_ms": first,
            "frames": self.total("shunt_camera_frames_total") as u64,
            "frames_skipped": self.total("shunt_camera_frames_skipped_total") as u64
                + self.total("shunt_emotion_frames_skipped_total") as u64,
            "faces": self.total("shunt_emotion_faces_total") as u64,
            "emotions": self.total("shunt_emotion_emotions_total") as u64,
            "emotions_by_name": by_label("shunt_emotion_emotions_total", "emotion"),
            "accepted": self.total("shunt_relay_accepted_events_total") as u64,
            "events_at_hub": self.ledger.events,
            "repeated_at_hub": self.ledger.messages - self.ledger.events,
            "queued": self.total("shunt_relay_queued_events") as u64,
            "lost": self.lost(),
            "dropped": self.dropped() as u64,
            "dropped_by_reason": by_label("shunt_relay_dropped_events_total", "reason"),
            "latency_ms": self.ledger.latency_json(),
            "rss_mb": memory,
            "restarts": restarts,
        })
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> Board {
        let chain = Chain {
            pid: 1,
            device: "d".to_owned(),
            control: "http://127.0.0.1:1".to_owned(),
            bus: "mqtt://127.0.0.1:2".to_owned(),
            processes: BTreeMap::new(),
        };
        let folder = tempfile::tempdir().unwrap();
        Board::new(Mono::from_nanos(0), chain, folder.path().to_path_buf())
    }

    #[test]
    fn lost_is_what_is_neither_at_the_hub_nor_dropped_nor_queued() {
        let board = board();
        board.counted(
            "relay",
            "shunt_relay_accepted_events_total{kind=\"emotion\"} 10\nshunt_relay_dropped_events_total{reason=\"rate\"} 2\nshunt_relay_queued_events 3\n",
            Mono::from_nanos(1),
        );
        for id in ["a", "b", "b"] {
            let record = json!({"sequence": 1, "properties": {"id": id, "kind": "emotion"}, "received_mono_ns": 5_000_000});
            board.arrived(&serde_json::from_value(record).unwrap());
        }
        let report = board.read(State::report);
        assert_eq!(
            (&report["lost"], &report["dropped"], &report["queued"]),
            (&json!(3), &json!(2), &json!(3))
        );
        assert_eq!((&report["events_at_hub"], &report["repeated_at_hub"]), (&json!(2), &json!(1)));
        assert_eq!(report["first_event_ms"], 5.0);
    }

    #[test]
    fn frames_per_second_follow_the_last_seconds() {
        let board = board();
        for second in 0..10_u64 {
            let page = format!("shunt_camera_frames_total {}\n", second * 15);
            board.counted("camera", &page, Mono::from_nanos(second * 1_000_000_000));
        }
        assert!((board.read(|state| state.frames_per_second) - 15.0).abs() < 0.01);
    }
}
