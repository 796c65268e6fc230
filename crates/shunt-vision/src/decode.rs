//! Files to pictures, within limits.

use std::{
    io::{self, Cursor},
    panic,
};

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, metadata::Orientation};
use jpeg_decoder::PixelFormat as JpegFormat;
use shunt_wire::events::{PixelFormat, Rect};
use zune_jpeg::{
    JpegDecoder,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

use crate::{
    Picture,
    picture::{mirrored, rotate},
};

/// From so many pixels on, a JPEG file is decoded at a half, a quarter or an eighth of its size where that is enough.
/// Below, the whole is as quick: see docs/decisions/0015-jpeg-decoding.md.
const REDUCED_FROM_PIXELS: u64 = 2_000_000;

/// How large a picture may be.
///
/// A picture takes three bytes a pixel, a grey one a byte. While it is decoded, the files that need most (PNG with
/// four channels of 16 bits, progressive JPEG) take up to eleven bytes a pixel in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// The most pixels, width times height. Default 40 million: three bytes each make 120 MB.
    pub max_pixels: u64,
}

/// A picture that was decoded for a purpose, perhaps smaller than its file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The picture.
    pub picture: Picture,
    /// One of its pixels stands for so many pixels of the file along each side: 1, 2, 4 or 8.
    pub reduced: u32,
    /// Width of the file's picture, turned as its EXIF data say, in pixels.
    pub width: u32,
    /// Height, in the same way.
    pub height: u32,
}

/// Why a file is not a picture that we can use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// None of the formats that we read.
    #[error("{bytes} bytes that are no JPEG, PNG, BMP, GIF or WebP picture")]
    Format {
        /// Bytes of the file.
        bytes: usize,
    },
    /// More pixels than allowed, by its header.
    #[error("the picture has {width}x{height} pixels, {} million are allowed", max_pixels / 1_000_000)]
    TooLarge {
        /// Width in pixels.
        width: u64,
        /// Height in pixels.
        height: u64,
        /// Pixels allowed.
        max_pixels: u64,
    },
    /// The file ends too early.
    #[error("the {format} file is cut off after {bytes} bytes")]
    Truncated {
        /// The format.
        format: &'static str,
        /// Bytes of the file.
        bytes: usize,
    },
    /// The file is damaged or uses a feature that the decoder does not know.
    #[error("the {format} file cannot be read: {reason}")]
    Damaged {
        /// The format.
        format: &'static str,
        /// What the decoder said.
        reason: String,
    },
}

// === impl DecodeLimits ===

impl Default for DecodeLimits {
    fn default() -> Self {
        Self { max_pixels: 40_000_000 }
    }
}

impl DecodeLimits {
    fn check(self, width: u64, height: u64) -> Result<(), DecodeError> {
        if width.saturating_mul(height) > self.max_pixels {
            return Err(DecodeError::TooLarge { width, height, max_pixels: self.max_pixels });
        }
        Ok(())
    }
}

// === impl Decoded ===

impl Decoded {
    /// From the file's pixels; they and the measures are turned here.
    fn new(picture: Picture, size: (u32, u32), reduced: u32, orientation: Orientation) -> Self {
        let (width, height) = if swaps_sides(orientation) { (size.1, size.0) } else { size };
        Self { picture: oriented(picture, orientation), reduced, width, height }
    }

    /// A rectangle in pixels of `picture`, in pixels of the file's picture.
    pub fn to_file(&self, rect: Rect) -> Rect {
        let factor = self.reduced as f32;
        Rect {
            x: rect.x * factor,
            y: rect.y * factor,
            width: rect.width * factor,
            height: rect.height * factor,
        }
    }
}

