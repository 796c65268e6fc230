//! Parts that the tests play in processes of their own: this test binary, started again with one test that plays
//! the part which a variable names.

use std::{
    io::{BufRead, BufReader, Lines, Read, Write},
    os::unix::fs::FileExt,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use shunt_frames::{FrameError, FrameReader, FrameWriter};
use shunt_wire::events::{FrameRef, PixelFormat};

use crate::{FRAME, HEIGHT, WIDTH, files, read, ring, write, writer};

/// The test that plays the parts.
const TEST: &str = "helper::a_process_of_its_own_makes_a_ring_and_leaves_it";
const PART: &str = "SHUNT_FRAMES_TEST_PART";
const FOLDER: &str = "SHUNT_FRAMES_TEST_FOLDER";
/// In front of each line that the parent is to read, among those of the test harness.
const MARK: char = '@';

/// A part in a process of its own; killed when dropped.
pub(crate) struct Part {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

// === impl Part ===

impl Part {
    pub(crate) fn start(part: &str, folder: &Path) -> Self {
        Self::start_by(Command::new(std::env::current_exe().unwrap()), part, folder)
    }

    /// Starts this binary by a command that takes it, and its arguments, at its end.
    pub(crate) fn start_by(mut command: Command, part: &str, folder: &Path) -> Self {
        let mut child = command
            .args(["--exact", TEST, "--nocapture"])
            .env(PART, part)
            .env(FOLDER, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// What the part says next; nothing when it has ended.
    pub(crate) fn line(&mut self) -> Option<String> {
        self.lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, said) = line.split_once(MARK)?;
            Some(said.to_owned())
        })
    }

    pub(crate) fn reference(&mut self) -> FrameRef {
        serde_json::from_str(&self.line().unwrap()).unwrap()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.kill();
    }
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{MARK}{text}").unwrap();
    out.flush().unwrap();
}

#[test]
fn a_process_of_its_own_makes_a_ring_and_leaves_it() {
    if let (Ok(part), Ok(folder)) = (std::env::var(PART), std::env::var(FOLDER)) {
        return play(&part, Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let mut maker = Part::start("maker of a ring", folder.path());
    assert_eq!(maker.line().as_deref(), Some("made"));
    assert_eq!(maker.line(), None);
    assert_eq!(files(folder.path()), ["door.frames", "door.lock"]);
    let reference = write(&mut writer(folder.path()), 7);
    assert_eq!(read(&mut FrameReader::new(folder.path()), &reference).unwrap(), 7);
}

fn play(part: &str, folder: &Path) {
    match part {
        "restless writer" => write_for_ever(folder),
        "writer stuck in a frame" => get_stuck(folder),
        "reader" => read_the_newest(folder),
        "maker of a ring" => match FrameWriter::create(folder, &ring(), 4, FRAME) {
            Ok(_) => say("made"),
            Err(error) => say(&error.to_string()),
        },
        other => panic!("no part {other}"),
    }
}

fn write_for_ever(folder: &Path) {
    let mut writer = writer(folder);
    for value in (0..251).cycle() {
        let reference = write(&mut writer, value);
        say(&serde_json::to_string(&reference).unwrap());
    }
}

fn get_stuck(folder: &Path) {
    let mut writer = writer(folder);
    for value in 1..=4 {
        let reference = write(&mut writer, value);
        say(&serde_json::to_string(&reference).unwrap());
    }
    let stuck = writer.write(WIDTH, HEIGHT, PixelFormat::Rgb8, |pixels| {
        let (half, _) = pixels.split_at_mut(FRAME / 2);
        half.fill(99);
        say("stuck");
        // The parent says nothing: this waits until the process is killed.
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    });
    stuck.unwrap();
}

/// Where the writer notes the newest frame: slot and generation. Only a hint, like an event on the bus.
pub(crate) fn note_newest(file: &std::fs::File, reference: &FrameRef) {
    let mut note = [0; 12];
    note[..4].copy_from_slice(&reference.slot.to_le_bytes());
    note[4..].copy_from_slice(&reference.generation.to_le_bytes());
    file.write_all_at(&note, 0).unwrap();
}

/// Reads the newest frame again and again; ends when it got 200.
fn read_the_newest(folder: &Path) {
    let newest = std::fs::File::open(folder.join("newest")).unwrap();
    let mut reader = FrameReader::new(folder);
    let (mut good, mut gone) = (0, 0);
    while good < 200 {
        let mut note = [0; 12];
        newest.read_exact_at(&mut note, 0).unwrap();
        let slot = u32::from_le_bytes(note[..4].try_into().unwrap());
        let generation = u64::from_le_bytes(note[4..].try_into().unwrap());
        match read(&mut reader, &FrameRef { ring: ring(), slot, generation }) {
            Ok(value) => {
                assert_eq!(u64::from(value), generation % 251, "another frame than the one asked for");
                good += 1;
            }
            Err(FrameError::Gone) => gone += 1,
            Err(error) => panic!("{error}"),
        }
    }
    say(&format!("{good} good, {gone} gone"));
}
