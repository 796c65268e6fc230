//! The view for what is no terminal: a line a second, and the news as they come.

use std::{fmt::Write, time::Duration};

use shunt_wire::Mono;
use tokio_util::sync::CancellationToken;

use super::board::{Board, Sighting, State};
use crate::output;

const EVERY: Duration = Duration::from_secs(1);

/// Prints until it is told to stop, the last news included; to standard error where standard output is for JSON.
pub(crate) async fn show(board: Board, stop: CancellationToken, to_errors: bool) {
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let (mut told, mut last, mut seen) = (0, shunt_bus::clock::now(), 0);
    loop {
        let over = tokio::select! {
            _ = tick.tick() => false,
            () = stop.cancelled() => true,
        };
        let now = shunt_bus::clock::now();
        let mut lines: Vec<String> = Vec::new();
        board.read(|state| {
            let new = (state.news_count - told).min(state.news.len() as u64) as usize;
            lines.extend(state.news.iter().skip(state.news.len() - new).cloned());
            told = state.news_count;
            if !over && now.since(last) >= EVERY {
                last = now;
                let sighting = state.sightings.back().filter(|_| state.ledger.events > seen);
                seen = state.ledger.events;
                lines.push(status_line(state, now, sighting));
            }
        });
        for line in lines {
            if to_errors {
                output::complain(line);
            } else if output::line(line).is_err() {
                return;
            }
        }
        if over {
            return;
        }
    }
}

fn status_line(state: &State, now: Mono, sighting: Option<&Sighting>) -> String {
    let seconds = now.since(state.started).as_secs_f64();
    let mut line = format!(
        "{seconds:6.1} s  {:5.1} frames/s  {} faces  {} events at the hub",
        state.frames_per_second,
        state.total("shunt_emotion_faces_total"),
        state.ledger.events,
    );
    if let (Some(p50), Some(p99)) = (state.ledger.total.quantile(0.5), state.ledger.total.quantile(0.99)) {
        write!(line, "  capture to hub {p50:.1} ms p50, {p99:.1} ms p99").ok();
    }
    if let Some(sighting) = sighting {
        line.extend(["  ", &describe(sighting)]);
    }
    line
}

/// One face in words.
pub(crate) fn describe(Sighting { source, emotion }: &Sighting) -> String {
    format!("{source} #{}: {} {:.2}", emotion.face.track, emotion.emotion, emotion.probability)
}

/// What is said at the end.
pub(crate) fn summary(state: &State) -> String {
    let count = |name| state.total(name);
    let mut text = format!(
        "{} frames, {} faces, {} emotions; {} events at the hub, {} lost, {} dropped",
        count("shunt_camera_frames_total"),
        count("shunt_emotion_faces_total"),
        count("shunt_emotion_emotions_total"),
        state.ledger.events,
        state.lost(),
        state.dropped(),
    );
    if state.ledger.total.count() > 0 {
        text.push('\n');
        text.push_str(&output::table(&["where the time goes", "p50 ms", "p99 ms"], &hops(state)));
    }
    text
}

/// The hops and the whole, in milliseconds.
pub(crate) fn hops(state: &State) -> Vec<Vec<String>> {
    let cell = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
    let row = |name: &str, times: &super::ledger::Times| {
        vec![name.to_owned(), cell(times.quantile(0.5)), cell(times.quantile(0.99))]
    };
    let mut rows: Vec<_> = state.ledger.hops.iter().map(|(name, times)| row(name, times)).collect();
    rows.push(row("capture to hub", &state.ledger.total));
    rows
}
