//! Rings that were replaced, damaged, deleted or never were rings; folders that cannot hold one.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
};

use shunt_frames::{FrameError, FrameReader, FrameWriter, MAX_FRAME, PixelBuffer};
use shunt_wire::events::{FrameRef, PixelFormat};

use crate::{FRAME, files, helper::Part, read, ring, write, writer};

fn reference() -> FrameRef {
    FrameRef { ring: ring(), slot: 0, generation: 1 }
}

fn read_error(reader: &mut FrameReader, reference: &FrameRef) -> FrameError {
    read(reader, reference).unwrap_err()
}

fn door(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("door.frames")
}

#[test]
fn readers_follow_a_ring_that_gets_other_measures() {
    let folder = tempfile::tempdir().unwrap();
    let mut small = FrameWriter::create(folder.path(), &ring(), 2, 100).unwrap();
    let old = small.write(10, 10, PixelFormat::Grey8, |pixels| pixels.fill(3)).unwrap();
    let mut reader = FrameReader::new(folder.path());
    let mut frame = PixelBuffer::default();
    reader.read(&old, &mut frame).unwrap();
    assert_eq!((frame.width, frame.format, frame.pixels), (10, PixelFormat::Grey8, vec![3; 100]));

    drop(small);
    let mut large = writer(folder.path());
    let new = write(&mut large, 8);
    assert_eq!(read(&mut reader, &new).unwrap(), 8);
    assert!(matches!(read_error(&mut reader, &old), FrameError::Gone));
    assert_eq!(files(folder.path()), ["door.frames", "door.lock"]);
}

#[test]
fn a_reader_finds_a_ring_that_is_made_later() {
    let folder = tempfile::tempdir().unwrap();
    let mut reader = FrameReader::new(folder.path());
    let missing = read_error(&mut reader, &reference()).to_string();
    assert!(missing.contains("door.frames: No such file"), "{missing}");
    let reference = write(&mut writer(folder.path()), 5);
    assert_eq!(read(&mut reader, &reference).unwrap(), 5);
}

#[test]
fn a_reader_keeps_a_bounded_number_of_rings_open() {
    let folder = tempfile::tempdir().unwrap();
    let mut reader = FrameReader::new(folder.path());
    let rings: Vec<_> = (0..100)
        .map(|number| {
            let ring = format!("camera-{number}").parse().unwrap();
            let mut writer = FrameWriter::create(folder.path(), &ring, 2, 16).unwrap();
            let reference = writer.write(4, 4, PixelFormat::Grey8, |pixels| pixels.fill(number)).unwrap();
            (writer, reference, number)
        })
        .collect();
    let open_files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open_files();
    let mut frame = PixelBuffer::default();
    for (_, reference, number) in rings.iter().chain(&rings) {
        reader.read(reference, &mut frame).unwrap();
        assert_eq!(frame.pixels, vec![*number; 16]);
    }
    // Other tests run meanwhile and open some files of their own.
    assert!(open_files() < before + 60);
}

#[test]
fn a_file_that_is_no_ring_is_refused_by_readers_and_replaced_by_the_writer() {
    let folder = tempfile::tempdir().unwrap();
    let path = door(&folder);
    let mut ring_header = Vec::new();
    {
        drop(writer(folder.path()));
        ring_header.extend_from_slice(&std::fs::read(&path).unwrap()[..64]);
    }
    let mut newer_version = ring_header.clone();
    newer_version[8] = 99;
    newer_version.resize(FRAME, 0);
    let mut huge = ring_header.clone();
    huge[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    for (content, reason) in [
        (b"".to_vec(), "it is too short"),
        (b"a text".to_vec(), "it is too short"),
        (vec![b'x'; 10_000], "it does not begin with the mark of a ring"),
        (newer_version, "it was made by another version"),
        (huge, "its measures are out of bounds"),
        (ring_header, "its length does not fit its measures"),
    ] {
        std::fs::write(&path, content).unwrap();
        let mut reader = FrameReader::new(folder.path());
        let error = read_error(&mut reader, &reference());
        assert!(matches!(error, FrameError::NotARing { .. }), "{error}");
        assert_eq!(error.to_string(), format!("{} is not a frame ring: {reason}", path.display()));

        let reference = write(&mut writer(folder.path()), 4);
        assert_eq!(read(&mut reader, &reference).unwrap(), 4);
    }
}

#[test]
fn things_that_are_no_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = door(&folder);
    let mut reader = FrameReader::new(folder.path());

    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(read_error(&mut reader, &reference()).to_string().ends_with("it is not a plain file"));
    std::fs::remove_file(&path).unwrap();

    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    assert!(matches!(read_error(&mut reader, &reference()), FrameError::File { .. }));
    // A link is replaced, not followed.
    let reference_in_new = write(&mut writer(folder.path()), 4);
    assert_eq!(read(&mut reader, &reference_in_new).unwrap(), 4);
    std::fs::remove_file(&path).unwrap();

    std::fs::create_dir(&path).unwrap();
    assert!(read_error(&mut reader, &reference()).to_string().ends_with("it is not a plain file"));
    let refused = FrameWriter::create(folder.path(), &ring(), 4, FRAME).unwrap_err();
    assert!(matches!(refused, FrameError::File { .. }), "{refused}");
    assert_eq!(files(folder.path()), ["door.frames", "door.lock"]);
}