/// Reads a picture file: JPEG, PNG, BMP, GIF (its first picture) or WebP.
///
/// The picture is turned as its EXIF data say. Transparency is dropped: a pixel has the colour that its file gives
/// it, whatever its alpha, as `convert("RGB")` of Python's Pillow has it. Channels of 16 bits are rounded to 8,
/// palettes and CMYK become RGB. Grey files give grey pictures, all others RGB.
///
/// # Errors
///
/// See [`DecodeError`]; the measures are checked from the header, before the pixels are decoded.
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Picture, DecodeError> {
    Ok(decode_for(bytes, limits, u32::MAX, u32::MAX)?.picture)
}

/// As [`decode`], for somebody who needs no more than `width` by `height` pixels: a large JPEG file is decoded at a
/// half, a quarter or an eighth of its size if that is still as wide and as high. It is quicker and takes less
/// memory; each pixel is the mean of those that it stands for.
///
/// # Errors
///
/// As [`decode`]; the limits are for the whole picture, not for the reduced one.
pub fn decode_for(
    bytes: &[u8],
    limits: &DecodeLimits,
    width: u32,
    height: u32,
) -> Result<Decoded, DecodeError> {
    let limits = *limits;
    let format = image::guess_format(bytes).ok().and_then(|format| Some((format, name(format)?)));
    let Some((format, format_name)) = format else {
        return Err(DecodeError::Format { bytes: bytes.len() });
    };
    // Hostile bytes come in here from outside; a mistake inside a decoder must not end the thread that serves us.
    let decoded = panic::catch_unwind(|| match format {
        ImageFormat::Jpeg => decode_jpeg(bytes, limits, (width, height)),
        format => decode_other(bytes, format, format_name, limits),
    });
    decoded.unwrap_or_else(|_| {
        Err(DecodeError::Damaged { format: format_name, reason: "the decoder gave up".to_owned() })
    })
}

fn name(format: ImageFormat) -> Option<&'static str> {
    Some(match format {
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Png => "PNG",
        ImageFormat::Bmp => "BMP",
        ImageFormat::Gif => "GIF",
        ImageFormat::WebP => "WebP",
        _ => return None,
    })
}

fn decode_jpeg(bytes: &[u8], limits: DecodeLimits, wanted: (u32, u32)) -> Result<Decoded, DecodeError> {
    let damaged = |reason: String| DecodeError::Damaged { format: "JPEG", reason };
    let options = DecoderOptions::default()
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let truncated = || DecodeError::Truncated { format: "JPEG", bytes: bytes.len() };
    if let Err(error) = decoder.decode_headers() {
        return Err(if jpeg_is_complete(bytes) { damaged(format!("{error}")) } else { truncated() });
    }
    let (width, height) = decoder.dimensions().ok_or_else(|| damaged("it has no measures".to_owned()))?;
    limits.check(width as u64, height as u64)?;
    // The decoder fills what is missing with grey and calls it a success.
    if !jpeg_is_complete(bytes) {
        return Err(truncated());
    }
    let (width, height) = (width as u32, height as u32);
    let orientation = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));
    let orientation = orientation.unwrap_or(Orientation::NoTransforms);
    let colours = decoder.input_colorspace();
    if matches!(colours, Some(ColorSpace::Luma | ColorSpace::YCbCr)) {
        let wanted = if swaps_sides(orientation) { (wanted.1, wanted.0) } else { wanted };
        let reduced = reduction(width, height, wanted);
        if let Some(picture) = reduced.and_then(|factor| decode_reduced_jpeg(bytes, width, height, factor)) {
            return Ok(Decoded::new(picture, (width, height), reduced.unwrap_or(1), orientation));
        }
    }
    let format = if colours == Some(ColorSpace::Luma) {
        decoder.set_options(options.jpeg_set_out_colorspace(ColorSpace::Luma));
        PixelFormat::Grey8
    } else {
        PixelFormat::Rgb8
    };
    let pixels = decoder.decode().map_err(|error| damaged(format!("{error}")))?;
    let picture = Picture::new(width, height, format, pixels).map_err(|error| damaged(error.to_string()))?;
    Ok(Decoded::new(picture, (width, height), 1, orientation))
}

