//! The broker of the device: Mosquitto and the supervisor that sets it up.

mod bridge;
mod settings;

pub use settings::{BusSettings, Grant};

use shunt_module::Context;

/// Runs the module until shutdown.
pub async fn run(context: Context<BusSettings>) -> anyhow::Result<()> {
    context.serve(axum::Router::new());
    context.shutdown.cancelled().await;
    Ok(())
}
