//! What would have happened.

use crate::{Engine, Event, Limits, Output, RuleSet, RuleState};

/// What would have happened.
#[derive(Debug, Clone, PartialEq)]
pub struct DryRun {
    /// Everything that came out, in order.
    pub outputs: Vec<Output>,
    /// The rules at the end.
    pub rules: Vec<RuleState>,
    /// Events taken.
    pub events: u64,
}

/// Runs rules over events in the order given. The time is that of the newest event; after the last one it goes on for
/// `after_ms` milliseconds. The same rules and events have the same results.
pub fn dry_run(set: RuleSet, events: impl IntoIterator<Item = Event>, after_ms: i64) -> DryRun {
    let limits = Limits { ahead_ms: i64::MAX / 4, ..Limits::default() };
    let (mut outputs, mut taken, mut now) = (Vec::new(), 0, i64::MIN);
    let mut set = Some(set);
    let mut engine: Option<Engine> = None;
    for event in events {
        if let Some(set) = set.take() {
            now = event.time_ms;
            engine = Some(Engine::new(set, limits, now));
        }
        let Some(engine) = &mut engine else { continue };
        if event.time_ms > now {
            now = event.time_ms;
            engine.tick(now, &mut outputs);
        }
        engine.take(&event, now, &mut outputs);
        taken += 1;
    }
    let mut engine = match (engine, set) {
        (Some(engine), _) => engine,
        (None, set) => Engine::new(set.unwrap_or_default(), limits, 0),
    };
    if taken > 0 {
        engine.tick(now.saturating_add(after_ms), &mut outputs);
    }
    DryRun { outputs, rules: engine.rules(), events: taken }
}
