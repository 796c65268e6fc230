//! The module through its front door: a real broker, real models, real pictures.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test ends by a panic"
)]

mod bad_input;
mod http;
mod settings;
mod stage;
mod tracks;
mod what_it_sees;
