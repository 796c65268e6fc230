//! Swaps models while clients ask, and says what it cost: `swaps [--swaps N] [--clients N] [--models A,B]`.
//!
//! The models are names of the catalog; without them two small ones of the tests are taken. The module runs in this
//! process, so the memory told is that of clients and module together.

#![expect(clippy::print_stdout, reason = "it is a program for people")]

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use inference::InferenceSettings;
use shunt_bus::{Bus, BusOptions};
use shunt_module::{Common, Context, SettingsHandle};
use shunt_vision::{Picture, encode_jpeg};
use shunt_wire::Name;
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(60);

struct Options {
    swaps: usize,
    clients: usize,
    models: Option<[String; 2]>,
}

/// What one client saw.
#[derive(Default)]
struct Seen {
    answers: u64,
    /// Milliseconds of each.
    times: Vec<f64>,
}

fn options() -> anyhow::Result<Options> {
    let mut options = Options { swaps: 1000, clients: 4, models: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--swaps" => options.swaps = value.parse()?,
            "--clients" => options.clients = value.parse()?,
            "--models" => {
                let (first, second) = value.split_once(',').context("--models takes two names: a,b")?;
                options.models = Some([first.to_owned(), second.to_owned()]);
            }
            other => bail!("there is no option {other}; there are --swaps, --clients, --models"),
        }
    }
    Ok(options)
}

/// Resident memory of this process in MiB, now and at its highest.
fn memory() -> [f64; 2] {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ["VmRSS:", "VmHWM:"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
        line.and_then(|kb| kb.trim().parse::<f64>().ok()).unwrap_or_default() / 1024.0
    })
}

async fn ask(address: SocketAddr, jpeg: Vec<u8>, ended: CancellationToken) -> anyhow::Result<Seen> {
    let client = reqwest::Client::builder().tcp_nodelay(true).timeout(LIMIT).no_proxy().build()?;
    let mut seen = Seen::default();
    while !ended.is_cancelled() {
        let started = Instant::now();
        let request = client.post(format!("http://{address}/image")).body(jpeg.clone());
        let answer = request.header("Content-Type", "application/octet-stream").send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{status}: {text}");
        ensure!(text.contains("\"predictions\""), "no answer: {text}");
        seen.answers += 1;
        seen.times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(seen)
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = ((sorted.len().saturating_sub(1)) as f64 * share) as usize;
    sorted.get(place).copied().unwrap_or_default()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = options()?;
    rustls::crypto::ring::default_provider().install_default().ok();
    let folder = tempfile::tempdir()?;
    let mut common = Common::in_folder(folder.path());
    if options.models.is_none() {
        common.models_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models");
    } else if let Some(models) = std::env::var_os("SHUNT_MODELS_DIR") {
        common.models_dir = models.into();
    }
    let models = options.models.unwrap_or_else(|| ["colours", "inverse"].map(ToOwned::to_owned));
    let with =
        |model: &str| InferenceSettings { model: Some(model.to_owned()), ..InferenceSettings::default() };
    let [first, second] = &models;

    let bus = Bus::open(BusOptions::new("memory:swaps", Name::from_static("inference")))?;
    let (handle, settings) = SettingsHandle::channel(with(first));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (context, stop) = Context::for_test(handle, bus, None, common, listener);
    let (health, facts) = (context.health.clone(), context.facts.clone());
    let running = tokio::spawn(inference::run(context));
    timeout(LIMIT, async {
        while !facts.get().contains_key("serving") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await?;
    ensure!(health.failing().is_empty(), "it is not ready: {:?}", health.failing());

    let jpeg = encode_jpeg(&Picture::filled(640, 480, [220, 30, 30]), 90)?;
    let ended = CancellationToken::new();
    let clients: Vec<_> =
        (0..options.clients).map(|_| tokio::spawn(ask(address, jpeg.clone(), ended.clone()))).collect();
    // Both models were there once: what they leave behind for good is in the first figure.
    settings.propose(with(second)).await?;
    settings.propose(with(first)).await?;
    let [before, _] = memory();
    let mut swaps = Vec::with_capacity(options.swaps);
    let started = Instant::now();
    for swap in 0..options.swaps {
        let model = if swap % 2 == 0 { second } else { first };
        let began = Instant::now();
        settings.propose(with(model)).await.with_context(|| format!("swap {swap}"))?;
        swaps.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let took = started.elapsed();
    let [after, highest] = memory();
    ended.cancel();
    let (mut answers, mut times) = (0, Vec::new());
    for client in clients {
        let seen = client.await??;
        answers += seen.answers;
        times.extend(seen.times);
    }
    stop.cancel();
    running.await??;
    swaps.sort_by(f64::total_cmp);
    times.sort_by(f64::total_cmp);
    println!("{} swaps of {first} and {second} in {:.1} s", options.swaps, took.as_secs_f64());
    println!("{answers} requests of {} clients answered, none lost", options.clients);
    println!("a swap, ms: p50 {:.1}, p99 {:.1}", percentile(&swaps, 0.5), percentile(&swaps, 0.99));
    println!("a request, ms: p50 {:.1}, p99 {:.1}", percentile(&times, 0.5), percentile(&times, 0.99));
    println!("memory, MiB: {before:.1} before, {after:.1} after, {highest:.1} at its highest");
    Ok(())
}
