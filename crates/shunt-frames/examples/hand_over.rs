//! How long a frame takes from the writer to each reader, and what a copy costs.
//!
//! `cargo run --release -p shunt-frames --example hand_over -- [frames] [readers] [folder]`
//!
//! The writer is this process, each reader one of its own. A reference goes to the readers through pipes, as a
//! bus would bring it. Hand-over is measured from before the writer begins to fill the slot until a reader holds
//! its checked copy.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context;
use shunt_frames::{FrameError, FrameReader, FrameWriter, PixelBuffer};
use shunt_wire::{
    Name,
    events::{FrameRef, PixelFormat},
};

const RING: Name = Name::from_static("hand-over");
const WIDTH: u32 = 640;
const HEIGHT: u32 = 480;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next();
    if first.as_deref() == Some("reader") {
        return read(Path::new(&arguments.next().context("the folder is missing")?));
    }
    let frames: usize = first.map_or(Ok(2000), |text| text.parse())?;
    let readers: usize = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let folder = arguments.next().map_or_else(
        || PathBuf::from(format!("/dev/shm/shunt-hand-over-{}", std::process::id())),
        PathBuf::from,
    );
    let result = write(frames, readers, &folder);
    std::fs::remove_dir_all(&folder)?;
    result
}

fn write(frames: usize, readers: usize, folder: &Path) -> anyhow::Result<()> {
    let mut writer = FrameWriter::create(folder, &RING, 8, (WIDTH * HEIGHT * 3) as usize)?;
    let picture: Vec<u8> = (0..WIDTH * HEIGHT * 3).map(|byte| byte as u8).collect();
    let mut children = Vec::new();
    for _ in 0..readers {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("reader").arg(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        children.push(command.spawn()?);
    }
    let mut durations = Vec::with_capacity(frames);
    for _ in 0..frames {
        let begin = now();
        let reference =
            writer.write(WIDTH, HEIGHT, PixelFormat::Rgb8, |pixels| pixels.copy_from_slice(&picture))?;
        durations.push(now() - begin);
        let mut message = [0; 24];
        for (to, from) in message.iter_mut().zip(
            begin
                .to_le_bytes()
                .into_iter()
                .chain(reference.generation.to_le_bytes())
                .chain(u64::from(reference.slot).to_le_bytes()),
        ) {
            *to = from;
        }
        for child in &mut children {
            child.stdin.as_mut().context("no pipe")?.write_all(&message)?;
        }
        // A fast camera's pace: 200 frames a second.
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{frames} frames of {WIDTH}x{HEIGHT}x3, {readers} readers, microseconds (p50 / p99)")?;
    writeln!(out, "write      {}", percentiles(&mut durations))?;
    for child in &mut children {
        writeln!(out, "{}", report(child)?)?;
    }
    Ok(())
}

fn report(child: &mut Child) -> anyhow::Result<String> {
    drop(child.stdin.take());
    let mut text = String::new();
    BufReader::new(child.stdout.take().context("no pipe")?).read_line(&mut text)?;
    child.wait()?;
    Ok(text.trim_end().to_owned())
}

fn read(folder: &Path) -> anyhow::Result<()> {
    let mut reader = FrameReader::new(folder);
    let mut frame = PixelBuffer::default();
    let (mut hand_overs, mut copies, mut gone) = (Vec::new(), Vec::new(), 0);
    let mut message = [[0; 8]; 3];
    let mut input = std::io::stdin().lock();
    while input.read_exact(message.as_flattened_mut()).is_ok() {
        let [begin, generation, slot] = message.map(u64::from_le_bytes);
        let received = now();
        match reader.read(&FrameRef { ring: RING, slot: slot as u32, generation }, &mut frame) {
            Ok(()) => {
                let done = now();
                hand_overs.push(done - begin);
                copies.push(done - received);
            }
            Err(FrameError::Gone) => gone += 1,
            Err(error) => return Err(error.into()),
        }
    }
    let (hand_over, copy) = (percentiles(&mut hand_overs), percentiles(&mut copies));
    writeln!(std::io::stdout(), "hand-over  {hand_over}, of it the copy {copy}, {gone} gone")?;
    Ok(())
}

fn percentiles(nanos: &mut [u64]) -> String {
    nanos.sort_unstable();
    let at = |part: f64| nanos.get((nanos.len() as f64 * part) as usize).map_or(0, |nanos| nanos / 1000);
    format!("{:>5} / {:>5}", at(0.5), at(0.99))
}

/// Nanoseconds on the monotonic clock, the same for all processes.
fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