/// How far a picture can be reduced and still be as large as wanted; nothing if it cannot, or if it is so small that
/// nothing is gained.
fn reduction(width: u32, height: u32, wanted: (u32, u32)) -> Option<u32> {
    if u64::from(width) * u64::from(height) < REDUCED_FROM_PIXELS {
        return None;
    }
    [8, 4, 2].into_iter().find(|&factor| width / factor >= wanted.0 && height / factor >= wanted.1)
}

/// The picture with each side divided by the factor. `None`: this decoder does not know the file; the one for whole
/// pictures then has the word.
fn decode_reduced_jpeg(bytes: &[u8], width: u32, height: u32, factor: u32) -> Option<Picture> {
    let (width, height) = (width.div_ceil(factor), height.div_ceil(factor));
    let mut decoder = jpeg_decoder::Decoder::new(bytes);
    let measures = decoder.scale(u16::try_from(width).ok()?, u16::try_from(height).ok()?).ok()?;
    if (u32::from(measures.0), u32::from(measures.1)) != (width, height) {
        return None;
    }
    let format = match decoder.info()?.pixel_format {
        JpegFormat::L8 => PixelFormat::Grey8,
        JpegFormat::RGB24 => PixelFormat::Rgb8,
        JpegFormat::L16 | JpegFormat::CMYK32 => return None,
    };
    Picture::new(width, height, format, decoder.decode().ok()?).ok()
}

/// Is there an end-of-image marker after the first start-of-scan? (ITU-T T.81, annex B) A preview inside EXIF
/// data has markers of its own, so segments are walked by their lengths until the first scan.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let mut position = 2;
    loop {
        let marker = match bytes.get(position..position + 2) {
            // Fill bytes may stand before a marker.
            Some([0xff, 0xff]) => {
                position += 1;
                continue;
            }
            Some([0xff, marker]) => *marker,
            // Something between segments: the decoder decides what it makes of it.
            Some(_) => {
                position += 1;
                continue;
            }
            None => return false,
        };
        if marker == 0xda {
            break;
        }
        position += match bytes.get(position + 2..position + 4) {
            // Markers without a segment.
            _ if matches!(marker, 0x01 | 0xd0..=0xd9) => 2,
            Some([high, low]) => 2 + usize::from(u16::from_be_bytes([*high, *low])).max(2),
            _ => return false,
        };
    }
    // Mostly these are the last two bytes, so the search begins there.
    bytes.get(position..).is_some_and(|rest| rest.windows(2).rev().any(|pair| pair == [0xff, 0xd9]))
}

