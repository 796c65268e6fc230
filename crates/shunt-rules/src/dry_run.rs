//! What would have happened.

use std::{ops::ControlFlow, vec::Drain};

use crate::{Engine, Event, Limits, Output, RuleSet, RuleState};

/// Most steps of the clock between two events: a module's clock steps each second.
const STEPS: i64 = 1_000;

/// What would have happened.
#[derive(Debug, Clone, PartialEq)]
pub struct DryRun {
    /// Everything that came out, in order; nothing from [`dry_run_into`], which gives it away.
    pub outputs: Vec<Output>,
    /// The rules at the end.
    pub rules: Vec<RuleState>,
    /// Events taken.
    pub events: u64,
    /// Was it stopped before the end?
    pub stopped: bool,
}

/// A run at work.
struct Run<S> {
    engine: Engine,
    now: i64,
    out: Vec<Output>,
    sink: S,
}

/// Runs rules over events in the order given. The time is that of the newest event; after the last one it goes on for
/// `after_ms` milliseconds. The same rules and events have the same results.
///
/// All that comes out is kept: where it may be much, [`dry_run_into`] takes it as it comes.
pub fn dry_run(set: RuleSet, events: impl IntoIterator<Item = Event>, after_ms: i64) -> DryRun {
    let mut outputs = Vec::new();
    let run = dry_run_into(set, events, after_ms, |out| {
        outputs.extend(out);
        ControlFlow::Continue(())
    });
    DryRun { outputs, ..run }
}

/// The same, but what comes out of each event and each step of the clock is given away at once, also where it is
/// nothing. The run stops where `sink` breaks.
pub fn dry_run_into(
    set: RuleSet,
    events: impl IntoIterator<Item = Event>,
    after_ms: i64,
    sink: impl FnMut(Drain<'_, Output>) -> ControlFlow<()>,
) -> DryRun {
    let limits = Limits { ahead_ms: i64::MAX / 4, ..Limits::default() };
    let mut events = events.into_iter().peekable();
    let now = events.peek().map_or(0, |event| event.time_ms);
    let mut run = Run { engine: Engine::new(set, limits, now), now, out: Vec::new(), sink };
    let mut taken = 0;
    let flow = run.go(events, after_ms, &mut taken);
    DryRun { outputs: Vec::new(), rules: run.engine.rules(), events: taken, stopped: flow.is_break() }
}

// === impl Run ===

impl<S: FnMut(Drain<'_, Output>) -> ControlFlow<()>> Run<S> {
    fn go(&mut self, events: impl Iterator<Item = Event>, after_ms: i64, taken: &mut u64) -> ControlFlow<()> {
        for event in events {
            self.pass(event.time_ms)?;
            self.engine.take(&event, self.now, &mut self.out);
            *taken += 1;
            self.tell()?;
        }
        if *taken == 0 {
            return ControlFlow::Continue(());
        }
        self.engine.tick(self.now, &mut self.out);
        self.tell()?;
        self.pass(self.now.saturating_add(after_ms))
    }

    /// Lets time go by, second by second where it is not too long.
    fn pass(&mut self, to: i64) -> ControlFlow<()> {
        let step = (to.saturating_sub(self.now) / STEPS).max(1_000);
        while self.now < to {
            self.now = self.now.saturating_add(step).min(to);
            self.engine.tick(self.now, &mut self.out);
            self.tell()?;
        }
        ControlFlow::Continue(())
    }

    fn tell(&mut self) -> ControlFlow<()> {
        (self.sink)(self.out.drain(..))
    }
}
