//! Pictures to files.

use image::{
    ExtendedColorType, ImageEncoder,
    codecs::{jpeg::JpegEncoder, png::PngEncoder},
};
use shunt_wire::events::PixelFormat;

use crate::Picture;

/// Why a picture was not written as a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The pixels are none, or not as many as the measures say.
    #[error("a picture of {width}x{height} pixels with {bytes} bytes cannot be encoded")]
    Pixels {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Bytes of the picture.
        bytes: usize,
    },
    /// The encoder refused it.
    #[error("the picture of {width}x{height} pixels cannot be encoded: {source}")]
    Encoder {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// What the encoder said.
        source: image::ImageError,
    },
}

/// Writes a JPEG file; `quality` from 1 to 100.
///
/// # Errors
///
/// An empty picture, one whose pixels are not as many as its measures say, or one with a side of more than
/// 65,535 pixels.
pub fn encode_jpeg(picture: &Picture, quality: u8) -> Result<Vec<u8>, EncodeError> {
    let mut file = Vec::with_capacity(picture.pixels.len() / 8);
    encode(picture, JpegEncoder::new_with_quality(&mut file, quality.clamp(1, 100)))?;
    Ok(file)
}

/// Writes a PNG file.
///
/// # Errors
///
/// An empty picture, or one whose pixels are not as many as its measures say.
pub fn encode_png(picture: &Picture) -> Result<Vec<u8>, EncodeError> {
    let mut file = Vec::new();
    encode(picture, PngEncoder::new(&mut file))?;
    Ok(file)
}

fn encode(picture: &Picture, encoder: impl ImageEncoder) -> Result<(), EncodeError> {
    let Picture { width, height, format, pixels } = picture;
    let (width, height) = (*width, *height);
    // The encoders would panic.
    if !picture.is_sound() || pixels.is_empty() {
        return Err(EncodeError::Pixels { width, height, bytes: pixels.len() });
    }
    let colour = match format {
        PixelFormat::Rgb8 => ExtendedColorType::Rgb8,
        PixelFormat::Grey8 => ExtendedColorType::L8,
    };
    encoder.write_image(pixels, width, height, colour).map_err(|source| EncodeError::Encoder {
        width,
        height,
        source,
    })
}
