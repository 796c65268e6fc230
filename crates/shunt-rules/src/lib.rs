//! Rules over events: which events, put together how, mean what, and what is to be done then.
//!
//! - [`RuleSet`]: rules, checked and compiled. [`check_file`] reads them from TOML or JSON and tells the line and column
//!   of each mistake.
//! - [`Engine`]: takes events and gives out alerts, window results and what is to be done ([`Output`]).
//! - [`dry_run`], [`dry_run_into`]: what would have happened with these events.
//!
//! It promises:
//!
//! - The same events at the same times have the same results, on every machine and across a restart
//!   ([`Engine::save`], [`Engine::restore`]).
//! - Memory is bounded by what [`Limits`] allow: windows hold sums and not events, and a set of rules that may need more
//!   is refused.
//! - An expression is compiled once, has limits of length, depth and steps, and tells its line and column when it fails.
//!   Its rule leaves the event out then, and no other rule notices.
//!
//! It deliberately does no I/O: it reads no clock and no file, publishes nothing, and does not do what a rule wants done.
//!
//! ```
//! use serde_json::json;
//! use shunt_rules::{Event, Limits, RuleSet, dry_run};
//!
//! let rule = json!({"from": ["temperature"], "when": "data.celsius > 80", "message": "${data.celsius} degrees"});
//! let rules = RuleSet::compile([("hot", &rule)], &Limits::default()).map_err(|problems| format!("{problems:?}"))?;
//! let event = r#"{"specversion": "1.0", "id": "1", "type": "shunt.temperature.v1", "source": "shunt/box",
//!     "time": "2026-11-21T09:00:00Z", "data": {"celsius": 85}}"#;
//! let run = dry_run(rules, [Event::read_line(event)?], 0);
//! assert_eq!(run.outputs[0].describe(), "2026-11-21T09:00:00.000Z  hot  RAISED (warning): 85 degrees");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod act;
mod aggregate;
mod alarm;
mod bits;
mod dry_run;
mod engine;
mod event;
mod expression;
mod file;
mod group;
mod rule;
mod sketch;
mod spec;
mod template;
mod value;

pub use act::{Act, Output};
pub use aggregate::AGGREGATES;
pub use dry_run::{DryRun, dry_run, dry_run_into};
pub use engine::{Counters, Engine, Failure, Limits, RaisedGroup, RestoreError, RuleSet, RuleState};
pub use event::{Event, EventError, MAX_DATA};
pub use expression::{ExpressionError, FUNCTIONS, MAX_DEPTH, MAX_LENGTH, MAX_STEPS};
pub use file::{Finding, Format, MAX_FILE, check_file, read_rules};
pub use rule::Problem;
pub use spec::{
    ActionSpec, CallSpec, MethodSpec, On, RuleSpec, SetSpec, Severity, SnapshotSpec, Span, WindowSpec,
};
