//! The gateway: Dapr's HTTP API on port 3500, one for the whole device instead of one beside each module.
//!
//! Modules in any language call each other, publish, subscribe and keep state through it, with Dapr's own SDKs or
//! with plain HTTP.
//!
//! It promises:
//!
//! - `/v1.0/invoke/<app-id>/method/<path>` hands every verb, header and body through as it is, streamed both ways;
//!   answers come back as the app gave them, also errors. Bodies, connections and times are bounded.
//! - App names are those of the modules on the bus, those of the setting `apps`, or names of the IoT Edge network.
//! - Its own errors are Dapr's: status, `errorCode` and `message`.
//! - An event for an app is on disk before the bus forgets it, and leaves the disk when the app took it, dropped it, or
//!   it went to the dead letters. A slow or dead app holds up only its own events. Every drop is counted.
//! - State that was answered as saved survives a power cut; a request changes all of its keys or none.
//! - The device registry (`/device`, `/data`, the gRPC call `DevSvc.Get`) tells who is on the bus.
//!
//! It deliberately has no actors, no bindings, no secrets, no configuration API and no bulk subscriptions, stops no
//! app at its wish (`/v1.0/shutdown`), and calls nothing outside of the device unless the setting `apps` names it.
//!
//! ```
//! use gateway::GatewaySettings;
//!
//! let settings = GatewaySettings::default();
//! assert_eq!(settings.max_body_bytes, 16 * 1024 * 1024);
//! ```

mod apps;
mod delivery;
mod door;
mod health;
mod invoke;
mod metadata;
mod problem;
mod pubsub;
mod registry;
mod settings;
mod state;
mod store;
mod subscription;
mod tally;

use std::{path::PathBuf, sync::Arc};

use axum::{Router, middleware};
use shunt_bus::Bus;
use shunt_module::{Context, DeadLetters, Health};
use shunt_wire::Name;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use crate::{
    apps::AppSettings,
    pubsub::PubsubSettings,
    settings::GatewaySettings,
    store::StoreSettings,
    subscription::{RouteSettings, RuleSettings, SubscriptionSettings},
};
use crate::{apps::Apps, metadata::Attributes, pubsub::Pubsub, state::Shelf, tally::Tally};

/// What all routes share.
#[derive(Debug, Clone)]
pub(crate) struct Gateway(Arc<Parts>);

/// The parts of a [`Gateway`].
#[derive(Debug)]
pub(crate) struct Parts {
    /// The module's own name.
    pub(crate) name: Name,
    /// The settings in force; changes are seen by `changed()` of a clone.
    pub(crate) settings: watch::Receiver<Arc<GatewaySettings>>,
    pub(crate) apps: Apps,
    pub(crate) attributes: Attributes,
    pub(crate) bus: Bus,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) tally: Tally,
    pub(crate) pubsub: Pubsub,
    pub(crate) shelf: Shelf,
    pub(crate) health: Health,
    /// For what must survive a restart: a folder of this module's own.
    pub(crate) folder: PathBuf,
    pub(crate) shutdown: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

// === impl Gateway ===

impl std::ops::Deref for Gateway {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Gateway {
    /// The settings in force now.
    pub(crate) fn settings(&self) -> Arc<GatewaySettings> {
        Arc::clone(&self.settings.borrow())
    }

    fn routes(self) -> Router {
        let routes = Router::new()
            .merge(invoke::routes())
            .merge(pubsub::routes())
            .merge(state::routes())
            .merge(metadata::routes())
            .merge(health::routes())
            .merge(registry::routes(&self))
            .fallback(invoke::fallback)
            .method_not_allowed_fallback(invoke::fallback);
        routes.with_state(self)
    }
}

/// Runs the module until shutdown.
pub async fn run(mut context: Context<GatewaySettings>) -> anyhow::Result<()> {
    let settings = context.settings.current();
    let (settings_sender, settings_receiver) = watch::channel(Arc::clone(&settings));
    let tally = Tally::new()?;
    tally.register(&context.metrics)?;
    let pubsub = Pubsub::new()?;
    pubsub.tally.collectors().into_iter().try_for_each(|collector| context.metrics.register(collector))?;
    let folder = context.common.data_dir.join(context.name.as_str());
    let gateway = Gateway(Arc::new(Parts {
        name: context.name.clone(),
        settings: settings_receiver,
        apps: Apps::new(context.services(), &settings),
        attributes: Attributes::default(),
        bus: context.bus.clone(),
        dead_letters: context.dead_letters(),
        tally,
        pubsub,
        shelf: Shelf::new(folder.clone(), &settings),
        health: context.health.clone(),
        folder,
        shutdown: context.shutdown.clone(),
        tasks: context.tasks.clone(),
    }));
    let door = middleware::from_fn_with_state(gateway.clone(), door::guard);
    context.serve_behind(gateway.clone().routes(), |pages| pages.layer(door));
    let mut deliveries = context.tasks.spawn(pubsub::run(gateway.clone()));
    loop {
        tokio::select! {
            // Ends at shutdown, and where the queue on disk ends: no events are delivered then.
            ended = &mut deliveries => return ended?,
            change = context.settings.change() => {
                gateway.apps.set(&change.settings);
                gateway.shelf.set(&change.settings);
                settings_sender.send_replace(Arc::clone(&change.settings));
                change.accept();
            }
        }
    }
}

/// The table of the gateway's metrics, in Markdown, for the reference.
pub fn metrics_table() -> anyhow::Result<String> {
    let mut collectors = Tally::new()?.collectors();
    collectors.extend(Pubsub::new()?.tally.collectors());
    let collectors: Vec<_> = collectors.iter().map(AsRef::as_ref).collect();
    Ok(shunt_module::docs::metrics_table(&collectors))
}
