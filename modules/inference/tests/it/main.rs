//! The module through its front door: real models, real pictures.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test ends by a panic"
)]

mod docs;
mod frames;
mod open_inference;
mod overload;
mod pictures;
mod score;
mod shadows;
mod swaps;
mod twin;
mod urls;
mod yard;
