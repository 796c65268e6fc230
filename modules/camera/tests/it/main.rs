//! The camera through its front door: a real broker, real files and servers, settings as the twin changes them.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test ends by a panic")]

mod bad_input;
mod camera;
mod docs;
mod http;
mod methods;
mod mjpeg;
mod outlets;
mod pictures;
mod twin;
#[cfg(feature = "opencv")]
mod video;
