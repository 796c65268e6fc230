//! A fast writer against several readers.

use std::{
    fs::File,
    time::{Duration, Instant},
};

use shunt_frames::FrameWriter;
use shunt_wire::events::PixelFormat;

use crate::{
    FRAME, HEIGHT, WIDTH,
    helper::{Part, note_newest},
    ring,
};

#[test]
fn readers_never_see_a_torn_frame_under_a_writer_without_pause() {
    let folder = tempfile::tempdir().unwrap();
    // As few slots as there may be, so that the writer is always close behind the readers.
    let mut writer = FrameWriter::create(folder.path(), &ring(), 2, FRAME).unwrap();
    let newest = File::create(folder.path().join("newest")).unwrap();
    let mut next = writer.write(1, 1, PixelFormat::Grey8, |_| {}).unwrap().generation + 1;
    let mut write = || {
        let value = (next % 251) as u8;
        let reference = writer.write(WIDTH, HEIGHT, PixelFormat::Rgb8, |pixels| pixels.fill(value)).unwrap();
        assert_eq!(reference.generation, next);
        note_newest(&newest, &reference);
        next += 1;
    };
    write();
    let mut readers: Vec<_> = (0..3).map(|_| Part::start("reader", folder.path())).collect();
    let limit = Instant::now() + Duration::from_mins(1);
    while !readers.iter_mut().all(Part::has_ended) {
        assert!(Instant::now() < limit, "the readers did not get their frames in time");
        write();
    }
    for mut reader in readers {
        // A reader that saw a torn or a wrong frame has panicked and says nothing.
        assert!(reader.line().unwrap().starts_with("200 good"));
    }
}
