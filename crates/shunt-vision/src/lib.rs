//! Pictures: decode, resize, colour, crop, draw, blur, and what a face finder's numbers mean.
//!
//! - [`decode`] reads JPEG, PNG, BMP, GIF and WebP within [`DecodeLimits`]; the measures are checked from the
//!   header, before any pixel is decoded. [`decode_for`] is quicker for large JPEG files that are needed small.
//! - [`resize`], [`resize_region`], [`letterbox`], [`rotate`], [`fill`], [`blur`], [`draw_rect`], [`draw_text`]
//!   work on a [`Picture`].
//! - [`TensorPlan`] turns a picture, or a region of it, into the numbers that a model takes.
//! - [`FramePictures`] reads the pixels of frame events.
//! - [`encode_jpeg`], [`encode_png`] write files.
//! - [`faces`] turns a face finder's outputs into boxes; [`FaceTracker`] gives a face the same number as long as
//!   it stays in view; a [`MotionGate`] tells whether anything moved at all.
//!
//! It promises: whatever the bytes, [`decode`] answers with a picture or with an error that says what is wrong,
//! and never reserves more memory than the limits allow.
//!
//! It deliberately does no I/O but to read frames from shared memory, holds no model and knows no bus. All of it is
//! work for a thread of its own, never for an async one (law 6).
//!
//! ```
//! use shunt_vision::{DecodeLimits, Picture, decode, encode_png, resize};
//!
//! let picture = Picture::filled(64, 48, [200, 30, 30]);
//! let file = encode_png(&picture)?;
//! let read = decode(&file, &DecodeLimits::default())?;
//! assert_eq!(read, picture);
//! let small = resize(&read, 32, 24);
//! assert_eq!((small.width, small.height), (32, 24));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod colour;
mod decode;
mod draw;
mod encode;
pub mod faces;
mod frame;
mod motion;
mod picture;
mod resize;
mod tensor;
mod tracker;

pub use colour::{fer_grey, to_grey, to_rgb, yuyv_to_rgb};
pub use decode::{DecodeError, DecodeLimits, Decoded, decode, decode_for};
pub use draw::{blur, draw_rect, draw_text, fill};
pub use encode::{EncodeError, encode_jpeg, encode_png};
pub use frame::{FramePictures, NoPicture};
pub use motion::{Motion, MotionGate, MotionOptions};
pub use picture::{Picture, PictureError, rotate};
pub use resize::{Letterbox, letterbox, resize, resize_region};
pub use shunt_wire::events::{PixelFormat, Rect};
pub use tensor::{Colour, Fit, Layout, TensorError, TensorPlan, TensorValue};
pub use tracker::{FaceTracker, TrackerOptions};
