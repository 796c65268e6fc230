//! Sources of pictures, and the thread that keeps one going.

mod http_stream;
mod mjpeg_file;
mod pictures;
#[cfg(feature = "opencv")]
mod video;
mod webcam;

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    address::Address,
    control::{Control, interval},
    intake::Intake,
    shot::Shot,
};

/// The first pause before a source that failed is tried again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A source that worked for so long begins with the first pause again.
const STEADY: Duration = Duration::from_secs(10);

/// A source of pictures, used by one thread of its own.
pub(crate) trait Source {
    /// Waits for the next picture; nothing at the end of a folder or file.
    fn next(&mut self, control: &Control) -> Result<Option<Shot>, SourceError>;

    /// Does the source keep to the setting `fps` by itself? Shots of others are thinned out.
    fn keeps_pace(&self) -> bool {
        false
    }
}

/// Why a source gives no pictures.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// Not a failure: it is to stop.
    #[error("it was stopped")]
    Stopped,
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("the folder has no picture (.jpg, .jpeg, .png, .bmp, .gif or .webp)")]
    NoPictures,
    #[error("none of its {count} pictures can be read; {}: {reason}", path.display())]
    NoneReadable { count: usize, path: PathBuf, reason: String },
    #[error("it has more than {0} files")]
    TooManyFiles(usize),
    #[error("it holds no JPEG picture")]
    NoJpeg,
    #[error("no connection: {0}")]
    Http(String),
    #[error("the server answered {0}")]
    HttpStatus(u16),
    #[error("the server sends {0:?}, not multipart/x-mixed-replace")]
    HttpContent(String),
    #[error("the stream has ended")]
    StreamEnded,
    #[error("nothing came for {seconds} s")]
    TimedOut { seconds: u64 },
    #[error("it is no device that gives MJPG or YUYV pictures")]
    Formats,
    #[error("the driver gives {0} bytes for a picture of {1}x{2}")]
    ShortPicture(usize, u32, u32),
    #[cfg(feature = "opencv")]
    #[error("OpenCV cannot open it: {0}")]
    Video(String),
    #[error("its thread gave up: {0}")]
    Panicked(String),
    #[error("its thread cannot be started: {0}")]
    Thread(io::Error),
}

/// Starts the thread that takes shots from this source until `control.stop`.
pub(crate) fn start(address: Address, control: Control, intake: Arc<Intake>) {
    let name = address.to_string();
    let state = Arc::clone(&control.state);
    let thread = thread::Builder::new().name("source".to_owned());
    if let Err(error) = thread.spawn(move || keep_going(&address, &control, &intake)) {
        state.failed(&name, &SourceError::Thread(error));
    }
}

/// Opens the source again whenever it fails, with longer and longer pauses.
fn keep_going(address: &Address, control: &Control, intake: &Intake) {
    let mut pause = FIRST_PAUSE;
    while !control.stop.is_cancelled() {
        let begin = Instant::now();
        // The drivers behind some sources are not ours; whatever they do, the camera lives on.
        let result = catch_unwind(AssertUnwindSafe(|| show(address, control, intake)));
        let error = match result {
            Ok(Ok(())) => return control.state.ended(),
            Ok(Err(SourceError::Stopped)) => return,
            Ok(Err(error)) => error,
            Err(panic) => SourceError::Panicked(message(panic.as_ref())),
        };
        if control.stop.is_cancelled() {
            return;
        }
        control.state.failed(address, &error);
        if begin.elapsed() > STEADY {
            pause = FIRST_PAUSE;
        }
        if control.wait_until(Instant::now() + pause).is_err() {
            return;
        }
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

/// Takes shots until the source fails, or has ended and is not looped.
fn show(address: &Address, control: &Control, intake: &Intake) -> Result<(), SourceError> {
    let mut source = open(address, control)?;
    while let Some(shot) = source.next(control)? {
        let rate = if source.keeps_pace() { None } else { Some(interval(control.settings().fps)) };
        intake.offer(&control.stop, rate, shot);
    }
    Ok(())
}

fn open(address: &Address, control: &Control) -> Result<Box<dyn Source>, SourceError> {
    Ok(match address {
        Address::Pictures(path) => Box::new(pictures::Pictures::open(path)?),
        Address::MjpegFile(path) => Box::new(mjpeg_file::MjpegFile::open(path)?),
        Address::MjpegStream(url) => Box::new(http_stream::HttpStream::open(url, control)?),
        Address::Webcam(path) => Box::new(webcam::Webcam::open(path, &control.settings())?),
        #[cfg(feature = "opencv")]
        Address::Video(address) => Box::new(video::Video::open(address)?),
        #[cfg(not(feature = "opencv"))]
        Address::Video(_) => return Err(SourceError::Formats),
    })
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it said nothing".to_owned())
}

/// Opens a plain file; a pipe in its place must not hold the thread for ever.
fn open_file(path: &Path) -> io::Result<(std::fs::File, u64)> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file"));
    }
    Ok((std::fs::File::open(path)?, metadata.len()))
}
