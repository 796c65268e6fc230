//! Deployment manifests of IoT Edge: routes, templates, checks.

pub mod routes;