fn decode_other(
    bytes: &[u8],
    format: ImageFormat,
    format_name: &'static str,
    limits: DecodeLimits,
) -> Result<Decoded, DecodeError> {
    let wrong = |error: image::ImageError| {
        if ends_too_early(&error) {
            return DecodeError::Truncated { format: format_name, bytes: bytes.len() };
        }
        DecodeError::Damaged { format: format_name, reason: error.to_string() }
    };
    if format == ImageFormat::WebP && riff_is_cut_off(bytes) {
        return Err(DecodeError::Truncated { format: format_name, bytes: bytes.len() });
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut allowed = image::Limits::default();
    // Sixteen bits a channel, four channels, and the decoder's own buffers.
    allowed.max_alloc = Some(limits.max_pixels.saturating_mul(8).saturating_add(16 << 20));
    reader.limits(allowed);
    let mut decoder = reader.into_decoder().map_err(wrong)?;
    let (width, height) = decoder.dimensions();
    limits.check(u64::from(width), u64::from(height))?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let image = DynamicImage::from_decoder(decoder).map_err(wrong)?;
    let (format, pixels) = if image.color().has_color() {
        (PixelFormat::Rgb8, image.into_rgb8().into_raw())
    } else {
        (PixelFormat::Grey8, image.into_luma8().into_raw())
    };
    let picture = Picture::new(width, height, format, pixels)
        .map_err(|error| DecodeError::Damaged { format: format_name, reason: error.to_string() })?;
    Ok(Decoded::new(picture, (width, height), 1, orientation))
}

/// Does the decoder say that the file ends where more should come?
fn ends_too_early(error: &image::ImageError) -> bool {
    if let image::ImageError::IoError(io) = error {
        return io.kind() == io::ErrorKind::UnexpectedEof;
    }
    // GIF's has a kind of error of its own for that, which is hidden here; its words are not.
    error.to_string().to_ascii_lowercase().contains("unexpected end of file")
}

/// Is a RIFF file, as WebP is, shorter than its header says? The decoder would tell of a missing part at best.
fn riff_is_cut_off(bytes: &[u8]) -> bool {
    let length = bytes.get(4..8).and_then(|length| length.try_into().ok()).map(u32::from_le_bytes);
    length.is_none_or(|length| (bytes.len() as u64) < u64::from(length) + 8)
}

/// Does a picture that is turned in this way exchange its width and its height?
fn swaps_sides(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

fn oriented(picture: Picture, orientation: Orientation) -> Picture {
    match orientation {
        Orientation::NoTransforms => picture,
        Orientation::Rotate90 => rotate(picture, 1),
        Orientation::Rotate180 => rotate(picture, 2),
        Orientation::Rotate270 => rotate(picture, 3),
        Orientation::FlipHorizontal => mirrored(&picture),
        Orientation::FlipVertical => mirrored(&rotate(picture, 2)),
        Orientation::Rotate90FlipH => mirrored(&rotate(picture, 1)),
        Orientation::Rotate270FlipH => mirrored(&rotate(picture, 3)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{encode_jpeg, encode_png};

    /// A picture without sharp edges, so that JPEG changes it little.
    fn slope(width: u32, height: u32) -> Picture {
        let pixels = (0..height)
            .flat_map(|y| (0..width).flat_map(move |x| [(x * 2) as u8, (y * 3) as u8, 90]))
            .collect();
        Picture::new(width, height, PixelFormat::Rgb8, pixels).unwrap()
    }

    fn other(picture: &Picture, format: ImageFormat) -> Vec<u8> {
        let image = image::RgbImage::from_raw(picture.width, picture.height, picture.pixels.clone()).unwrap();
        let mut file = Cursor::new(Vec::new());
        image.write_to(&mut file, format).unwrap();
        file.into_inner()
    }

    fn check_error(bytes: &[u8], expected: &str) {
        assert_eq!(decode(bytes, &DecodeLimits::default()).unwrap_err().to_string(), expected);
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

    #[test]
    fn all_five_formats_are_read() {
        let picture = slope(60, 40);
        for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::WebP] {
            assert_eq!(decode(&other(&picture, format), &DecodeLimits::default()).unwrap(), picture);
        }
        for file in [other(&picture, ImageFormat::Gif), encode_jpeg(&picture, 95).unwrap()] {
            let read = decode(&file, &DecodeLimits::default()).unwrap();
            assert_eq!((read.width, read.height, read.format), (60, 40, PixelFormat::Rgb8));
            let far = read.pixels.iter().zip(&picture.pixels).filter(|(a, b)| a.abs_diff(**b) > 24).count();
            assert!(far < 200, "{far} of 7,200 bytes are far off");
        }
    }

    #[test]
    fn grey_files_give_grey_pictures() {
        let picture = Picture::new(16, 16, PixelFormat::Grey8, vec![77; 256]).unwrap();
        assert_eq!(decode(&encode_png(&picture).unwrap(), &DecodeLimits::default()).unwrap(), picture);
        let jpeg = decode(&encode_jpeg(&picture, 90).unwrap(), &DecodeLimits::default()).unwrap();
        assert_eq!(jpeg.format, PixelFormat::Grey8);
    }

    #[test]
    fn pictures_are_turned_as_their_exif_data_say() {
        let jpeg = encode_jpeg(&slope(60, 40), 95).unwrap();
        let plain = decode(&jpeg, &DecodeLimits::default()).unwrap();
        for (orientation, expected) in [
            (1, plain.clone()),
            (2, mirrored(&plain)),
            (3, rotate(plain.clone(), 2)),
            (6, rotate(plain.clone(), 1)),
            (8, rotate(plain.clone(), 3)),
        ] {
            let read = decode(&with_orientation(&jpeg, orientation), &DecodeLimits::default()).unwrap();
            assert_eq!(read, expected, "orientation {orientation}");
        }
    }

    #[test]
    fn a_file_that_is_no_picture_is_refused_by_name() {
        check_error(b"hello, I am a text", "18 bytes that are no JPEG, PNG, BMP, GIF or WebP picture");
        check_error(b"", "0 bytes that are no JPEG, PNG, BMP, GIF or WebP picture");
    }

    #[test]
    fn a_truncated_jpeg_is_refused_wherever_it_ends() {
        let whole = with_orientation(&encode_jpeg(&slope(200, 120), 90).unwrap(), 1);
        for end in (4..whole.len() - 2).step_by(97) {
            check_error(&whole[..end], &format!("the JPEG file is cut off after {end} bytes"));
        }
    }

    #[test]
    fn a_truncated_png_bmp_or_webp_is_refused() {
        for (format, name) in
            [(ImageFormat::Png, "PNG"), (ImageFormat::Bmp, "BMP"), (ImageFormat::WebP, "WebP")]
        {
            let whole = other(&slope(200, 120), format);
            let error = decode(&whole[..whole.len() / 2], &DecodeLimits::default()).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn a_picture_of_fifty_megapixels_is_refused_before_it_is_decoded() {
        // A JPEG header that claims 10000x5000 pixels, in front of a scan that could never fill them.
        let mut jpeg = encode_jpeg(&slope(64, 64), 90).unwrap();
        let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
        jpeg[frame + 5..frame + 7].copy_from_slice(&5_000_u16.to_be_bytes());
        jpeg[frame + 7..frame + 9].copy_from_slice(&10_000_u16.to_be_bytes());
        check_error(&jpeg, "the picture has 10000x5000 pixels, 40 million are allowed");
        let mut bmp = other(&slope(64, 64), ImageFormat::Bmp);
        bmp[18..22].copy_from_slice(&10_000_u32.to_le_bytes());
        bmp[22..26].copy_from_slice(&5_000_u32.to_le_bytes());
        check_error(&bmp, "the picture has 10000x5000 pixels, 40 million are allowed");
    }

    #[test]
    fn a_caller_can_allow_less() {
        let file = encode_png(&slope(100, 100)).unwrap();
        let error = decode(&file, &DecodeLimits { max_pixels: 9_999 }).unwrap_err();
        assert!(matches!(error, DecodeError::TooLarge { width: 100, height: 100, .. }), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn damaged_files_give_a_picture_or_an_error_and_never_more(
            which in 0..4_usize,
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
            end in any::<prop::sample::Index>(),
        ) {
            let picture = slope(48, 32);
            let mut file = match which {
                0 => encode_jpeg(&picture, 80).unwrap(),
                1 => other(&picture, ImageFormat::Gif),
                2 => other(&picture, ImageFormat::WebP),
                _ => encode_png(&picture).unwrap(),
            };
            for (index, byte) in damage {
                let index = index.index(file.len());
                file[index] = byte;
            }
            let end = end.index(file.len());
            let limits = DecodeLimits { max_pixels: 1_000_000 };
            for bytes in [&file[..], &file[..end]] {
                if let Ok(read) = decode(bytes, &limits) {
                    prop_assert!(read.is_sound());
                }
            }
        }
    }
}
