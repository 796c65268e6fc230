//! `shunt publish`: an event of one's own on the bus.

use std::{io::Read, time::Duration};

use anyhow::Context;
use clap::Args;
use serde_json::Value;
use shunt_bus::Delivery;
use shunt_wire::{Envelope, Kind, Name, Stamps};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{bus::BusArgs, output};

/// Publish an event on the bus.
#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// What it tells: emotion, label, or a kind of your own.
    kind: Kind,
    /// Who or what it is about.
    source: Name,
    /// Its data, JSON; `-` reads standard input.
    data: String,
    /// Only wait until it is sent, not until the broker has it.
    #[arg(long)]
    fast: bool,
    #[command(flatten)]
    connection: BusArgs,
}

/// The most that is read from standard input.
const MOST: u64 = 8 * 1024 * 1024;

// === impl Publish ===

impl Publish {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let text = if self.data == "-" {
            let mut text = String::new();
            std::io::stdin().lock().take(MOST).read_to_string(&mut text)?;
            text
        } else {
            self.data
        };
        let data: Value = serde_json::from_str(&text).context("the data is not JSON")?;
        let client = self.connection.open().await?;
        let now = shunt_bus::clock::now();
        let time = OffsetDateTime::now_utc().format(&Rfc3339)?;
        let id = format!("cli-{}-{}", std::process::id(), now.as_nanos());
        let event = Envelope::new(id.clone(), self.kind, self.source, time)
            .with_stamps(Stamps::captured(now))
            .with_json(&data)?;
        let topic = event.topic();
        let delivery = if self.fast { Delivery::Fast } else { Delivery::Assured };
        tokio::time::timeout(Duration::from_secs(10), client.bus.publish(event, delivery))
            .await
            .context("the broker has not taken it within 10 s")??;
        client.bus.close(Duration::from_secs(2)).await;
        output::line(format_args!("{topic}  {id}"))
    }
}
