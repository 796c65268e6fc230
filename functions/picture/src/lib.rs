//! Reads JPEG and PNG files for the guests that work on pictures: as grey, or as RGB.
//!
//! It promises: whatever the bytes, the answer is a picture or a sentence that says what is wrong; no more than
//! [`PIXELS`] are ever decoded. Of an animated PNG it sees the first picture. Files are not turned by their EXIF.

mod baseline;

use std::io::Cursor;

use zune_core::{colorspace::ColorSpace, options::DecoderOptions};
use zune_jpeg::JpegDecoder;

/// The most pixels of a picture.
pub const PIXELS: usize = 40_000_000;

/// Pixels without gaps, row by row, 8 bits a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels of a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// What a pixel consists of.
    pub colour: Colour,
    /// The channels of each pixel.
    pub pixels: Vec<u8>,
}

/// What a pixel consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// Grey.
    Grey,
    /// Grey, opacity.
    GreyAlpha,
    /// Red, green, blue.
    Rgb,
    /// Red, green, blue, opacity.
    Rgba,
}

/// What a file is, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JPEG.
    Jpeg,
    /// PNG.
    Png,
    /// GIF.
    Gif,
}

// === impl Format ===

impl Format {
    /// What the file is; nothing where it is none of ours.
    #[must_use]
    pub fn of(file: &[u8]) -> Option<Self> {
        match file {
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', ..] => Some(Self::Png),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            _ => None,
        }
    }
}

// === impl Colour ===

impl Colour {
    /// Bytes of a pixel.
    #[must_use]
    pub fn channels(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::GreyAlpha => 2,
            Self::Rgb => 3,
            Self::Rgba => 4,
        }
    }
}

// === impl Picture ===

impl Picture {
    /// The picture in grey; opacity stays.
    #[must_use]
    pub fn into_grey(self) -> Self {
        let (colour, pixels) = match self.colour {
            Colour::Grey | Colour::GreyAlpha => return self,
            Colour::Rgb => {
                let (pixels, _) = self.pixels.as_chunks::<3>();
                (Colour::Grey, pixels.iter().map(|&[red, green, blue]| luma(red, green, blue)).collect())
            }
            Colour::Rgba => {
                let (pixels, _) = self.pixels.as_chunks::<4>();
                let grey =
                    pixels.iter().flat_map(|&[red, green, blue, alpha]| [luma(red, green, blue), alpha]);
                (Colour::GreyAlpha, grey.collect())
            }
        };
        Self { colour, pixels, ..self }
    }

    /// The picture in RGB; opacity is left out.
    #[must_use]
    pub fn into_rgb(self) -> Self {
        let pixels = match self.colour {
            Colour::Rgb => return self,
            Colour::Grey => self.pixels.iter().flat_map(|&grey| [grey; 3]).collect(),
            Colour::GreyAlpha => {
                self.pixels.as_chunks::<2>().0.iter().flat_map(|&[grey, _]| [grey; 3]).collect()
            }
            Colour::Rgba => {
                let pixels = self.pixels.as_chunks::<4>().0.iter();
                pixels.flat_map(|&[red, green, blue, _]| [red, green, blue]).collect()
            }
        };
        Self { colour: Colour::Rgb, pixels, ..self }
    }
}

/// How bright a colour is: the Y of JPEG (BT.601), so that a JPEG file's own grey is what a PNG of the same picture
/// gives.
#[must_use]
pub fn luma(red: u8, green: u8, blue: u8) -> u8 {
    // In 256ths: they add up to 256, so no sum is above 255.
    let sum = 77 * u16::from(red) + 150 * u16::from(green) + 29 * u16::from(blue) + 128;
    (sum >> 8).to_le_bytes()[0]
}

/// Decodes a JPEG file: grey as the file has it, without a look at its colours; else RGB.
pub fn jpeg(file: &[u8], grey: bool) -> Result<Picture, String> {
    if let Some(plane) = grey.then(|| baseline::luma(file, PIXELS)).flatten() {
        let baseline::Plane { width, height, pixels } = plane;
        return Ok(Picture { width, height, colour: Colour::Grey, pixels });
    }
    decoded(file, grey)
}

/// Decodes a JPEG file of any kind.
fn decoded(file: &[u8], grey: bool) -> Result<Picture, String> {
    let options = DecoderOptions::default().set_max_width(65_535).set_max_height(65_535);
    let mut decoder = JpegDecoder::new_with_options(Cursor::new(file), options);
    let broken = |error: zune_jpeg::errors::DecodeErrors| format!("the JPEG file cannot be read: {error:?}");
    decoder.decode_headers().map_err(broken)?;
    let (width, height) =
        decoder.info().map(|info| (info.width, info.height)).ok_or("the JPEG file has no size")?;
    allowed(width.into(), height.into())?;
    // Only of these is a plane of the file the grey picture.
    let has_grey = matches!(decoder.input_colorspace(), Some(ColorSpace::YCbCr | ColorSpace::Luma));
    let grey = grey && has_grey;
    decoder.set_options(options.jpeg_set_out_colorspace(if grey {
        ColorSpace::Luma
    } else {
        ColorSpace::RGB
    }));
    let pixels = decoder.decode().map_err(broken)?;
    let colour = if grey { Colour::Grey } else { Colour::Rgb };
    Ok(Picture { width: width.into(), height: height.into(), colour, pixels })
}

/// Decodes a PNG file; palettes become colours, 16 bits become 8.
pub fn png(file: &[u8]) -> Result<Picture, String> {
    let broken = |error: png::DecodingError| format!("the PNG file cannot be read: {error}");
    let mut decoder = png::Decoder::new(Cursor::new(file));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(broken)?;
    allowed(reader.info().width, reader.info().height)?;
    let mut pixels = vec![0; reader.output_buffer_size().ok_or("the PNG file is too large")?];
    let frame = reader.next_frame(&mut pixels).map_err(broken)?;
    let colour = match frame.color_type {
        png::ColorType::Grayscale => Colour::Grey,
        png::ColorType::GrayscaleAlpha => Colour::GreyAlpha,
        png::ColorType::Rgb => Colour::Rgb,
        png::ColorType::Rgba => Colour::Rgba,
        png::ColorType::Indexed => return Err("the PNG file has no palette".to_owned()),
    };
    pixels.truncate(frame.buffer_size());
    Ok(Picture { width: frame.width, height: frame.height, colour, pixels })
}

/// Has the picture no more pixels than are allowed?
fn allowed(width: u32, height: u32) -> Result<(), String> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels > PIXELS as u64 {
        return Err(format!("the picture has {width}x{height} pixels; {PIXELS} are allowed"));
    }
    Ok(())
}
