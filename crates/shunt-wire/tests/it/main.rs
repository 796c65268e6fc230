//! The vocabulary, as others on the wire see it.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test stops at what it does not expect"
)]

mod golden;
mod law;
mod properties;
mod seed;
