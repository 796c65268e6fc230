//! How long a picture takes from its file to a model's input, on one thread.
//!
//! ```text
//! cargo run --release -p shunt-vision --example decode -- PHOTO.jpg
//! ```
//!
//! The photograph is brought to several sizes and written as JPEG; each is then read whole and read as far as is
//! needed, and made an input of 224x224.

use std::{env, fs, hint::black_box, io::Write as _, time::Instant};

use anyhow::{Context, Result};
use shunt_vision::{
    Colour, DecodeLimits, Fit, Layout, MotionGate, MotionOptions, TensorPlan, decode, decode_for,
    encode_jpeg, resize,
};

const SIDE: u32 = 224;
const SIZES: [(u32, u32); 4] = [(640, 480), (1280, 720), (1920, 1080), (4032, 3024)];

fn main() -> Result<()> {
    let path = env::args().nth(1).context("usage: decode PHOTO.jpg")?;
    let limits = DecodeLimits::default();
    let photo = decode(&fs::read(&path).with_context(|| path.clone())?, &limits)?;
    let scale = [1.0 / 255.0; 3];
    let plan = |layout| TensorPlan {
        width: SIDE,
        height: SIDE,
        layout,
        colour: Colour::Rgb,
        fit: Fit::Stretch,
        scale,
        offset: [0.0; 3],
    };
    let (planar, interleaved) = (plan(Layout::Nchw), plan(Layout::Nhwc));
    let mut values = vec![0.0_f32; planar.values()];
    let mut bytes = vec![0_u8; planar.values()];
    let mut gate = MotionGate::new(MotionOptions::default());
    let mut lines = vec![format!(
        "{:>10} {:>8} {:>8} {:>8} {:>10} {:>10} {:>8}",
        "ms, least", "decode", "NCHW f32", "NHWC u8", "file whole", "as needed", "motion"
    )];
    for (width, height) in SIZES {
        let picture = resize(&photo, width, height);
        let file = encode_jpeg(&picture, 85)?;
        let times = if width > 2000 { 15 } else { 101 };
        let row = [
            least(times, || decode(&file, &limits).is_ok()),
            least(times, || planar.fill(&picture, None, &mut values).is_ok()),
            least(times, || interleaved.fill(&picture, None, &mut bytes).is_ok()),
            least(times, || {
                decode(&file, &limits).is_ok_and(|read| planar.fill(&read, None, &mut values).is_ok())
            }),
            least(times, || {
                let read = decode_for(&file, &limits, SIDE, SIDE);
                read.is_ok_and(|read| planar.fill(&read.picture, None, &mut values).is_ok())
            }),
            least(times, || gate.moved(&picture, None).moved),
        ];
        let [decoding, first, second, whole, needed, motion] = row;
        lines.push(format!(
            "{:>10} {decoding:>8.2} {first:>8.3} {second:>8.3} {whole:>10.2} {needed:>10.2} {motion:>8.3}",
            format!("{width}x{height}")
        ));
    }
    writeln!(std::io::stdout(), "{}", lines.join("\n"))?;
    Ok(())
}

/// The least of so many times, in milliseconds: what the work takes where nothing else is in the way.
fn least(times: usize, mut work: impl FnMut() -> bool) -> f64 {
    let taken = (0..times).map(|_| {
        let started = Instant::now();
        black_box(work());
        started.elapsed().as_secs_f64() * 1e3
    });
    taken.fold(f64::INFINITY, f64::min)
}
