//! The stand-in as its clients see it: over its sockets, with real clients where there are some.

#![expect(
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "the helpers of tests may do what tests may"
)]

mod connect;
mod hub;
mod inputs;
mod methods;
mod sdk;
mod support;
mod telemetry;
mod twins;
mod workload;
