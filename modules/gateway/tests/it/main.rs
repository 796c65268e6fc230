//! The gateway as its users see it: through its port, with the clients that they have.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test that cannot go on shall fail"
)]
#![allow(clippy::needless_pass_by_value, reason = "values are written as literals where they are used")]

mod conformance;
mod docs;
mod events_sdk;
mod invoke;
mod metadata;
mod process;
mod pubsub;
mod registry;
mod rig;
mod sdk;
mod shop;
mod state;
