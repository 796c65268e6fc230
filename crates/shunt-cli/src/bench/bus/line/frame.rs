//! Raw frames through shared memory: the writer's side of a camera, the reader's side of a module that looks at it.

use std::path::Path;

use anyhow::Context;
use shunt_frames::{FrameReader, FrameWriter, PixelBuffer};
use shunt_wire::{
    Name,
    events::{FrameRef, PixelFormat},
};

use super::{
    super::note::{ANSWER, Kind, Note},
    Line, Place,
};

/// Width, height and slots of the ring, as the camera has them.
const FRAME: (u32, u32) = (640, 480);
const SLOTS: u32 = 8;
const RING: Name = Name::from_static("bench");

#[derive(Debug)]
pub(in super::super) struct FrameLine {
    told_by: Line,
    /// The first process writes.
    frames: Option<FrameWriter>,
    picture: Vec<u8>,
    reader: FrameReader,
    frame: PixelBuffer,
}

// === impl FrameLine ===

impl FrameLine {
    pub(super) fn open(folder: &Path, told_by: Line, place: Place) -> anyhow::Result<Self> {
        let bytes = FRAME.0 as usize * FRAME.1 as usize * 3;
        let frames = (place.index == 0).then(|| FrameWriter::create(folder, &RING, SLOTS, bytes));
        Ok(Self {
            told_by,
            frames: frames.transpose()?,
            picture: (0..bytes).map(|byte| byte as u8).collect(),
            reader: FrameReader::new(folder),
            frame: PixelBuffer::default(),
        })
    }

    /// What it costs to make the picture is not measured, but to copy it into the ring is.
    pub(super) async fn send(&mut self, note: Note, size: usize) -> anyhow::Result<()> {
        if note.kind != Kind::Ask {
            return self.told_by.send(note, size).await;
        }
        let nanos = shunt_bus::clock::now().as_nanos();
        let (width, height) = FRAME;
        let frames = self.frames.as_mut().context("only the first process writes frames")?;
        let FrameRef { slot, generation, .. } =
            frames.write(width, height, PixelFormat::Rgb8, |pixels| pixels.copy_from_slice(&self.picture))?;
        self.told_by.send(Note { nanos, slot, generation, ..note }, ANSWER).await
    }

    /// Where a frame was told of, it is copied out, and the note says how long its hand-over took.
    pub(super) async fn receive(&mut self) -> anyhow::Result<Note> {
        let note = self.told_by.receive().await?;
        if note.kind != Kind::Ask {
            return Ok(note);
        }
        let reference = FrameRef { ring: RING, slot: note.slot, generation: note.generation };
        self.reader.read(&reference, &mut self.frame)?;
        let nanos = shunt_bus::clock::now().as_nanos().saturating_sub(note.nanos);
        Ok(Note { nanos, ..note })
    }

    pub(super) fn is_ready(&self) -> bool {
        self.told_by.is_ready()
    }
}
