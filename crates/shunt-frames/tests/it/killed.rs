//! Writers and readers that are killed.

use std::fs::File;

use shunt_frames::{FrameError, FrameReader, FrameWriter};

use crate::{
    FRAME,
    helper::{Part, note_newest},
    read, ring, write, writer,
};

#[test]
fn a_writer_killed_inside_a_frame_is_taken_over_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut victim = Part::start("writer stuck in a frame", folder.path());
    let references: Vec<_> = (0..4).map(|_| victim.reference()).collect();
    assert_eq!(victim.line().unwrap(), "stuck");

    let mut reader = FrameReader::new(folder.path());
    let check_old_frames = |reader: &mut FrameReader| {
        // The stuck frame lies half written over the first one.
        assert!(matches!(read(reader, &references[0]), Err(FrameError::Gone)));
        for (reference, value) in references.iter().zip(1..).skip(1) {
            assert_eq!(read(reader, reference).unwrap(), value);
        }
    };
    check_old_frames(&mut reader);
    let refused = FrameWriter::create(folder.path(), &ring(), 4, FRAME).unwrap_err();
    assert!(matches!(refused, FrameError::Busy { .. }), "{refused}");

    victim.kill();
    check_old_frames(&mut reader);
    let mut heir = writer(folder.path());
    check_old_frames(&mut reader);
    for value in 10..30 {
        let reference = write(&mut heir, value);
        assert!(reference.generation > references[3].generation);
        assert_eq!(read(&mut reader, &reference).unwrap(), value);
    }
}

#[test]
fn a_writer_may_be_killed_at_any_moment() {
    let folder = tempfile::tempdir().unwrap();
    let mut reader = FrameReader::new(folder.path());
    let mut newest = 0;
    for frames in 0..12 {
        let mut victim = Part::start("restless writer", folder.path());
        let references: Vec<_> = (0..=frames * 3).map(|_| victim.reference()).collect();
        victim.kill();
        for reference in &references {
            assert!(reference.generation > newest);
            newest = reference.generation;
            match read(&mut reader, reference) {
                Ok(_) | Err(FrameError::Gone) => {}
                Err(error) => panic!("{error}"),
            }
        }
        let mut heir = writer(folder.path());
        for value in 0..4 {
            let reference = write(&mut heir, value);
            assert!(reference.generation > newest);
            newest = reference.generation;
            assert_eq!(read(&mut reader, &reference).unwrap(), value);
        }
    }
}

#[test]
fn a_killed_reader_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = writer(folder.path());
    let mut reader = FrameReader::new(folder.path());
    let newest = File::create(folder.path().join("newest")).unwrap();
    note_newest(&newest, &write(&mut writer, 0));
    for _ in 0..5 {
        let mut victim = Part::start("reader", folder.path());
        for value in 0..20 {
            let reference = write(&mut writer, value);
            assert_eq!(read(&mut reader, &reference).unwrap(), value);
        }
        victim.kill();
        let reference = write(&mut writer, 7);
        assert_eq!(read(&mut reader, &reference).unwrap(), 7);
    }
}

#[test]
fn a_frame_whose_filling_panics_is_not_seen() {
    let folder = tempfile::tempdir().unwrap();
    let mut ring_writer = writer(folder.path());
    let mut reader = FrameReader::new(folder.path());
    let references: Vec<_> = (0..4).map(|value| write(&mut ring_writer, value)).collect();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        ring_writer.write(2, 2, shunt_wire::events::PixelFormat::Grey8, |_| panic!("as the test wants"))
    }));
    assert!(panicked.is_err());
    assert!(matches!(read(&mut reader, &references[0]), Err(FrameError::Gone)));
    for value in 50..60 {
        let reference = write(&mut ring_writer, value);
        assert_eq!(read(&mut reader, &reference).unwrap(), value);
    }
}
