//! The gateway as its users see it: through its port, with the clients that they have.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test that cannot go on shall fail"
)]

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
