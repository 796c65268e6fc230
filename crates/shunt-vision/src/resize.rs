//! Cut out and make larger or smaller.

use std::cell::RefCell;

use fast_image_resize::{
    FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer,
    images::{TypedCroppedImageMut, TypedImage, TypedImageRef},
    pixels::{U8, U8x3},
};
use shunt_wire::events::{PixelFormat, Rect};

use crate::Picture;

/// What resizing needs beside its source and its target.
pub(crate) struct Bench {
    /// Has buffers of its own: one row of the source for each row of the target.
    pub(crate) resizer: Resizer,
    /// For a result that is needed for a moment only.
    pub(crate) pixels: Vec<u8>,
}

thread_local! {
    // Its buffers are used again for the next frame of this thread.
    pub(crate) static BENCH: RefCell<Bench> =
        RefCell::new(Bench { resizer: Resizer::new(), pixels: Vec::new() });
}

/// The whole picture, made to this size (bilinear, averaged where it gets smaller).
pub fn resize(picture: &Picture, width: u32, height: u32) -> Picture {
    if (picture.width, picture.height) == (width, height) && picture.is_sound() {
        return picture.clone();
    }
    resize_region(picture, picture.area(), width, height)
}

/// A part of the picture, made to this size. Where the part reaches beyond the picture, the result is black.
/// A part that has no area, or is not a number, gives a black picture.
pub fn resize_region(picture: &Picture, region: Rect, width: u32, height: u32) -> Picture {
    let mut result = Picture::black(width, height, picture.format);
    BENCH.with_borrow_mut(|bench| {
        resize_into(&mut bench.resizer, picture, region, region, (width, height), &mut result.pixels);
    });
    result
}

/// Writes a region of the picture, made to `size` (width and height), over `target`, which has as many bytes as
/// that needs. Only the `shown` part of the region is put in, at its place; what is left is black.
pub(crate) fn resize_into(
    resizer: &mut Resizer,
    picture: &Picture,
    region: Rect,
    shown: Rect,
    size: (u32, u32),
    target: &mut [u8],
) {
    let (width, height) = size;
    let place = (picture.is_sound() && width > 0 && height > 0).then(|| {
        let columns = overlap((region.x, region.width), (shown.x, shown.width), picture.width, width)?;
        let rows = overlap((region.y, region.height), (shown.y, shown.height), picture.height, height)?;
        Some((columns, rows))
    });
    let Some((columns, rows)) = place.flatten() else { return target.fill(0) };
    if (columns.length, rows.length) != size {
        target.fill(0);
    }
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).crop(
        columns.source_from,
        rows.source_from,
        columns.source_length,
        rows.source_length,
    );
    // By type, not by a value: the library would be compiled into this crate for all its thirteen kinds of pixels.
    let done = match picture.format {
        PixelFormat::Rgb8 => convolve::<U8x3>(resizer, picture, target, size, [columns, rows], &options),
        PixelFormat::Grey8 => convolve::<U8>(resizer, picture, target, size, [columns, rows], &options),
    };
    if done.is_none() {
        // All measures were made to fit above, so this can only come from a mistake of ours.
        target.fill(0);
    }
}

/// Writes a stretch of the picture's columns and rows to its place in the target; `None` if the measures do not fit.
fn convolve<P: PixelTrait>(
    resizer: &mut Resizer,
    picture: &Picture,
    target: &mut [u8],
    (width, height): (u32, u32),
    [columns, rows]: [Stretch; 2],
    options: &ResizeOptions,
) -> Option<()> {
    let source = TypedImageRef::<P>::from_buffer(picture.width, picture.height, &picture.pixels).ok()?;
    let mut target = TypedImage::<P>::from_buffer(width, height, target).ok()?;
    let mut part =
        TypedCroppedImageMut::from_ref(&mut target, columns.from, rows.from, columns.length, rows.length)
            .ok()?;
    resizer.resize_typed(&source, &mut part, options).ok()
}

/// A stretch of the source, in its pixels, and where it comes to lie in the result, in whole pixels.
#[derive(Clone, Copy)]
struct Stretch {
    source_from: f64,
    source_length: f64,
    from: u32,
    length: u32,
}

/// Along one axis: what is shown of the region (each its beginning and its length) and inside the source.
fn overlap(region: (f32, f32), shown: (f32, f32), source: u32, target: u32) -> Option<Stretch> {
    let (from, length, source) = (f64::from(region.0), f64::from(region.1), f64::from(source));
    let (shown_from, shown_length) = (f64::from(shown.0), f64::from(shown.1));
    if !from.is_finite() || !length.is_finite() || length <= 0.0 {
        return None;
    }
    let scale = f64::from(target) / length;
    let begin = from.max(shown_from).max(0.0);
    let end = (from + length).min(shown_from + shown_length).min(source);
    // In whole pixels of the result, at least one, then back to the source, so that nothing is shifted.
    let first = ((begin - from) * scale).round();
    let last = ((end - from) * scale).round().min(f64::from(target));
    if last - first < 1.0 {
        return None;
    }
    let begin = (from + first / scale).clamp(0.0, source);
    let end = (from + last / scale).clamp(0.0, source);
    (end > begin).then_some(Stretch {
        source_from: begin,
        source_length: end - begin,
        from: first as u32,
        length: (last - first) as u32,
    })
}

