//! The last warnings and errors of the log, for those who cannot read it.

use std::{collections::VecDeque, fmt::Write as _, sync::Arc};

use parking_lot::Mutex;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

use crate::redact;

/// Most lines kept. When they are all there, the oldest goes.
const LINES: usize = 64;
/// Most bytes of a line; what is beyond is cut.
const LINE: usize = 1024;

/// The last warnings and errors: a layer of the log, and who reads it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recent(Arc<Mutex<VecDeque<String>>>);

/// Writes the fields of an event in one line, the message first.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

// === impl Recent ===

impl Recent {
    /// The lines, the oldest first; passwords in addresses are not shown.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().iter().cloned().collect()
    }
}

impl<S: Subscriber> Layer<S> for Recent {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        if *event.metadata().level() > Level::WARN {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        let time = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let (level, target) = (event.metadata().level(), event.metadata().target());
        let text = format!("{time} {level} {target}: {}{}", line.message, line.fields);
        let mut text = redact::text(&text).into_owned();
        text.truncate(text.floor_char_boundary(LINE));
        let mut lines = self.0.lock();
        if lines.len() >= LINES {
            lines.pop_front();
        }
        lines.push_back(text);
    }
}

// === impl Line ===

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a String cannot fail.
        match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        }
        .ok();
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn the_last_warnings_and_errors_are_kept_without_passwords_and_nothing_else() {
        let recent = Recent::default();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(recent.clone()), || {
            tracing::info!("Nothing happened.");
            for number in 0..70 {
                tracing::warn!(number, "It rains.");
            }
            tracing::error!(address = "x://u:secret@h", text = "y".repeat(2_000), "It burns.");
        });
        let lines = recent.lines();
        assert_eq!(lines.len(), LINES);
        assert!(lines[0].ends_with("It rains. number=7"), "{}", lines[0]);
        let last = lines.last().unwrap();
        assert!(last.contains(" ERROR ") && last.contains("It burns. address=\"x://***@h"), "{last}");
        assert_eq!(last.len(), LINE);
    }
}
