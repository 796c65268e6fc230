//! Functions.
mod grants;
mod host;
mod name;
mod reach;
mod triggers;
