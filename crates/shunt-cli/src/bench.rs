//! `shunt bench`: where the time goes, measured on real processes.

mod bus;
mod chain;
mod page;
mod rules;

use std::process::ExitCode;

use clap::{Args, Subcommand};

pub(crate) use bus::PeerArgs;

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
    Rules(rules::RulesBench),
}

// === impl Bench ===

impl Bench {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        match self.action {
            Action::Bus(bus) => bus.run().await,
            Action::Chain(chain) => chain.run().await,
            Action::Rules(rules) => rules.run().await,
        }
    }
}
