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
    if !picture.is_sound() {
        return picture;
    }
    let (width, height, format) = (picture.width, picture.height, picture.format);
    match quarter_turns % 4 {
        0 => picture,
        2 => Picture { pixels: half_turned(&picture), ..picture },
        quarters => {
            let pixels = match format {
                PixelFormat::Rgb8 => quarter_turned::<3>(&picture, quarters == 1),
                PixelFormat::Grey8 => quarter_turned::<1>(&picture, quarters == 1),
            };
            Picture { width: height, height: width, format, pixels }
        }
    }
}

/// Mirrors left and right.
pub(crate) fn mirrored(picture: &Picture) -> Picture {
    let pixels = match picture.format {
        PixelFormat::Rgb8 => mirrored_rows::<3>(picture),
        PixelFormat::Grey8 => mirrored_rows::<1>(picture),
    };
    Picture { width: picture.width, height: picture.height, format: picture.format, pixels }
}

fn half_turned(picture: &Picture) -> Vec<u8> {
    match picture.format {
        PixelFormat::Grey8 => picture.pixels.iter().rev().copied().collect(),
        PixelFormat::Rgb8 => {
            let (pixels, _) = picture.pixels.as_chunks::<3>();
            pixels.iter().rev().copied().collect::<Vec<_>>().into_flattened()
        }
    }
}

fn mirrored_rows<const BYTES: usize>(picture: &Picture) -> Vec<u8> {
    let (pixels, _) = picture.pixels.as_chunks::<BYTES>();
    let rows = pixels.chunks_exact(picture.width.max(1) as usize);
    rows.flat_map(|row| row.iter().rev().copied()).collect::<Vec<_>>().into_flattened()
}

fn quarter_turned<const BYTES: usize>(picture: &Picture, clockwise: bool) -> Vec<u8> {
    /// Rows that are turned together: their pixels come to lie side by side, so that memory is written in stretches.
    const BAND: usize = 16;
    let (width, height) = (picture.width as usize, picture.height as usize);
    let (pixels, _) = picture.pixels.as_chunks::<BYTES>();
    let mut turned = vec![[0; BYTES]; pixels.len()];
    for band in (0..height).step_by(BAND) {
        for column in 0..width {
            for row in band..height.min(band + BAND) {
                let place = if clockwise {
                    column * height + (height - 1 - row)
                } else {
                    (width - 1 - column) * height + row
                };
                if let (Some(to), Some(from)) = (turned.get_mut(place), pixels.get(row * width + column)) {
                    *to = *from;
                }
            }
        }
    }
    turned.into_flattened()
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

    #[test]
    fn colours_are_turned_pixel_by_pixel_and_as_often_as_it_takes() {
        let pixels = (0..37 * 21 * 3).map(|value| (value % 251) as u8).collect();
        let picture = Picture::new(37, 21, PixelFormat::Rgb8, pixels).unwrap();
        let once = rotate(picture.clone(), 1);
        assert_eq!((once.width, once.height, once.pixel(20, 0)), (21, 37, picture.pixel(0, 0)));
        assert_eq!(once.pixel(0, 36), picture.pixel(36, 20));
        assert_eq!(rotate(once.clone(), 1), rotate(picture.clone(), 2));
        assert_eq!(rotate(once.clone(), 2), rotate(picture.clone(), 3));
        assert_eq!(rotate(once, 3), picture);
        assert_eq!(mirrored(&mirrored(&picture)), picture);
        assert_eq!(mirrored(&picture).pixel(0, 3), picture.pixel(36, 3));
    }
}
