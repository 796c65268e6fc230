//! `shunt bench sentiment`: how many short texts a second one core judges, and how long a request to the module takes.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use serde_json::json;
use shunt_text::{Language, TextModel};

use crate::{
    chain, output,
    up::{
        self,
        deployment::Selection,
        ports::Ports,
        running::{Options, Running},
    },
};

/// Short texts a second on one core, and the time of a request with one of them to the running module `sentiment`, one
/// after the other on one connection. Fails where a bar is missed.
#[derive(Debug, Args)]
pub(crate) struct SentimentBench {
    /// How long texts of each language are judged.
    #[arg(long, value_name = "TIME", value_parser = up::parse_time, default_value = "2s")]
    r#for: Duration,
    /// Requests to the module.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    requests: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Short texts, a line each behind what a person says of it.
const TEXTS: &str = concat!(
    include_str!("../../../shunt-text/tests/golden/sentences_en.tsv"),
    include_str!("../../../shunt-text/tests/golden/sentences_nl.tsv")
);
/// What a request asks.
const BODY: &str =
    r#"{"documents":[{"language":"en","id":"1","text":"The staff was friendly and the room was clean."}]}"#;
/// What is asked for: texts a second, and milliseconds at p99.
const BARS: (f64, f64) = (50_000.0, 2.0);
/// How long a request, and the module's start, may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How often it is looked whether the module is there.
const PAUSE: Duration = Duration::from_millis(50);

// === impl SentimentBench ===

impl SentimentBench {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let stop = up::stop_on_signals()?;
        let time = self.r#for;
        output::complain("judging texts on one core");
        let rates = tokio::task::spawn_blocking(move || rates(time)).await??;
        output::complain("asking the module");
        let [p50, p99] = tokio::select! {
            times = self.ask() => times?,
            () = stop.cancelled() => anyhow::bail!("stopped"),
        };
        let slowest = rates.iter().map(|(_, rate)| *rate).fold(f64::INFINITY, f64::min);
        if self.json {
            let rates: serde_json::Map<_, _> =
                rates.iter().map(|(language, rate)| (language.to_string(), json!(rate))).collect();
            output::line(json!({
                "texts_per_s": rates, "bar_texts_per_s": BARS.0, "http_ms": {"p50": p50, "p99": p99}, "bar_http_p99_ms": BARS.1,
            }))?;
        } else {
            for (language, rate) in &rates {
                output::line(format_args!(
                    "{language}: {rate:.0} texts a second on one core (bar {:.0})",
                    BARS.0
                ))?;
            }
            output::line(format_args!("over HTTP: {p50:.2} ms p50, {p99:.2} ms p99 (bar {:.0})", BARS.1))?;
        }
        Ok(if slowest >= BARS.0 && p99 < BARS.1 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Milliseconds of a request, p50 and p99.
    async fn ask(&self) -> anyhow::Result<[f64; 2]> {
        let folder = tempfile::Builder::new().prefix("shunt-bench-").tempdir()?;
        let repository = chain::repository().context("there is no deployment.template.json here or above")?;
        let options = Options {
            selection: Selection { only: ["sentiment".to_owned()].into(), ..Selection::default() },
            manifest: crate::manifest::expand_file(&repository.join("deployment.template.json"))?,
            source: None,
            settings: Vec::new(),
            ports: Ports::Fresh,
            folder: folder.path().to_path_buf(),
        };
        let running = Running::start(options, shunt_bus::clock::now()).await?;
        let times = requests(&running, self.requests).await;
        running.stop().await;
        let mut times = times?;
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
        Ok([at(0.5), at(0.99)])
    }
}

/// Texts a second, by language.
fn rates(time: Duration) -> anyhow::Result<Vec<(Language, f64)>> {
    let model = TextModel::built_in(TextModel::DEFAULT)?;
    let texts: Vec<&str> = TEXTS.lines().filter_map(|line| Some(line.split_once('\t')?.1)).collect();
    let rate = |language: Language| {
        let (begun, mut judged, mut sum) = (Instant::now(), 0_u64, 0.0);
        while begun.elapsed() < time {
            for text in &texts {
                sum += model.score(language, text);
                judged += 1;
            }
        }
        // What is not used may not be left out by the compiler.
        std::hint::black_box(sum);
        (language, judged as f64 / begun.elapsed().as_secs_f64())
    };
    Ok(Language::ALL.into_iter().map(rate).collect())
}

/// Milliseconds of each request.
async fn requests(running: &Running, count: u32) -> anyhow::Result<Vec<f64>> {
    let client = reqwest::Client::builder().tcp_nodelay(true).no_proxy().timeout(LIMIT).build()?;
    let address = running.board.read(|state| state.processes.get("sentiment")?.address.clone());
    let url = match address {
        Some(address) => format!("http://{address}/text/analytics/v2.0/sentiment"),
        None => anyhow::bail!("the module sentiment does not run: is it built?"),
    };
    let ask = || client.post(&url).header("content-type", "application/json").body(BODY).send();
    let begun = Instant::now();
    while let Err(error) = ask().await {
        anyhow::ensure!(begun.elapsed() < LIMIT, "the module does not answer: {error}");
        tokio::time::sleep(PAUSE).await;
    }
    let mut times = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let begun = Instant::now();
        let answer = ask().await?;
        anyhow::ensure!(answer.status().is_success(), "the module answered {}", answer.status());
        answer.bytes().await?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}
