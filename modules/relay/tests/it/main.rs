//! The relay as its users see it: events in on the bus, messages out at the hub.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test that cannot go on shall fail"
)]

mod delivery;
mod disk;
mod docs;
mod drops;
mod process;
mod redis;
mod rig;
