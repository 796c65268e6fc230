//! `shunt bridge`: copies messages between two brokers, MQTT and Redis.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use serde_json::json;
use shunt_bus::{
    BusState,
    bridge::{Bridge, BridgeOptions},
};

use crate::{
    bus::{Place, ProofArgs, hide},
    chain, output, up,
};

/// Copy messages between two brokers by rules: 'airq/# -> airq:*' from MQTT to Redis, 'airq:* -> airq/#' back.
#[derive(Debug, Args)]
pub(crate) struct BridgeArgs {
    /// One broker: mqtt://, mqtts://, redis://, rediss:// [default: the bus of the chain].
    #[arg(long, value_name = "URL")]
    from: Option<String>,
    /// The other broker.
    #[arg(long, value_name = "URL")]
    to: String,
    /// What is copied, and what it is called there. Between two brokers of one kind the left side is that of --from.
    #[arg(required = true, value_name = "RULE")]
    rules: Vec<String>,
    /// End after this time.
    #[arg(long, value_name = "TIME", value_parser = up::parse_time)]
    r#for: Option<Duration>,
    /// Print the counters as a line of JSON at the end.
    #[arg(long)]
    json: bool,
    /// The folder of the chain.
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    #[command(flatten)]
    proof: ProofArgs,
}

/// How often the connections are looked at.
const LOOK: Duration = Duration::from_millis(500);

// === impl BridgeArgs ===

impl BridgeArgs {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let stop = up::stop_on_signals()?;
        let folder = self.folder.unwrap_or_else(chain::default_folder);
        let from = Place::find(self.from.as_deref(), &folder, &self.proof).await?;
        let to = Place::find(Some(&self.to), &folder, &self.proof).await?;
        anyhow::ensure!(from.url != to.url, "both sides are {}: a bridge has two", hide(&to.url));
        let names = [hide(&from.url), hide(&to.url)];
        // One name at both: where the chain gave an identity, that.
        let client_id = if from.lock.is_some() { from.name } else { to.name };
        let bridge = Bridge::open(BridgeOptions {
            client_id,
            from_tls: from.tls,
            to_tls: to.tls,
            ..BridgeOptions::new(from.url, to.url, self.rules)
        })
        .await?;
        let time_is_up = async {
            match self.r#for {
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tell(&bridge, &names) => {}
            () = time_is_up => {}
            () = stop.cancelled() => {}
        }
        let counters = bridge.counters();
        bridge.close().await;
        if self.json {
            return output::line(json!({
                "copied": counters.copied,
                "dropped_away": counters.dropped_away,
                "dropped_full": counters.dropped_full,
                "dropped_refused": counters.dropped_refused,
            }));
        }
        output::line(format_args!(
            "{} copied; dropped: {} while the other broker was away, {} too fast, {} without a counterpart or too large",
            counters.copied, counters.dropped_away, counters.dropped_full, counters.dropped_refused
        ))
    }
}

/// Tells when a broker comes or goes; never ends.
async fn tell(bridge: &Bridge, names: &[String; 2]) {
    let mut tick = tokio::time::interval(LOOK);
    let mut told = [None, None];
    loop {
        tick.tick().await;
        let (from, to) = bridge.states();
        for ((name, told), state) in names.iter().zip(&mut told).zip([from, to]) {
            let is_there = state == BusState::Connected;
            if told.replace(is_there) == Some(is_there) {
                continue;
            }
            match state {
                BusState::Connected => output::complain(format_args!("{name} is there")),
                BusState::Disconnected(why) => output::complain(format_args!("{name} is not there: {why}")),
            }
        }
    }
}
