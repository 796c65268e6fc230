//! Whole-system tests: the chain as a user starts it, real processes over a real broker, and the laws of the house.

#[cfg(test)]
mod bus;
#[cfg(test)]
mod chain;
#[cfg(test)]
mod command;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod functions;
#[cfg(test)]
mod gateway;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod pictures;
#[cfg(test)]
mod steering;
#[cfg(test)]
mod stopping;
#[cfg(test)]
mod templates;
