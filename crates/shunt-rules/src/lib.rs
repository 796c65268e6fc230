//! Rules.
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
pub use dry_run::{DryRun, dry_run};
pub use engine::{Counters, Engine, Failure, Limits, RaisedGroup, RestoreError, RuleSet, RuleState};
pub use event::{Event, EventError, MAX_DATA};
pub use expression::{ExpressionError, FUNCTIONS, MAX_DEPTH, MAX_LENGTH, MAX_STEPS};
pub use file::{Finding, Format, MAX_FILE, check_file, read_rules};
pub use rule::Problem;
pub use spec::{
    ActionSpec, CallSpec, MethodSpec, On, RuleSpec, SetSpec, Severity, SnapshotSpec, Span, WindowSpec,
};