#[test]
fn a_ring_cut_short_under_everybody_kills_nobody_and_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut ring_writer = writer(folder.path());
    let mut reader = FrameReader::new(folder.path());
    let old = write(&mut ring_writer, 1);
    assert_eq!(read(&mut reader, &old).unwrap(), 1);
    OpenOptions::new().write(true).open(door(&folder)).unwrap().set_len(5000).unwrap();
    let error = read_error(&mut reader, &old).to_string();
    assert!(error.ends_with("its length does not fit its measures"), "{error}");

    let new = write(&mut ring_writer, 2);
    assert_eq!(read(&mut reader, &new).unwrap(), 2);
    assert!(matches!(read_error(&mut reader, &old), FrameError::Gone));
}

#[test]
fn a_deleted_ring_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut ring_writer = writer(folder.path());
    let mut reader = FrameReader::new(folder.path());
    let old = write(&mut ring_writer, 1);
    assert_eq!(read(&mut reader, &old).unwrap(), 1);
    std::fs::remove_file(door(&folder)).unwrap();
    // Those who hold it open can still read it.
    assert_eq!(read(&mut reader, &old).unwrap(), 1);
    let new = write(&mut ring_writer, 2);
    assert_eq!(read(&mut reader, &new).unwrap(), 2);
}

#[test]
fn slots_and_generations_that_never_were_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let sound = write(&mut writer(folder.path()), 1);
    let mut reader = FrameReader::new(folder.path());
    assert_eq!(read(&mut reader, &sound).unwrap(), 1);
    for reference in [
        FrameRef { slot: 4, ..sound.clone() },
        FrameRef { slot: u32::MAX, ..sound.clone() },
        FrameRef { generation: 0, slot: 1, ..sound.clone() },
        FrameRef { generation: sound.generation + 1, ..sound.clone() },
        FrameRef { generation: u64::MAX, ..sound.clone() },
    ] {
        let error = read_error(&mut reader, &reference);
        // Slot 1 was never written: its generation is 0, and it holds no pixels.
        assert!(matches!(error, FrameError::Gone), "{reference:?}: {error}");
    }
}

#[test]
fn frames_and_rings_out_of_bounds_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut ring_writer = writer(folder.path());
    for (width, height) in [(641, 480), (640, 481), (u32::MAX, u32::MAX)] {
        let error =
            ring_writer.write(width, height, PixelFormat::Rgb8, |_| panic!("not called")).unwrap_err();
        assert!(matches!(error, FrameError::TooLarge { max: FRAME, .. }), "{error}");
    }
    for (slots, max_frame) in [(0, 100), (1, 100), (257, 100), (4, 0), (4, MAX_FRAME + 1)] {
        let error = FrameWriter::create(folder.path(), &ring(), slots, max_frame).unwrap_err();
        assert!(matches!(error, FrameError::Measures { .. }), "{error}");
    }
}

#[test]
fn a_ring_is_for_its_user_and_group_only() {
    let folder = tempfile::tempdir().unwrap();
    let _writer = writer(&folder.path().join("made/on/the/way"));
    let file = File::open(folder.path().join("made/on/the/way/door.frames")).unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn a_folder_without_room_is_an_error_and_no_crash() {
    let folder = tempfile::tempdir().unwrap();
    // A small file system of its own, seen by that process only and gone with it.
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs -o size=1m none \"$SHUNT_FRAMES_TEST_FOLDER\" && exec \"$0\" \"$@\"";
    command.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(std::env::current_exe().unwrap());
    match Part::start_by(command, "maker of a ring", folder.path()).line() {
        Some(said) => assert!(said.ends_with("No space left on device (os error 28)"), "{said}"),
        None => println!("skipped: this user may not mount a small file system"),
    }
}
