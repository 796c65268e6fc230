//! The view for a terminal.

use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Cell, Paragraph, Row, Table},
};
use shunt_wire::events::Expression;
use tokio_util::sync::CancellationToken;

use super::{
    board::{Board, State},
    lines,
};

const EVERY: Duration = Duration::from_millis(200);

/// Draws until it is told to stop; Ctrl-C, q and Escape ask the chain to stop.
pub(crate) async fn show(board: Board, done: CancellationToken, stop: CancellationToken) {
    let mut terminal = ratatui::init();
    let keys = tokio::task::spawn_blocking({
        let done = done.clone();
        move || watch_keys(&done, &stop)
    });
    let mut tick = tokio::time::interval(EVERY);
    loop {
        let drawn = board.read(|state| terminal.draw(|frame| draw(frame, state)).map(drop));
        tokio::select! {
            _ = tick.tick() => {}
            () = done.cancelled() => break,
        }
        if drawn.is_err() {
            break;
        }
    }
    drop(keys.await);
    restore();
}

/// Gives the terminal back as it was.
pub(crate) fn restore() {
    if crossterm::terminal::is_raw_mode_enabled().unwrap_or(false) {
        ratatui::restore();
    }
}

/// In raw mode the terminal sends Ctrl-C as a key.
fn watch_keys(done: &CancellationToken, stop: &CancellationToken) {
    while !done.is_cancelled() {
        if !event::poll(Duration::from_millis(100)).unwrap_or(false) {
            continue;
        }
        let Ok(Event::Key(key)) = event::read() else { continue };
        let ctrl_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        if key.kind == KeyEventKind::Press
            && (ctrl_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc))
        {
            if stop.is_cancelled() {
                restore();
                std::process::exit(130);
            }
            stop.cancel();
        }
    }
}

fn draw(frame: &mut Frame<'_>, state: &State) {
    let [head, middle, news] =
        Layout::vertical([Constraint::Length(3), Constraint::Min(8), Constraint::Length(8)])
            .areas(frame.area());
    let [left, right] =
        Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]).areas(middle);
    let [modules, hops] =
        Layout::vertical([Constraint::Percentage(45), Constraint::Percentage(55)]).areas(right);
    draw_head(frame, head, state);
    draw_emotions(frame, left, state);
    draw_modules(frame, modules, state);
    draw_hops(frame, hops, state);
    let lines: Vec<Line<'_>> =
        state.news.iter().rev().take(6).rev().map(|line| Line::from(line.as_str())).collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" news ")), news);
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let seconds = shunt_bus::clock::now().since(state.started).as_secs();
    let lost = state.lost();
    let mut spans = Vec::new();
    for (value, unit) in [
        (format!("{:.1}", state.frames_per_second), "frames/s"),
        (state.total("shunt_emotion_faces_total").to_string(), "faces"),
        (state.ledger.events.to_string(), "events at the hub"),
        (state.total("shunt_relay_queued_events").to_string(), "queued"),
        (state.dropped().to_string(), "dropped"),
    ] {
        spans.push(Span::styled(value, bold));
        spans.push(Span::raw(format!(" {unit}   ")));
    }
    let first = state.ledger.first.map(|first| first.since(state.started).as_secs_f64());
    spans.push(Span::raw(first.map_or_else(
        || "waiting for the first event".to_owned(),
        |first| format!("first event after {first:.2} s"),
    )));
    // Between two looks at the relay events are under way; only many are worth a word.
    if lost > 100 {
        spans.push(Span::styled(format!("   {lost} on the way"), Style::new().fg(Color::Yellow)));
    }
    let title = format!(" shunt up, {}:{:02} (q stops) ", seconds / 60, seconds % 60);
    frame.render_widget(Paragraph::new(Line::from(spans)).block(Block::bordered().title(title)), area);
}

fn draw_emotions(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let rows = state.sightings.iter().rev().take(area.height.saturating_sub(2) as usize).map(|sighting| {
        let emotion = &sighting.emotion;
        let filled = (emotion.probability.clamp(0.0, 1.0) * 16.0).round() as usize;
        Row::new([
            Cell::from(sighting.source.clone()),
            Cell::from(format!("#{}", emotion.face.track)),
            Cell::from(emotion.emotion.as_str()).style(Style::new().fg(colour(emotion.emotion))),
            Cell::from(format!("{}{}", "█".repeat(filled), "·".repeat(16 - filled.min(16)))),
            Cell::from(format!("{:.2}", emotion.probability)),
        ])
    });
    let widths = [12, 6, 10, 16, 5].map(Constraint::Length);
    let table = Table::new(rows, widths).block(Block::bordered().title(" faces at the hub, newest first "));
    frame.render_widget(table, area);
}

