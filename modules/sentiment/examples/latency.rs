//! How long a request with one short text takes over HTTP, one after the other on one connection:
//! `cargo run --release -p sentiment --example latency`.

#![expect(clippy::print_stdout, reason = "it prints its result")]

use std::time::{Duration, Instant};

use anyhow::Context as _;
use sentiment::SentimentSettings;
use shunt_bus::{Bus, BusOptions};
use shunt_module::{Common, Context, SettingsHandle};
use shunt_wire::Name;
use tokio::net::TcpListener;

const REQUESTS: usize = 20_000;
const BODY: &str =
    r#"{"documents":[{"language":"en","id":"1","text":"The staff was friendly and the room was clean."}]}"#;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let bus = Bus::open(BusOptions::new("memory:latency", Name::from_static("sentiment")))?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/text/analytics/v2.0/sentiment", listener.local_addr()?);
    let settings = SettingsHandle::fixed(SentimentSettings::default());
    let (context, _stop) =
        Context::for_test(settings, bus, None, Common::in_folder("/nonexistent".as_ref()), listener);
    tokio::spawn(sentiment::run(context));
    let client =
        reqwest::Client::builder().tcp_nodelay(true).no_proxy().timeout(Duration::from_secs(10)).build()?;
    let mut took = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let begun = Instant::now();
        let answer = client.post(&url).header("content-type", "application/json").body(BODY).send().await?;
        answer.bytes().await?;
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    for (name, share) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
        let time = took.get((REQUESTS as f64 * share) as usize).context("no requests")?;
        println!("{name}: {:.3} ms", time.as_secs_f64() * 1e3);
    }
    Ok(())
}
