//! Rules over event files, random events, and CEL beside the crate that reads it.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends by a panic"
)]

mod cel;
mod engine;
mod examples;
mod naive;
mod support;
