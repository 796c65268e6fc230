//! The stand-in as its clients see it: over its sockets, with real clients where there are some.

mod connect;
mod hub;
mod inputs;
mod methods;
mod sdk;
mod support;
mod telemetry;
mod twins;
mod workload;
