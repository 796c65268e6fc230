//! Text sentiment.

mod settings;

pub use settings::SentimentSettings;

use shunt_module::Context;

/// Runs the module until shutdown.
pub async fn run(context: Context<SentimentSettings>) -> anyhow::Result<()> {
    context.serve(axum::Router::new());
    context.shutdown.cancelled().await;
    Ok(())
}
