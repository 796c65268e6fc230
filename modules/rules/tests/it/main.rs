//! The module through its front door: a real broker, real events, the stand-in's twin and methods, restarts.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends by a panic"
)]

mod actions;
mod alerts;
mod docs;
mod http;
mod restart;
mod stage;
mod twin;
