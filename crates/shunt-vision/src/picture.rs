//! A picture in memory.

use shunt_wire::events::{PixelFormat, Rect};

/// A picture: rows from the top, no padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// How the pixels lie.
    pub format: PixelFormat,
    /// The pixels: `width * height * bytes_per_pixel` bytes. Functions of this crate take a picture with another
    /// number of bytes for a black one.
    pub pixels: Vec<u8>,
}

/// The pixels are not as many as the measures say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a picture of {width}x{height} pixels with {bytes_per_pixel} bytes each cannot have {bytes} bytes")]
pub struct PictureError {
    width: u32,
    height: u32,
    bytes_per_pixel: usize,
    bytes: usize,
}

// === impl Picture ===

impl Picture {
    /// A picture from its pixels; refused where they are not as many as the measures say.
    pub fn new(width: u32, height: u32, format: PixelFormat, pixels: Vec<u8>) -> Result<Self, PictureError> {
        let picture = Self { width, height, format, pixels };
        picture.check()?;
        Ok(picture)
    }

    /// A black picture.
    pub fn black(width: u32, height: u32, format: PixelFormat) -> Self {
        let size = width as usize * height as usize * format.bytes_per_pixel();
        Self { width, height, format, pixels: vec![0; size] }
    }

    /// An RGB picture of one colour.
    pub fn filled(width: u32, height: u32, rgb: [u8; 3]) -> Self {
        let pixels = rgb.repeat(width as usize * height as usize);
        Self { width, height, format: PixelFormat::Rgb8, pixels }
    }

    /// Are there as many pixels as the measures say?
    pub fn is_sound(&self) -> bool {
        let size = (self.width as usize)
            .checked_mul(self.height as usize)
            .and_then(|pixels| pixels.checked_mul(self.format.bytes_per_pixel()));
        size == Some(self.pixels.len())
    }

    /// Are there as many pixels as the measures say? If not, the error says how many there are.
    pub fn check(&self) -> Result<(), PictureError> {
        if self.is_sound() {
            return Ok(());
        }
        Err(PictureError {
            width: self.width,
            height: self.height,
            bytes_per_pixel: self.format.bytes_per_pixel(),
            bytes: self.pixels.len(),
        })
    }

    /// All of it, as a rectangle in its own pixels.
    pub fn area(&self) -> Rect {
        Rect { x: 0.0, y: 0.0, width: self.width as f32, height: self.height as f32 }
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.width as usize * self.format.bytes_per_pixel()
    }

    /// The bytes of one pixel, if it is inside.
    pub fn pixel(&self, x: u32, y: u32) -> Option<&[u8]> {
        if x >= self.width || y >= self.height {
            return None;
        }
        let bytes = self.format.bytes_per_pixel();
        let start = y as usize * self.row_bytes() + x as usize * bytes;
        self.pixels.get(start..start + bytes)
    }
}

/// Turns the picture clockwise by so many quarters; 4 quarters change nothing.
#[must_use]
pub fn rotate(picture: Picture, quarter_turns: u8) -> Picture {
    match quarter_turns % 4 {
        _ if !picture.is_sound() => picture,
        1 => turned(&picture, |x, y| (y, picture.height - 1 - x), true),
        2 => turned(&picture, |x, y| (picture.width - 1 - x, picture.height - 1 - y), false),
        3 => turned(&picture, |x, y| (picture.width - 1 - y, x), true),
        _ => picture,
    }
}

/// Mirrors left and right.
pub(crate) fn mirrored(picture: &Picture) -> Picture {
    turned(picture, |x, y| (picture.width - 1 - x, y), false)
}

/// A new picture whose pixel (x, y) is the old one's pixel `from(x, y)`; with sides exchanged if `swapped`.
fn turned(picture: &Picture, from: impl Fn(u32, u32) -> (u32, u32), swapped: bool) -> Picture {
    let (width, height) =
        if swapped { (picture.height, picture.width) } else { (picture.width, picture.height) };
    let mut pixels = Vec::with_capacity(picture.pixels.len());
    for y in 0..height {
        for x in 0..width {
            let (from_x, from_y) = from(x, y);
            pixels.extend_from_slice(picture.pixel(from_x, from_y).unwrap_or_default());
        }
    }
    Picture { width, height, format: picture.format, pixels }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(width: u32, height: u32, pixels: &[u8]) -> Picture {
        Picture::new(width, height, PixelFormat::Grey8, pixels.to_vec()).unwrap()
    }

    #[test]
    fn a_picture_with_too_few_pixels_is_refused() {
        let error = Picture::new(2, 2, PixelFormat::Rgb8, vec![0; 11]).unwrap_err();
        assert_eq!(error.to_string(), "a picture of 2x2 pixels with 3 bytes each cannot have 11 bytes");
    }

    #[test]
    fn turning_goes_clockwise_and_four_quarters_change_nothing() {
        let picture = grey(3, 2, &[1, 2, 3, 4, 5, 6]);
        assert_eq!(rotate(picture.clone(), 1), grey(2, 3, &[4, 1, 5, 2, 6, 3]));
        assert_eq!(rotate(picture.clone(), 2), grey(3, 2, &[6, 5, 4, 3, 2, 1]));
        assert_eq!(rotate(picture.clone(), 3), grey(2, 3, &[3, 6, 2, 5, 1, 4]));
        assert_eq!(rotate(picture.clone(), 4), picture);
        assert_eq!(mirrored(&picture), grey(3, 2, &[3, 2, 1, 6, 5, 4]));
    }
}
