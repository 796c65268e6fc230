//! The bus, as a module sees it.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test stops at what it does not expect"
)]

mod backends;
mod bridge;
mod conformance;
mod local;
mod mqtt;
mod numbered;
mod presence;
mod raw;
mod redis;
mod tls;
