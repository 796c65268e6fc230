//! `shunt bench chain`: where the time of the whole chain goes, measured on real processes over a real broker.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use shunt_infer::{Backends, ExpressionReader, FaceFinder, FaceOptions, Model, ModelStore, Tensor};
use shunt_vision::{DecodeLimits, Picture, decode, resize_region};
use shunt_wire::events::Rect;

use crate::{
    chain, output,
    up::{
        self,
        board::State,
        deployment::Selection,
        ledger::Times,
        ports::Ports,
        running::{Options, Running, Setting},
    },
};

/// The whole chain, three things apart: transport from capture to relay, fitting pictures into the models and
/// decoding their outputs, and the models beside the same models run alone. Raw 640x480 frames in shared memory.
#[derive(Debug, Args)]
pub(crate) struct ChainBench {
    /// How long.
    #[arg(long, value_name = "TIME", value_parser = up::parse_time, default_value = "20s")]
    r#for: Duration,
    /// Frames a second.
    #[arg(long, default_value_t = 10.0)]
    fps: f64,
    /// Pictures with faces [default: the demo's].
    #[arg(long, value_name = "FOLDER")]
    pictures: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs of each model alone, before the chain and after it.
const RUNS: usize = 100;

/// Most pictures that the models are run on alone, the first by name.
const PICTURES: usize = 16;

/// Width and height of a frame.
const FRAME: (u32, u32) = (640, 480);

/// The bar: transport at p50, in milliseconds.
const BAR_MS: f64 = 1.0;

// === impl ChainBench ===

impl ChainBench {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let stop = up::stop_on_signals()?;
        let folder = tempfile::Builder::new().prefix("shunt-bench-").tempdir()?;
        let manifest = chain::repository()
            .map(|repository| repository.join("deployment.template.json"))
            .context("there is no deployment.template.json here or above")?;
        let source = up::source(None, self.pictures.as_deref())?;
        output::complain("running the models alone");
        let pictures = PathBuf::from(&source);
        let alone = tokio::task::spawn_blocking(move || Alone::load(&pictures)?.run()).await??;

