//! A module as its users see it: through its environment, its HTTP interface, its twin, and its exit code.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test that cannot go on shall fail"
)]

mod docs;
mod heart;
mod lifecycle;
mod services;
mod twin;
