//! The relay: the only module that sends telemetry to the hub (law 2).
//!
//! It subscribes, assured, to the kinds of events that its settings name, keeps them in a bounded queue on disk, and
//! sends them to an output of edgeHub.
//!
//! It promises (law 3):
//!
//! - An event that it has acknowledged on the bus is on disk, and leaves the disk only after the hub's PUBACK. After
//!   a crash the hub may get an event twice, with the same message id; it never misses one.
//! - Every drop is counted with its reason: `shunt_relay_dropped_events_total`.
//! - A full disk loses nothing: events are not acknowledged until there is room, so the broker keeps them. A damaged
//!   file is moved aside, counted and reported; the module lives.
//!
//! It deliberately does not change events, join them or wait for others to start.
//!
//! ```
//! use shunt_module::Settings;
//!
//! let settings = relay::RelaySettings::default();
//! assert_eq!(settings.output, "telemetry");
//! assert!(settings.kinds["emotion"].enabled);
//! ```

mod filter;
mod intake;
mod keeper;
mod outlet;
mod queue;
mod record;
mod settings;
mod tally;

use axum::{Json, Router, extract::State, routing::get};
use serde_json::{Value, json};
use shunt_hub::{Hub, HubState};
use shunt_module::{Context, Health};
use tokio::sync::watch;

pub use crate::{
    filter::{Bounds as ConditionBounds, Condition, Scalar},
    settings::{KindSettings, RelaySettings},
};
use crate::{intake::Intake, keeper::Keeper, outlet::Outlet, queue::Bounds, tally::Tally};

/// What `/status` needs.
#[derive(Debug, Clone)]
struct Page {
    tally: Tally,
    health: Health,
    hub: Option<Hub>,
}

/// Runs the module until shutdown.
pub async fn run(mut context: Context<RelaySettings>) -> anyhow::Result<()> {
    let tally = Tally::new()?;
    tally.register(&context.metrics)?;
    let page = Page { tally: tally.clone(), health: context.health.clone(), hub: context.hub.clone() };
    context.serve(Router::new().route("/status", get(status)).with_state(page));

    let settings = context.settings.current();
    let (bounds_sender, bounds) = watch::channel(bounds_of(&settings));
    let (output_sender, output) = watch::channel(settings.output.clone());
    let folder = context.common.data_dir.join(context.name.as_str());
    let (keeper, arrivals, store) = Keeper::new(folder, bounds, tally.clone(), context.health.clone());
    let keeper = context.tasks.spawn(keeper.run());
    let dead_letters = context.dead_letters();
    let outlet = if let Some(hub) = &context.hub {
        let outlet = Outlet {
            hub: hub.clone(),
            store,
            output,
            module: context.name.clone(),
            tally: tally.clone(),
            dead_letters: dead_letters.clone(),
            linger: context.common.drain_limit / 2,
        };
        Some(context.tasks.spawn(outlet.run(context.shutdown.clone())))
    } else {
        // The keeper ends when nobody asks any more.
        drop(store);
        tracing::warn!("There is no identity for a hub: events are kept on disk and not sent.");
        context.health.note("hub", "no identity for a hub: events are kept on disk and not sent");
        None
    };
    let mut intake = Intake::new(
        context.bus.clone(),
        arrivals,
        tally,
        context.health.clone(),
        dead_letters,
        context.shutdown.clone(),
    );
    intake.set(settings.enabled());

    loop {
        tokio::select! {
            () = context.shutdown.cancelled() => break,
            change = context.settings.change() => {
                intake.set(change.settings.enabled());
                bounds_sender.send_replace(bounds_of(&change.settings));
                output_sender.send_replace(change.settings.output.clone());
                change.accept();
            }
        }
    }
    // First nothing comes any more, then what is there is written and sent as far as time allows.
    // The subscriptions stay: a drain may take longer than the bus keeps what nobody here wants.
    let subscriptions = intake.end().await;
    if let Some(outlet) = outlet {
        outlet.await?;
    }
    keeper.await?;
    drop(subscriptions);
    Ok(())
}

/// The table of the relay's metrics, in Markdown, for the reference.
pub fn metrics_table() -> anyhow::Result<String> {
    let collectors = Tally::new()?.collectors();
    let collectors: Vec<_> = collectors.iter().map(AsRef::as_ref).collect();
    Ok(shunt_module::docs::metrics_table(&collectors))
}

fn bounds_of(settings: &RelaySettings) -> Bounds {
    Bounds { events: settings.max_queue_events, bytes: settings.max_queue_bytes }
}

async fn status(State(page): State<Page>) -> Json<Value> {
    let mut status = page.tally.status();
    let hub = match &page.hub {
        None => "no identity".to_owned(),
        Some(hub) => match &*hub.state().borrow() {
            HubState::Connected => "connected".to_owned(),
            HubState::Disconnected(reason) => format!("not connected: {reason}"),
        },
    };
    status.insert("hub".to_owned(), json!(hub));
    let disk = page.health.failing().into_iter().find(|(part, _)| *part == "disk");
    status.insert("disk".to_owned(), json!(disk.map_or_else(|| "ok".to_owned(), |(_, reason)| reason)));
    Json(Value::Object(status))
}
