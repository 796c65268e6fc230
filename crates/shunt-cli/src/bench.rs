//! `shunt bench`: where the time goes, measured on real processes.

mod bus;
mod chain;
mod contestant;
mod functions;
mod inference;
mod page;
mod rules;
mod sentiment;

use std::process::ExitCode;

use clap::{Args, Subcommand};

pub(crate) use bus::PeerArgs;
pub(crate) use contestant::{Contestant, ContestantArgs, Order, What, median};

/// Measure where the time goes.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Bus(bus::BusBench),
    Chain(chain::ChainBench),
    Functions(functions::FunctionsBench),
    Rules(rules::RulesBench),
    Inference(inference::InferenceBench),
    Sentiment(sentiment::SentimentBench),
}

// === impl Bench ===

impl Bench {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        match self.action {
            Action::Bus(bus) => bus.run().await,
            Action::Chain(chain) => chain.run().await,
            Action::Functions(functions) => functions.run().await,
            Action::Rules(rules) => rules.run().await,
            Action::Inference(inference) => inference.run().await,
            Action::Sentiment(sentiment) => sentiment.run().await,
        }
    }
}

/// Cores, architecture, load.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("unknown");
    let build = if cfg!(debug_assertions) { "development" } else { "release" };
    format!("{cores} cores, {}, load {load} before the run, {build} build", std::env::consts::ARCH)
}
