//! The model that Shunt ships, through its front door.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a test ends by a panic")]

mod accuracy;
mod files;