        output::complain(format_args!("running the chain for {:.0} s", self.r#for.as_secs_f64()));
        let camera = [("fps", json!(self.fps)), ("width", json!(FRAME.0)), ("height", json!(FRAME.1))];
        let options = Options {
            selection: Selection::default(),
            manifest: crate::manifest::expand_file(&manifest)?,
            source: Some(source),
            settings: camera
                .map(|(field, value)| Setting { module: "camera".to_owned(), field: field.to_owned(), value })
                .to_vec(),
            ports: Ports::Fresh,
            folder: folder.path().to_path_buf(),
        };
        let running = Running::start(options, shunt_bus::clock::now()).await?;
        tokio::select! {
            () = tokio::time::sleep(self.r#for) => {}
            () = stop.cancelled() => {}
            () = running.broken.cancelled() => {}
        }
        let board = running.board.clone();
        running.stop().await;
        output::complain("running the models alone");
        let alone = tokio::task::spawn_blocking(move || alone.run()).await??;

        let report = board.read(|state| Report::of(state, &alone))?;
        if self.json {
            output::line(report.to_json())?;
        } else {
            output::line(report.to_table())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What was measured, in milliseconds; pairs are p50 and p99.
#[derive(Debug)]
struct Report {
    events: u64,
    lost: u64,
    /// The hops that transport and the way to the hub are made of.
    hops: Vec<(String, [f64; 2])>,
    /// From capture to relay, all that is not inference.
    transport: [f64; 2],
    /// Inference that is not the models, a frame: fitting pictures into them, decoding their outputs.
    fitting: [f64; 2],
    /// The models in the chain, a frame.
    models: [f64; 2],
    /// The same models alone, a frame with as many faces; p50.
    alone: f64,
    /// A run of the face finder alone; p50.
    alone_face: f64,
    /// A run of the expression reader alone; p50.
    alone_expression: f64,
}

/// The models run alone on one thread, nothing around them: a tensor in, tensors out.
#[derive(Debug)]
struct Alone {
    finder: FaceFinder,
    reader: ExpressionReader,
    /// The pictures that the camera shows, as inputs of the finder.
    frames: Vec<Tensor>,
    /// The faces in them, as inputs of the reader.
    faces: Vec<Tensor>,
    finding: Times,
    reading: Times,
}

// === impl Report ===

impl Report {
    fn of(state: &State, alone: &Alone) -> anyhow::Result<Self> {
        let ledger = &state.ledger;
        let both = |times: &Times| Some([times.quantile(0.5)?, times.quantile(0.99)?]);
        let (Some(transport), Some(around)) = (both(&ledger.transport), both(&ledger.around_inference))
        else {
            anyhow::bail!("no face reached the hub: are there faces in the pictures?");
        };
        let mut hops = Vec::new();
        for (name, times) in &ledger.hops {
            if name == "emotion" {
                hops.push(("emotion, inference taken out".to_owned(), around));
            } else if let Some(times) = both(times) {
                hops.push((name.clone(), times));
            }
        }
        let (alone_face, alone_expression) = (
            alone.finding.quantile(0.5).unwrap_or_default(),
            alone.reading.quantile(0.5).unwrap_or_default(),
        );
        let judged = &ledger.judged;
        // Each frame beside as many runs alone as it had faces.
        let [alone, _] =
            quantiles(judged.iter().map(|frame| alone_face + alone_expression * f64::from(frame.faces)));
        Ok(Self {
            events: ledger.events,
            lost: state.lost(),
            hops,
            transport,
            fitting: quantiles(judged.iter().map(|frame| frame.inference_ms - frame.model_ms)),
            models: quantiles(judged.iter().map(|frame| frame.model_ms)),
            alone,
            alone_face,
            alone_expression,
        })
    }

    /// The models in the chain beside the same alone, at p50.
    fn ratio(&self) -> f64 {
        self.models[0] / self.alone
    }

    fn to_json(&self) -> Value {
        let pair = |[p50, p99]: [f64; 2]| json!({"p50": p50, "p99": p99});
        let hops: serde_json::Map<String, Value> =
            self.hops.iter().map(|(name, times)| (name.clone(), pair(*times))).collect();
        json!({
            "events": self.events,
            "lost": self.lost,
            "hops_ms": hops,
            "transport_ms": pair(self.transport),
            "transport_bar_ms": BAR_MS,
            "fitting_ms": pair(self.fitting),
            "models_ms": pair(self.models),
            "alone_ms": self.alone,
            "alone_face_ms": self.alone_face,
            "alone_expression_ms": self.alone_expression,
            "ratio": self.ratio(),
        })
    }

    fn to_table(&self) -> String {
        let row = |name: &str, times: [f64; 2]| {
            let mut row = vec![name.to_owned()];
            row.extend(times.map(|time| format!("{time:.2}")));
            row
        };
        let hops: Vec<_> = self.hops.iter().map(|(name, times)| row(name, *times)).collect();
        let whole = [
            row("transport: capture to relay, inference taken out", self.transport),
            row("fitting and decoding: inference, models taken out", self.fitting),
            row("models", self.models),
        ];
        let verdict = if self.transport[0] < BAR_MS { "under" } else { "NOT under" };
        format!(
            "{}\n\n{}\ntransport is {verdict} {BAR_MS} ms at p50; {} events, {} lost\nmodels in the chain {:.2} ms a frame, the same runs alone {:.2} ms (face finder {:.2}, expression {:.2}): ratio {:.2}",
            output::table(&["hop", "p50 ms", "p99 ms"], &hops),
            output::table(&["where the time goes", "p50 ms", "p99 ms"], &whole),
            self.events,
            self.lost,
            self.models[0],
            self.alone,
            self.alone_face,
            self.alone_expression,
            self.ratio(),
        )
    }
}

/// p50 and p99; nought where there are no values.
fn quantiles(values: impl Iterator<Item = f64>) -> [f64; 2] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    [last / 2, last * 99 / 100].map(|index| values.get(index).copied().unwrap_or_default())
}

// === impl Alone ===

impl Alone {
    /// Loads the models, and makes the pictures of this folder ready for them. Heavy.
    fn load(folder: &Path) -> anyhow::Result<Self> {
        let store = ModelStore::open(&chain::models_folder())?;
        let defaults = &store.catalog().defaults;
        let backends = Backends::installed();
        let finder = FaceFinder::load(&store, &defaults.face, &backends)?;
        let reader = ExpressionReader::load(&store, &defaults.expression, &backends)?;
        let (mut frames, mut faces) = (Vec::new(), Vec::new());
        for picture in pictures(folder)? {
            frames.push(finder.model().whole(&picture)?.0);
            let found = finder.find(&picture, &FaceOptions::default())?;
            for face in found {
                faces.push(reader.model().part(&picture, face.bounds)?);
            }
        }
        anyhow::ensure!(!faces.is_empty(), "there are no faces in the pictures of {}", folder.display());
        Ok(Self { finder, reader, frames, faces, finding: Times::default(), reading: Times::default() })
    }

    /// Runs both models once more. Heavy.
    fn run(mut self) -> anyhow::Result<Self> {
        measure(self.finder.model(), &self.frames, &mut self.finding)?;
        measure(self.reader.model(), &self.faces, &mut self.reading)?;
        Ok(self)
    }
}

fn measure(model: &Model, inputs: &[Tensor], times: &mut Times) -> anyhow::Result<()> {
    model.warm_up()?;
    for input in inputs.iter().cycle().take(RUNS) {
        let input = input.clone();
        let begin = Instant::now();
        model.run(vec![input])?;
        times.add(begin.elapsed().as_nanos() as u64);
    }
    Ok(())
}

/// The first pictures of a folder as the camera makes frames of them: all of the picture, with bars where its shape is
/// another. Files that are no pictures are passed over.
fn pictures(folder: &Path) -> anyhow::Result<Vec<Picture>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .with_context(|| format!("cannot read {}", folder.display()))?;
    files.sort();
    let frames = files.iter().filter_map(|file| {
        let picture = decode(&std::fs::read(file).ok()?, &DecodeLimits::default()).ok()?;
        let (wide, high) = (picture.width as f32, picture.height as f32);
        let scale = (wide / FRAME.0 as f32).max(high / FRAME.1 as f32);
        let (width, height) = (FRAME.0 as f32 * scale, FRAME.1 as f32 * scale);
        let whole = Rect { x: (wide - width) / 2.0, y: (high - height) / 2.0, width, height };
        Some(resize_region(&picture, whole, FRAME.0, FRAME.1))
    });
    Ok(frames.take(PICTURES).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bench_tells_transport_fitting_and_models_apart() {
        let report = Report {
            events: 10,
            lost: 0,
            hops: vec![("camera".to_owned(), [0.25, 0.5])],
            transport: [0.75, 1.5],
            fitting: [2.0, 3.0],
            models: [18.0, 20.0],
            alone: 16.0,
            alone_face: 12.0,
            alone_expression: 4.0,
        };
        let table = report.to_table();
        assert!(table.contains("transport is under 1 ms at p50") && table.contains("ratio 1.12"), "{table}");
        let json = report.to_json();
        assert_eq!(json["transport_ms"]["p50"], 0.75);
        assert_eq!(json["fitting_ms"]["p50"], 2.0);
        assert_eq!(json["models_ms"]["p99"], 20.0);
        assert_eq!(json["ratio"], 1.125);
    }

    #[test]
    fn quantiles_are_those_of_sorted_values() {
        let whole = |values: [f64; 2]| values.map(|value| value as i64);
        assert_eq!(whole(quantiles((0..=100).rev().map(f64::from))), [50, 99]);
        assert_eq!(whole(quantiles(std::iter::empty())), [0, 0]);
    }
}
