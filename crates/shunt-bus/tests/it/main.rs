//! The bus, as a module sees it.

mod backends;
mod conformance;
mod mqtt;
mod numbered;
mod presence;
mod tls;
