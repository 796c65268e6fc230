//! The module through its front door: HTTP, a real broker, a second instance as the container, the stand-in's methods.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends by a panic"
)]

mod api;
mod bus;
mod cognitive;
mod docs;
mod methods;
mod models;
mod stage;
