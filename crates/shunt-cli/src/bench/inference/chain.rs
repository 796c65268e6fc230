//! What the running modules add to their models: the chain with `inference` in it, on real processes.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::{Value, json};
use shunt_vision::{DecodeLimits, decode, encode_jpeg, resize, to_rgb};

use super::{
    super::contestant::median,
    report::{Modules, Report},
};
use crate::{
    chain, output,
    up::{
        self,
        deployment::Selection,
        ports::Ports,
        running::{Options, Running, Setting},
    },
};

/// How long the chain runs.
const TIME: Duration = Duration::from_secs(15);
/// Width and height of a frame, and of the picture sent.
const FRAME: (u32, u32) = (640, 480);
/// What a request may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How good the JPEG is.
const QUALITY: u8 = 85;

/// Runs the chain for a while and asks `inference` so many times.
pub(super) async fn measure(report: &mut Report, folder: &Path, requests: u32) {
    output::complain(format_args!("running the chain with inference for {} s", TIME.as_secs()));
    if let Err(error) = go(&mut report.modules, folder, requests).await {
        report.modules.problems.push(format!("{error:#}"));
    }
}

async fn go(modules: &mut Modules, folder: &Path, requests: u32) -> anyhow::Result<()> {
    let repository = chain::repository().context("there is no deployment.template.json here or above")?;
    let source = up::source(None, None)?;
    let picture = jpeg(Path::new(&source))?;
    let camera = [("fps", json!(10.0)), ("width", json!(FRAME.0)), ("height", json!(FRAME.1))];
    let options = Options {
        selection: Selection { with: ["inference".to_owned()].into(), ..Selection::default() },
        manifest: crate::manifest::expand_file(&repository.join("deployment.template.json"))?,
        source: Some(source),
        settings: camera
            .map(|(field, value)| Setting { module: "camera".to_owned(), field: field.to_owned(), value })
            .to_vec(),
        ports: Ports::Fresh,
        folder: folder.join("run"),
    };
    let running = Running::start(options, shunt_bus::clock::now()).await?;
    tokio::select! {
        () = tokio::time::sleep(TIME) => {}
        () = running.broken.cancelled() => modules.problems.push("the chain broke".to_owned()),
    }
    let board = running.board.clone();
    let address =
        board.read(|state| state.processes.get("inference").and_then(|process| process.address.clone()));
    modules.emotion_mb =
        board.read(|state| state.processes.get("emotion").and_then(|process| process.rss_mb));
    modules.chain_ms = board.read(|state| {
        let one: Vec<f64> = state
            .ledger
            .judged
            .iter()
            .filter(|frame| frame.faces == 1)
            .map(|frame| frame.inference_ms)
            .collect();
        Some(state.ledger.transport.quantile(0.5)? + median(&one)).filter(|_| !one.is_empty())
    });
    let added = match address {
        Some(address) => ask(&address, picture, requests).await,
        None => Err(anyhow::anyhow!("the module inference does not run: is it built?")),
    };
    running.stop().await;
    modules.image_added_ms = Some(added?);
    Ok(())
}

/// The first picture of a folder as a camera of that size would send it.
fn jpeg(folder: &Path) -> anyhow::Result<Vec<u8>> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<Result<_, _>>())
        .with_context(|| format!("cannot read {}", folder.display()))?;
    files.sort();
    let picture = files
        .iter()
        .find_map(|file| decode(&std::fs::read(file).ok()?, &DecodeLimits::default()).ok())
        .with_context(|| format!("there is no picture in {}", folder.display()))?;
    Ok(encode_jpeg(&resize(&to_rgb(picture), FRAME.0, FRAME.1), QUALITY)?)
}

/// The time of a request that is not the model's own; p50 in milliseconds.
async fn ask(address: &str, picture: Vec<u8>, requests: u32) -> anyhow::Result<f64> {
    let client = reqwest::Client::builder().tcp_nodelay(true).no_proxy().timeout(LIMIT).build()?;
    let mut added = Vec::new();
    for _ in 0..requests {
        let started = Instant::now();
        let answer = client.post(format!("http://{address}/image")).body(picture.clone()).send().await?;
        anyhow::ensure!(answer.status().is_success(), "POST /image answered {}", answer.status());
        let answer: Value = answer.json().await?;
        let whole = started.elapsed().as_secs_f64() * 1e3;
        let model = answer.pointer("/times/inference_ms").and_then(Value::as_f64);
        added.push(whole - model.context("the answer of POST /image does not say how long the model took")?);
    }
    Ok(median(&added))
}
