//! A folder of pictures, or one picture: each held for a time, at rest or in slow motion.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use shunt_vision::{DecodeLimits, Picture, resize, resize_region, to_rgb};
use tokio::time::Instant;

use super::{Source, SourceError, open_file};
use crate::{
    control::{Control, Pace},
    settings::{CameraSettings, Motion},
    shot::{Content, Shot},
    view,
};

/// Most files of a folder.
const MAX_FILES: usize = 10_000;
/// The largest picture file, in bytes.
const MAX_FILE: u64 = 64 << 20;
/// Names that are taken for pictures.
const EXTENSIONS: [&str; 6] = ["bmp", "gif", "jpeg", "jpg", "png", "webp"];

/// A folder of pictures, or one picture.
#[derive(Debug)]
pub(super) struct Pictures {
    path: PathBuf,
    /// One round, in the order of the names.
    files: Vec<PathBuf>,
    next: usize,
    /// How many pictures of this round could be read, and the first that could not.
    readable: usize,
    unreadable: Option<(PathBuf, String)>,
    shown: Option<Shown>,
    pace: Pace,
}

/// The picture that is shown now.
#[derive(Debug)]
struct Shown {
    picture: Picture,
    since: Instant,
    /// Width and height of a frame before rotation that `picture` was reduced for.
    size: (u32, u32),
    /// The frame, where it does not move.
    frame: Option<Arc<Picture>>,
    path: PathBuf,
}

// === impl Pictures ===

impl Pictures {
    pub(super) fn open(path: &Path) -> Result<Self, SourceError> {
        Ok(Self {
            path: path.to_owned(),
            files: list(path)?,
            next: 0,
            readable: 0,
            unreadable: None,
            shown: None,
            pace: Pace::default(),
        })
    }

    /// The picture to show now: the one that is, for its time, then the next one that can be read.
    fn advance(
        &mut self,
        control: &Control,
        settings: &CameraSettings,
    ) -> Result<Option<&mut Shown>, SourceError> {
        let size = size_before_rotation(settings);
        let over =
            self.shown.as_ref().is_none_or(|shown| shown.since.elapsed().as_secs_f64() >= settings.hold_s);
        if over {
            self.shown = loop {
                if let Some(file) = self.files.get(self.next) {
                    self.next += 1;
                    match read(file, size) {
                        Ok(picture) => {
                            self.readable += 1;
                            let (since, path) = (Instant::now(), file.clone());
                            break Some(Shown { picture, since, size, frame: None, path });
                        }
                        Err(reason) => {
                            control.state.unreadable(file, &reason);
                            self.unreadable.get_or_insert((file.clone(), reason));
                        }
                    }
                } else if let (0, Some((path, reason))) = (self.readable, self.unreadable.take()) {
                    return Err(SourceError::NoneReadable { count: self.files.len(), path, reason });
                } else if settings.r#loop {
                    // The folder may have changed since.
                    *self =
                        Self { shown: None, pace: std::mem::take(&mut self.pace), ..Self::open(&self.path)? };
                } else {
                    break None;
                }
                if control.stop.is_cancelled() {
                    return Err(SourceError::Stopped);
                }
            };
        } else if let Some(shown) = &mut self.shown
            && shown.size != size
        {
            // Read again: it was reduced for frames of another size.
            shown.picture = read(&shown.path, size).map_err(io::Error::other)?;
            (shown.size, shown.frame) = (size, None);
        }
        Ok(self.shown.as_mut())
    }
}

impl Source for Pictures {
    fn next(&mut self, control: &Control) -> Result<Option<Shot>, SourceError> {
        self.pace.wait(control)?;
        let settings = control.settings();
        let Some(shown) = self.advance(control, &settings)? else { return Ok(None) };
        let (width, height) = shown.size;
        let whole = view::whole(&shown.picture, width, height);
        let frame = match settings.motion {
            Motion::None => {
                let picture = &shown.picture;
                let frame =
                    shown.frame.get_or_insert_with(|| Arc::new(resize_region(picture, whole, width, height)));
                Arc::clone(frame)
            }
            Motion::PanZoom => {
                let part = view::pan_zoom(whole, shown.since.elapsed().as_secs_f32());
                Arc::new(resize_region(&shown.picture, part, width, height))
            }
        };
        // The moment when lens and chip of a camera would have made this picture.
        Ok(Some(Shot::now(Content::Picture(frame))))
    }

    fn keeps_pace(&self) -> bool {
        true
    }
}

/// Width and height of what is turned to be a frame.
fn size_before_rotation(settings: &CameraSettings) -> (u32, u32) {
    if settings.rotation.is_multiple_of(180) {
        (settings.width, settings.height)
    } else {
        (settings.height, settings.width)
    }
}

/// The picture files, in the order of their names.
fn list(path: &Path) -> Result<Vec<PathBuf>, SourceError> {
    if !std::fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        let extension = file.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        if EXTENSIONS.contains(&extension.as_str()) {
            if files.len() >= MAX_FILES {
                return Err(SourceError::TooManyFiles(MAX_FILES));
            }
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(SourceError::NoPictures);
    }
    files.sort();
    Ok(files)
}

/// Reads a picture and, if it is much larger than a frame of this size, reduces it to twice the size, so that
/// each frame is quickly made.
fn read(path: &Path, (width, height): (u32, u32)) -> Result<Picture, String> {
    let (file, length) = open_file(path).map_err(|error| error.to_string())?;
    if length > MAX_FILE {
        return Err(format!("the file has {} MiB, {} are allowed", length >> 20, MAX_FILE >> 20));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    let picture =
        shunt_vision::decode(&bytes, &DecodeLimits::default()).map_err(|error| error.to_string())?;
    let picture = to_rgb(picture);
    let scale = view::whole(&picture, width, height).width / width.max(1) as f32;
    if scale <= 2.0 {
        return Ok(picture);
    }
    let reduced = |pixels: u32| ((pixels as f32 / scale * 2.0).round() as u32).max(1);
    Ok(resize(&picture, reduced(picture.width), reduced(picture.height)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_shown_in_the_order_of_their_names_and_others_left_out() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.jpg", "a.PNG", "notes.txt", "c.webp", "noextension"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let names: Vec<_> = list(folder.path())
            .unwrap()
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["a.PNG", "b.jpg", "c.webp"]);
    }

    #[test]
    fn a_large_picture_is_kept_at_twice_the_size_of_the_frame() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large.png");
        let png = shunt_vision::encode_png(&Picture::filled(2000, 500, [9, 8, 7])).unwrap();
        std::fs::write(&path, png).unwrap();
        let picture = read(&path, (320, 240)).unwrap();
        assert_eq!((picture.width, picture.height), (640, 160));
        assert_eq!(read(&path, (1600, 1200)).unwrap().width, 2000);
    }
}
