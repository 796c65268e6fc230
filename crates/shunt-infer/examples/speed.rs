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

    println!("{:<24} {:>16} {:>16}", "ms: median (best)", "model alone", "pipeline");
    for (name, entry) in &store.catalog().models {
        if store.find(name).is_err() {
            continue;
        }
        match entry.task {
            Task::Face => {
                let finder = FaceFinder::load(&store, name)?;
                let alone = alone(finder.model(), &frame)?;
                let pipeline = measure(|| finder.find(&frame, &FaceOptions::default()).map(drop))?;
                println!("{name:<24} {alone:>16} {pipeline:>16}");
            }
            Task::Expression => {
                let reader = ExpressionReader::load(&store, name)?;
                let alone = alone(reader.model(), &frame)?;
                let pipeline = measure(|| reader.read(&frame, face).map(drop))?;
                println!("{name:<24} {alone:>16} {pipeline:>16}");
            }
            Task::Classify => {
                // The pipeline for classes is not part of this crate yet.
                let Ok(model) = Model::load(&store, name, &Tract) else { continue };
                println!("{name:<24} {:>16} {:>16}", alone(&model, &frame)?, "-");
            }
        }
    }
    Ok(())
}

/// The model on an input that is ready.
fn alone(model: &Model, frame: &Picture) -> anyhow::Result<String> {
    let (input, _) = model.whole(frame);
    Ok(measure(|| model.run(input.clone()).map(drop))?)
}

fn measure<E>(mut work: impl FnMut() -> Result<(), E>) -> Result<String, E> {
    let mut times = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS + 5 {
        let started = Instant::now();
        work()?;
        if round >= 5 {
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.sort_by(f64::total_cmp);
    let at = |index: usize| times.get(index).copied().unwrap_or_default();
    Ok(format!("{:.2} ({:.2})", at(ROUNDS / 2), at(0)))
}
