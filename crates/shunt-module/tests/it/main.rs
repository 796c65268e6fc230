//! A module as its users see it: through its environment, its HTTP interface, its twin, and its exit code.

mod docs;
mod heart;
mod lifecycle;
mod twin;
