//! What the running modules add to their models, on real processes.

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
    chain as places, output,
    up::{
        self,
        deployment::Selection,
        ports::Ports,
        running::{Options, Running, Setting},
    },
};

/// How long the chain runs, and what a module may take to be ready.
const TIME: Duration = Duration::from_secs(15);
/// Width and height of a frame, and of the picture sent.
const FRAME: (u32, u32) = (640, 480);
/// How often it is looked whether the module is ready.
const PAUSE: Duration = Duration::from_millis(50);
/// What a request may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How good the JPEG is.
const QUALITY: u8 = 85;

/// Runs the chain for a while, then `inference` alone, which is asked so many times.
pub(super) async fn measure(report: &mut Report, folder: &Path, requests: u32) {
    let modules = &mut report.modules;
    output::complain(format_args!("running the chain for {} s", TIME.as_secs()));
    if let Err(error) = chain(modules, &folder.join("chain")).await {
        modules.problems.push(format!("the chain: {error:#}"));
    }
    output::complain("asking the module inference");
    match image(&folder.join("inference"), requests).await {
        Ok(added) => modules.image_added_ms = Some(added),
        Err(error) => modules.problems.push(format!("POST /image: {error:#}")),
    }
}

/// Starts these modules on the demo's pictures, with their files in this folder.
async fn start(only: &[&str], source: &str, folder: &Path) -> anyhow::Result<Running> {
    let repository = places::repository().context("there is no deployment.template.json here or above")?;
    let camera = [("fps", json!(10.0)), ("width", json!(FRAME.0)), ("height", json!(FRAME.1))];
    let setting = |(field, value)| Setting { module: "camera".to_owned(), field: String::from(field), value };
    let options = Options {
        selection: Selection {
            only: only.iter().map(|name| (*name).to_owned()).collect(),
            ..Selection::default()
        },
        manifest: crate::manifest::expand_file(&repository.join("deployment.template.json"))?,
        source: Some(source.to_owned()),
        settings: if only.contains(&"camera") { camera.map(setting).to_vec() } else { Vec::new() },
        ports: Ports::Fresh,
        folder: folder.to_owned(),
    };
    Running::start(options, shunt_bus::clock::now()).await
}

/// From capture to the relay, and the memory of `emotion`.
async fn chain(modules: &mut Modules, folder: &Path) -> anyhow::Result<()> {
    let running = start(&["camera", "emotion", "relay"], &up::source(None, None)?, folder).await?;
    tokio::select! {
        () = tokio::time::sleep(TIME) => {}
        () = running.broken.cancelled() => modules.problems.push("the chain broke".to_owned()),
    }
    running.board.read(|state| {
        modules.emotion_mb = state.processes.get("emotion").and_then(|process| process.rss_mb);
        let one = state.ledger.judged.iter().filter(|frame| frame.faces == 1);
        let one: Vec<f64> = one.map(|frame| frame.inference_ms).collect();
        let transport = state.ledger.transport.quantile(0.5);
        modules.chain_ms = transport.filter(|_| !one.is_empty()).map(|transport| transport + median(&one));
    });
    running.stop().await;
    Ok(())
}

/// What `POST /image` adds to the inference.
async fn image(folder: &Path, requests: u32) -> anyhow::Result<f64> {
    let source = up::source(None, None)?;
    let picture = jpeg(Path::new(&source))?;
    let running = start(&["inference"], &source, folder).await?;
    let added = async {
        let begun = Instant::now();
        let address = loop {
            let address = running.board.read(|state| state.processes.get("inference")?.address.clone());
            if address.is_some() || begun.elapsed() > TIME {
                break address;
            }
            tokio::time::sleep(PAUSE).await;
        };
        ask(&address.context("the module does not run: is it built?")?, picture, requests).await
    };
    let added = added.await;
    running.stop().await;
    added
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
    let begun = Instant::now();
    let is_ready = async || {
        client
            .get(format!("http://{address}/readyz"))
            .send()
            .await
            .is_ok_and(|answer| answer.status().is_success())
    };
    while !is_ready().await {
        anyhow::ensure!(begun.elapsed() < TIME, "the module was not ready in {} s", TIME.as_secs());
        tokio::time::sleep(PAUSE).await;
    }
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
