//! How long the models take: alone in the back end, and in the pipeline from pixels to answer.
//!
//! Usage: `cargo run --release -p shunt-infer --example speed [PICTURE]` (without a picture: a grey one, no faces).

#![expect(clippy::print_stdout, reason = "it is a program that prints")]

use std::{path::Path, time::Instant};

use shunt_infer::{ExpressionReader, FaceFinder, FaceOptions, Model, ModelStore, Task, Tract};
use shunt_vision::{DecodeLimits, Picture, Rect, decode, resize};

/// Rounds measured, after five that are not.
const ROUNDS: usize = 60;

fn main() -> anyhow::Result<()> {
    let picture = match std::env::args().nth(1) {
        Some(file) => decode(&std::fs::read(file)?, &DecodeLimits::default())?,
        None => Picture::filled(640, 480, [128; 3]),
    };
    let frame = resize(&picture, 640, 480);
    let store = ModelStore::open(Path::new("models"))?;
    let face = Rect { x: 200.0, y: 100.0, width: 150.0, height: 150.0 };

    println!("{:<24} {:>12} {:>12}", "milliseconds, median", "model alone", "pipeline");
    for (name, entry) in &store.catalog().models {
        if store.find(name).is_err() {
            continue;
        }
        match entry.task {
            Task::Face => {
                let finder = FaceFinder::load(&store, name)?;
                let alone = alone(finder.model(), &frame)?;
                let pipeline = median(|| finder.find(&frame, &FaceOptions::default()).map(drop))?;
                println!("{name:<24} {alone:>12.2} {pipeline:>12.2}");
            }
            Task::Expression => {
                let reader = ExpressionReader::load(&store, name)?;
                let alone = alone(reader.model(), &frame)?;
                let pipeline = median(|| reader.read(&frame, face).map(drop))?;
                println!("{name:<24} {alone:>12.2} {pipeline:>12.2}");
            }
            Task::Classify => {
                // The pipeline for classes is not part of this crate yet.
                let Ok(model) = Model::load(&store, name, &Tract) else { continue };
                println!("{name:<24} {:>12.2} {:>12}", alone(&model, &frame)?, "-");
            }
        }
    }
    Ok(())
}

/// The model on an input that is ready.
fn alone(model: &Model, frame: &Picture) -> anyhow::Result<f64> {
    let (input, _) = model.whole(frame);
    Ok(median(|| model.run(input.clone()).map(drop))?)
}

fn median<E>(mut work: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    let mut times = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS + 5 {
        let started = Instant::now();
        work()?;
        if round >= 5 {
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times.get(ROUNDS / 2).copied().unwrap_or_default())
}
