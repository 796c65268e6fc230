//! The ring through its front door, with writers and readers in processes of their own.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test ends by a panic")]

mod damage;
mod helper;
mod killed;
mod torn;

use std::path::Path;

use shunt_frames::{FrameReader, FrameWriter, PixelBuffer};
use shunt_wire::{
    Name,
    events::{FrameRef, PixelFormat},
};

/// A frame of raw 640x480 pixels.
const WIDTH: u32 = 640;
const HEIGHT: u32 = 480;
const FRAME: usize = 640 * 480 * 3;

fn ring() -> Name {
    Name::from_static("door")
}

fn writer(folder: &Path) -> FrameWriter {
    FrameWriter::create(folder, &ring(), 4, FRAME).unwrap()
}

/// Writes a frame all of whose bytes are `value`.
fn write(writer: &mut FrameWriter, value: u8) -> FrameRef {
    writer.write(WIDTH, HEIGHT, PixelFormat::Rgb8, |pixels| pixels.fill(value)).unwrap()
}

/// The byte that fills the frame.
fn read(reader: &mut FrameReader, reference: &FrameRef) -> Result<u8, shunt_frames::FrameError> {
    let mut frame = PixelBuffer::default();
    reader.read(reference, &mut frame)?;
    assert_eq!((frame.width, frame.height, frame.format), (WIDTH, HEIGHT, PixelFormat::Rgb8));
    assert_eq!(frame.pixels.len(), FRAME);
    let value = frame.pixels[0];
    assert!(frame.pixels.iter().all(|&pixel| pixel == value), "a torn frame");
    Ok(value)
}

/// All files of the folder, sorted.
fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
