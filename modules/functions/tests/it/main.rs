//! The module through its front door: real guests, a real bus, real requests.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test ends by a panic, and says what it passes over"
)]

mod docs;
mod field;
mod guests;
mod library;
mod reach;
mod text;
mod yard;
