//! The command as a user calls it, without a chain. The tests of a running chain are in the workspace's `tests/`.

#[cfg(test)]
mod bench;
#[cfg(test)]
mod command;
#[cfg(test)]
mod function;
#[cfg(test)]
mod models;
