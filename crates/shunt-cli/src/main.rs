//! The `shunt` command: runs the whole chain on one machine, plays the cloud's part against it, and looks after
//! models and manifests.
//!
//! What it promises: one file per subcommand; whatever it starts, it stops, also when it is killed; exit code 0
//! for success, 1 for failure, 2 for a wrong command line, 78 for settings that cannot be used.
//!
//! What it deliberately does not do: it holds no logic of a module. Modules are processes of their own here as on
//! a device, with the same environment.

mod bench;
mod bridge;
mod bus;
mod chain;
mod child;
mod classify;
mod control;
mod doctor;
mod emotion;
mod function;
mod invoke;
mod manifest;
mod method;
mod models;
mod output;
mod publish;
mod rules;
mod sentiment;
mod sim;
mod steps;
mod tail;
mod twin;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shunt_wire::Mono;

/// Shunt: camera, emotion and relay modules for Azure IoT Edge, and everything around them.
#[derive(Debug, Parser)]
#[command(name = "shunt", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::Up),
    Bench(bench::Bench),
    Sim(sim::SimArgs),
    Tail(tail::Tail),
    Twin(twin::Twin),
    Method(method::Method),
    Publish(publish::Publish),
    Bridge(bridge::BridgeArgs),
    Invoke(invoke::Invoke),
    Models(models::Models),
    Classify(classify::Classify),
    Emotion(emotion::Emotion),
    Sentiment(sentiment::Sentiment),
    Rules(rules::Rules),
    Function(function::Function),
    Manifest(manifest::Manifest),
    Doctor(doctor::Doctor),
    #[command(hide = true)]
    Child(child::ChildArgs),
    #[command(hide = true)]
    BenchPeer(bench::PeerArgs),
    #[command(hide = true)]
    BenchModel(bench::ContestantArgs),
}

/// Settings that cannot be used: exit code 78.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unusable(String);

fn main() -> ExitCode {
    let started = shunt_bus::clock::now();
    let cli = Cli::parse();
    if let Command::Child(args) = cli.command {
        // Becomes another program: nothing of ours may be started before.
        return failed(&args.run());
    }
    if let Command::BenchPeer(args) = cli.command {
        // Has a runtime of the kind that is measured.
        return args.run().map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS);
    }
    if let Command::BenchModel(args) = cli.command {
        // Nothing else may take its core.
        return args.run().map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS);
    }
    match start(cli.command, started) {
        Ok(code) => code,
        Err(error) => failed(&error),
    }
}

/// Prints the failure; the exit code that it deserves.
fn failed(error: &anyhow::Error) -> ExitCode {
    if output::is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    output::complain(format_args!("shunt: {error:#}"));
    if error.is::<Unusable>() { ExitCode::from(78) } else { ExitCode::FAILURE }
}

fn start(command: Command, started: Mono) -> anyhow::Result<ExitCode> {
    // Two providers could be compiled in; ours is named once, here.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        anyhow::bail!("another TLS provider is in force already");
    }
    // Two threads wait and pass on; the modules need the cores.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let done = runtime.block_on(async {
        match command {
            Command::Up(up) => return up.run(started).await,
            Command::Bench(bench) => return bench.run().await,
            Command::Sim(sim) => sim.run().await?,
            Command::Tail(tail) => tail.run().await?,
            Command::Twin(twin) => twin.run().await?,
            Command::Method(method) => return method.run().await,
            Command::Publish(publish) => publish.run().await?,
            Command::Bridge(bridge) => bridge.run().await?,
            Command::Invoke(invoke) => return invoke.run().await,
            Command::Models(models) => return models.run().await,
            Command::Classify(classify) => return classify.run().await,
            Command::Emotion(emotion) => return emotion.run().await,
            Command::Sentiment(sentiment) => return sentiment.run().await,
            Command::Rules(rules) => return rules.run().await,
            Command::Function(function) => return function.run().await,
            Command::Manifest(manifest) => return manifest.run(),
            Command::Doctor(doctor) => return doctor.run().await,
            Command::Child(_) | Command::BenchPeer(_) | Command::BenchModel(_) => {}
        }
        Ok(ExitCode::SUCCESS)
    });
    // A task that hangs may not keep the command from ending.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    done
}