fn draw_modules(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let rows = state.processes.iter().map(|(name, process)| {
        let (word, colour) = match (process.pid, process.connected) {
            (None, _) if process.stopped => ("stopped", Color::Gray),
            (None, _) => ("restarting", Color::Red),
            (Some(_), Some(false)) => ("no hub yet", Color::Yellow),
            (Some(_), _) => ("running", Color::Green),
        };
        Row::new([
            Cell::from(name.as_str()),
            Cell::from(word).style(Style::new().fg(colour)),
            Cell::from(process.rss_mb.map(|mb| format!("{mb:.0} MB")).unwrap_or_default()),
            Cell::from(process.address.clone().unwrap_or_default()),
            Cell::from(if process.restarts > 0 {
                format!("{} restarts", process.restarts)
            } else {
                String::new()
            }),
        ])
    });
    let widths = [10, 10, 8, 16, 12].map(Constraint::Length);
    frame.render_widget(Table::new(rows, widths).block(Block::bordered().title(" processes ")), area);
}

fn draw_hops(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let rows = lines::hops(state).into_iter().map(Row::new);
    let table = Table::new(rows, [Constraint::Min(18), Constraint::Length(9), Constraint::Length(9)])
        .header(Row::new(["hop", "p50 ms", "p99 ms"]).style(Style::new().add_modifier(Modifier::BOLD)))
        .block(Block::bordered().title(" where the time goes "));
    frame.render_widget(table, area);
}

fn colour(expression: Expression) -> Color {
    match expression {
        Expression::Neutral => Color::Gray,
        Expression::Happiness => Color::Green,
        Expression::Surprise => Color::Yellow,
        Expression::Sadness => Color::Blue,
        Expression::Anger => Color::Red,
        Expression::Disgust => Color::Magenta,
        Expression::Fear => Color::Cyan,
        Expression::Contempt => Color::LightRed,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ratatui::{Terminal, backend::TestBackend};
    use serde_json::json;
    use shunt_wire::Mono;

    use super::*;
    use crate::chain::Chain;

    #[test]
    fn the_view_shows_faces_processes_and_hops() {
        let folder = tempfile::tempdir().unwrap();
        let chain = Chain {
            pid: 1,
            device: "d".to_owned(),
            control: String::new(),
            bus: String::new(),
            processes: BTreeMap::new(),
        };
        let board = Board::new(Mono::from_nanos(0), chain, folder.path().to_path_buf());
        board.began("camera", 1, Some("127.0.0.1:8081".to_owned()));
        board.say("something happened");
        let probabilities = json!({"neutral": 0.0, "happiness": 0.9, "surprise": 0.0, "sadness": 0.1, "anger": 0.0,
            "disgust": 0.0, "fear": 0.0, "contempt": 0.0});
        let body = json!({"sequence": 1, "width": 640, "height": 480, "track": 4, "score": 0.9,
            "bounds": {"x": 1.0, "y": 1.0, "width": 9.0, "height": 9.0}, "emotion": "happiness",
            "probability": 0.9, "probabilities": probabilities, "models": ["a", "b"], "inference_ms": 9.5, "model_ms": 9.0});
        let properties = json!({"id": "a-1", "kind": "emotion", "source": "shunt/front-door",
            "shuntcapture": "1000000", "shunthops": "camera:0-500000,emotion:700000-9000000,relay:9500000-9600000"});
        let record =
            json!({"sequence": 0, "properties": properties, "body": body, "received_mono_ns": 12_000_000});
        board.arrived(&serde_json::from_value(record).unwrap());
        let mut terminal = Terminal::new(TestBackend::new(120, 30)).unwrap();
        terminal.draw(|frame| board.read(|state| draw(frame, state))).unwrap();
        let screen = terminal.backend().to_string();
        for shown in [
            "front-door",
            "#4",
            "happiness",
            "0.90",
            "camera to emotion",
            "127.0.0.1:8081",
            "something happened",
        ] {
            assert!(screen.contains(shown), "{shown} is missing in\n{screen}");
        }
    }
}
