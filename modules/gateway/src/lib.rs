//! A Dapr-compatible HTTP door for modules in other languages.

mod settings;

pub use settings::GatewaySettings;

use shunt_module::Context;

/// Runs the module until shutdown.
pub async fn run(context: Context<GatewaySettings>) -> anyhow::Result<()> {
    context.serve(axum::Router::new());
    context.shutdown.cancelled().await;
    Ok(())
}
