//! The module with the real Mosquitto and the stand-in's workload API.

mod docs;
mod life;
mod support;
