//! The module with the real Mosquitto and the stand-in's workload API.

mod attacks;
mod bridge;
mod docs;
mod life;
mod raw;
mod support;