/// How a picture was fitted into a square: from the square's units (0 to 1) back to the picture's pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Letterbox {
    /// Left edge of the square in the picture, in its pixels; negative where the square is wider.
    pub x: f32,
    /// Upper edge.
    pub y: f32,
    /// Side of the square in pixels of the picture.
    pub side: f32,
}

// === impl Letterbox ===

impl Letterbox {
    /// A rectangle in units of the square, in pixels of the picture.
    pub fn to_picture(self, rect: Rect) -> Rect {
        Rect {
            x: self.x + rect.x * self.side,
            y: self.y + rect.y * self.side,
            width: rect.width * self.side,
            height: rect.height * self.side,
        }
    }
}

/// The picture, padded with black to a square around its middle and made to `side` pixels.
pub fn letterbox(picture: &Picture, side: u32) -> (Picture, Letterbox) {
    let (width, height) = (picture.width as f32, picture.height as f32);
    let longest = width.max(height).max(1.0);
    let place = Letterbox { x: (width - longest) / 2.0, y: (height - longest) / 2.0, side: longest };
    let square = Rect { x: place.x, y: place.y, width: longest, height: longest };
    (resize_region(picture, square, side, side), place)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fill;

    #[test]
    fn a_region_is_cut_out_and_made_larger() {
        let mut picture = Picture::filled(100, 100, [0, 0, 0]);
        fill(&mut picture, 40, 40, 20, 20, [255, 0, 0]);
        let part = resize_region(&picture, Rect { x: 42.0, y: 42.0, width: 16.0, height: 16.0 }, 64, 64);
        assert_eq!((part.width, part.height), (64, 64));
        assert!(part.pixels.as_chunks::<3>().0.iter().all(|pixel| *pixel == [255, 0, 0]));
    }

    #[test]
    fn what_lies_outside_the_picture_is_black() {
        let picture = Picture::filled(100, 100, [10, 200, 30]);
        let part = resize_region(&picture, Rect { x: -50.0, y: 0.0, width: 100.0, height: 100.0 }, 20, 20);
        assert_eq!(part.pixel(9, 10), Some(&[0, 0, 0][..]));
        assert_eq!(part.pixel(10, 10), Some(&[10, 200, 30][..]));
        let outside = resize_region(&picture, Rect { x: 500.0, y: 500.0, width: 10.0, height: 10.0 }, 4, 4);
        assert_eq!(outside, Picture::filled(4, 4, [0, 0, 0]));
    }

    #[test]
    fn a_wide_picture_is_padded_above_and_below() {
        let (square, place) = letterbox(&Picture::filled(200, 100, [255, 255, 255]), 64);
        assert_eq!(square.pixel(32, 15), Some(&[0, 0, 0][..]));
        assert_eq!(square.pixel(32, 16), Some(&[255, 255, 255][..]));
        assert_eq!(square.pixel(32, 47), Some(&[255, 255, 255][..]));
        assert_eq!(square.pixel(32, 48), Some(&[0, 0, 0][..]));
        let middle = place.to_picture(Rect { x: 0.25, y: 0.25, width: 0.5, height: 0.5 });
        assert_eq!(middle, Rect { x: 50.0, y: 0.0, width: 100.0, height: 100.0 });
    }

    #[test]
    fn unusable_measures_give_a_black_picture() {
        let picture = Picture::filled(10, 10, [1, 2, 3]);
        for region in [
            Rect { x: 0.0, y: 0.0, width: 0.0, height: 5.0 },
            Rect { x: f32::NAN, y: 0.0, width: 5.0, height: 5.0 },
            Rect { x: 0.0, y: 0.0, width: f32::INFINITY, height: 5.0 },
        ] {
            assert_eq!(resize_region(&picture, region, 3, 3), Picture::filled(3, 3, [0, 0, 0]));
        }
        let broken = Picture { pixels: vec![1; 5], ..picture };
        assert_eq!(resize(&broken, 3, 3), Picture::filled(3, 3, [0, 0, 0]));
    }

    proptest! {
        #[test]
        fn any_region_gives_a_picture_of_the_asked_size(
            x in -300.0_f32..300.0, y in -300.0_f32..300.0,
            region_width in 0.0_f32..400.0, region_height in 0.0_f32..400.0,
            width in 0_u32..40, height in 0_u32..40,
        ) {
            let picture = Picture::filled(50, 30, [255, 255, 255]);
            let part =
                resize_region(&picture, Rect { x, y, width: region_width, height: region_height }, width, height);
            prop_assert!(part.is_sound());
            prop_assert_eq!((part.width, part.height), (width, height));
        }
    }
}
