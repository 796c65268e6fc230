//! Files of pictures as they come from outside: of every form, damaged, and made to do harm.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test ends by a panic"
)]

mod forms;
mod hostile;
mod motion;
mod reduced;

use peak_alloc::PeakAlloc;
use shunt_vision::{DecodeLimits, Picture, decode};

/// Counts, so that a test can tell how much memory a file took.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// A file of `tests/pictures`.
fn file(name: &str) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files of `tests/pictures`, with their names.
fn files() -> Vec<(String, Vec<u8>)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures");
    let names =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != "make.py").collect();
    names.sort();
    assert!(names.len() >= 10, "{names:?}");
    names.into_iter().map(|name| (name.clone(), file(&name))).collect()
}

/// A sample picture's file; nothing, with a printed line, where the material beside the repository is not there.
fn sample_file(name: &str) -> Option<Vec<u8>> {
    let path = shunt_testkit::sample_picture(name);
    if path.is_none() {
        println!("Passed over: there is no ../shared/models/images/{name}.");
    }
    Some(std::fs::read(path?).unwrap())
}

fn sample(name: &str) -> Option<Picture> {
    Some(decode(&sample_file(name)?, &DecodeLimits::default()).unwrap())
}

/// The APP1 segment with an EXIF orientation, put behind the start of a JPEG file.
fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let mut exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    let mut file = vec![0xff, 0xd8, 0xff, 0xe1];
    file.extend(((exif.len() + 2) as u16).to_be_bytes());
    file.extend(exif);
    file.extend(&jpeg[2..]);
    file
}
