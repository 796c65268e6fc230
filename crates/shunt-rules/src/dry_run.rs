//! What would have happened.

use crate::{Engine, Event, Limits, Output, RuleSet, RuleState};

/// Most steps of the clock between two events: a module's clock steps each second.
const STEPS: i64 = 1_000;

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
        pass(engine, now, event.time_ms, &mut outputs);
        now = now.max(event.time_ms);
        engine.take(&event, now, &mut outputs);
        taken += 1;
    }
    let mut engine = match (engine, set) {
        (Some(engine), _) => engine,
        (None, set) => Engine::new(set.unwrap_or_default(), limits, 0),
    };
    if taken > 0 {
        engine.tick(now, &mut outputs);
        pass(&mut engine, now, now.saturating_add(after_ms), &mut outputs);
    }
    DryRun { outputs, rules: engine.rules(), events: taken }
}

/// Lets time go by, second by second where it is not too long.
fn pass(engine: &mut Engine, from: i64, to: i64, outputs: &mut Vec<Output>) {
    let step = (to.saturating_sub(from) / STEPS).max(1_000);
    let mut now = from;
    while now < to {
        now = now.saturating_add(step).min(to);
        engine.tick(now, outputs);
    }
}
