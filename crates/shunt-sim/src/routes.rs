//! Routes of edgeHub: `FROM <source> [WHERE <condition>] INTO <sink>`.
//!
//! The language lives in `shunt-manifest`, which checks manifests without a stand-in; this is the same code, so a route
//! that the check accepts is the route that the stand-in runs.

pub use shunt_manifest::routes::{
    MAX_ROUTE_LENGTH, Route, RouteError, RouteMessage, SYSTEM_PROPERTIES, Sink, Source,
};
