//! The broker of the device: Mosquitto, and the supervisor that sets it up and keeps it running.
//!
//! It promises:
//!
//! - Who connects over TLS proves by its certificate from IoT Edge which module it is, and is held to what that module
//!   may publish. A module has its own session, whatever client id it sends. Nobody configures anything for that.
//! - Queues, packets, connections and the broker's memory are bounded. Nothing is kept on disk unless the settings ask
//!   for it.
//! - A broker that ends is started again. New access rights, bounds of queues and certificates are taken while clients
//!   stay connected; settings that the broker does not start with are refused, and the old ones stay.
//! - The key is in a private folder, which a container has in memory only.
//!
//! It deliberately does not store events (law 3 is the relay's), know what an event means, or trust whoever reaches a
//! port: that is what `plain_port` does, where it is set.
//!
//! `docs/decisions/0010-bus-authentication.md` has the reasons and the threat model.
//!
//! ```
//! use shunt_module::Settings;
//!
//! let settings = bus::BusSettings::default();
//! assert_eq!((settings.tls_port, settings.plain_port), (8883, 0));
//! assert!(!settings.persistence);
//! ```

mod access;
mod authority;
mod bridge;
mod broker;
mod certificate;
mod configuration;
mod folder;
mod monitor;
mod settings;
mod supervisor;
mod tally;

use std::time::Duration;

use shunt_module::{BadVariable, Context};

pub use crate::settings::{BusSettings, Grant};
use crate::{
    supervisor::{NO_WORKLOAD, Supervisor},
    tally::Tally,
};

/// What the goodbye of our own client may take, before its broker stops.
const GOODBYE: Duration = Duration::from_secs(1);

/// Runs the module until shutdown.
pub async fn run(mut context: Context<BusSettings>) -> anyhow::Result<()> {
    let tally = Tally::new()?;
    tally.register(&context.metrics)?;
    let settings = context.settings.current();
    if settings.tls_port != 0 && context.workload.is_none() {
        let (variable, value) = ("SHUNT_BUS_TLS_PORT".to_owned(), settings.tls_port.to_string());
        return Err(BadVariable { variable, value, rule: NO_WORKLOAD.to_owned() }.into());
    }
    context.health.set("broker", Err("it is not started yet".to_owned()));
    context.serve(axum::Router::new());
    let mut supervisor = Supervisor::new(&context, tally)?;
    let shutdown = context.shutdown.clone();
    let living = async {
        loop {
            tokio::select! {
                change = context.settings.change() => match supervisor.apply(change.settings.clone()).await {
                    Ok(()) => change.accept(),
                    Err(problems) => change.refuse(problems),
                },
                event = supervisor.event() => supervisor.handle(event).await,
            }
        }
    };
    shutdown.run_until_cancelled(living).await;
    // Our own goodbye needs the broker; so the broker is the last to go.
    context.bus.close(GOODBYE).await;
    supervisor.stop(context.common.drain_limit.saturating_sub(GOODBYE * 3)).await;
    Ok(())
}

/// The table of the module's metrics, in Markdown, for the reference.
pub fn metrics_table() -> anyhow::Result<String> {
    let collectors = Tally::new()?.collectors();
    let collectors: Vec<_> = collectors.iter().map(AsRef::as_ref).collect();
    Ok(shunt_module::docs::metrics_table(&collectors))
}
