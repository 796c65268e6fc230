//! Pictures to the numbers that a model takes.

use serde::{Deserialize, Serialize};
use shunt_wire::events::{PixelFormat, Rect};

use crate::{
    Picture, PictureError,
    colour::luma,
    resize::{BENCH, Bench, resize_into},
};

/// The order of the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Pixel by pixel.
    Nhwc,
    /// Channel by channel.
    Nchw,
}

/// The colours a model wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Colour {
    /// Red, green, blue.
    Rgb,
    /// One channel, BT.601.
    Grey,
}

/// How a picture is brought to the input's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Padded with black to the input's form around its middle; for a square input, to a square.
    Letterbox,
    /// Made to the size, whatever its sides.
    Stretch,
}

/// How a picture becomes a model's input: `value * scale + offset` for each byte, in this order, at this size.
///
/// It holds no buffers: those of the thread that calls [`TensorPlan::fill`] are used again for the next frame, so
/// that a frame reserves nothing but the resizer's tables (some kilobytes). For a picture of 640x480 they take
/// 0.5 MB a thread.
///
/// ```
/// use shunt_vision::{Colour, Fit, Layout, Picture, TensorPlan};
///
/// let plan = TensorPlan {
///     width: 224,
///     height: 224,
///     layout: Layout::Nchw,
///     colour: Colour::Rgb,
///     fit: Fit::Stretch,
///     scale: [1.0 / 255.0; 3],
///     offset: [0.0; 3],
/// };
/// let mut values = vec![0.0_f32; plan.values()];
/// let shown = plan.fill(&Picture::filled(640, 480, [255, 0, 0]), None, &mut values)?;
/// assert_eq!((shown.width, shown.height), (640.0, 480.0));
/// assert_eq!((values[0], values[224 * 224]), (1.0, 0.0));
/// # Ok::<(), shunt_vision::TensorError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TensorPlan {
    /// Width of the input in pixels.
    pub width: u32,
    /// Height of the input in pixels.
    pub height: u32,
    /// The order of the values.
    pub layout: Layout,
    /// The colours.
    pub colour: Colour,
    /// How a picture is brought to the size.
    pub fit: Fit,
    /// What a byte is multiplied by, for red, green and blue; grey takes the first. For `f32` values only.
    pub scale: [f32; 3],
    /// What is added then. For `f32` values only.
    pub offset: [f32; 3],
}

/// A type of value that a model takes: `f32`, `u8` or `i8`.
pub trait TensorValue: Copy + sealed::Sealed {
    /// The value for a byte of the picture. `f32` is `byte * scale + offset`; `u8` is the byte itself; `i8` is the
    /// byte less 128, which is what the zero point of models with signed bytes stands for.
    fn of(byte: u8, scale: f32, offset: f32) -> Self;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for u8 {}
    impl Sealed for i8 {}
}

/// Why a picture cannot be a model's input.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// The picture's pixels are not as many as its measures say.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// The region is no rectangle: it has no area, or holds what is no number.
    #[error("the region {}x{} at {},{} has no area", region.width, region.height, region.x, region.y)]
    Region {
        /// The region, in pixels of the picture.
        region: Rect,
    },
    /// The values do not fit into the buffer.
    #[error("an input of {shape:?} has {expected} values, and the buffer has {found}")]
    Buffer {
        /// The shape of the input.
        shape: [usize; 4],
        /// Values of the input.
        expected: usize,
        /// Values of the buffer.
        found: usize,
    },
}

// === impl TensorValue ===

impl TensorValue for f32 {
    fn of(byte: u8, scale: f32, offset: f32) -> Self {
        Self::from(byte) * scale + offset
    }
}

impl TensorValue for u8 {
    fn of(byte: u8, _scale: f32, _offset: f32) -> Self {
        byte
    }
}

impl TensorValue for i8 {
    fn of(byte: u8, _scale: f32, _offset: f32) -> Self {
        byte.wrapping_sub(128).cast_signed()
    }
}

// === impl TensorPlan ===

impl TensorPlan {
    /// Channels: 3 or 1.
    pub fn channels(&self) -> usize {
        match self.colour {
            Colour::Rgb => 3,
            Colour::Grey => 1,
        }
    }

    /// The shape of the input, with a batch of one: `[1, height, width, channels]` or `[1, channels, height, width]`.
    pub fn shape(&self) -> [usize; 4] {
        let (width, height, channels) = (self.width as usize, self.height as usize, self.channels());
        match self.layout {
            Layout::Nhwc => [1, height, width, channels],
            Layout::Nchw => [1, channels, height, width],
        }
    }

    /// How many values the input has.
    pub fn values(&self) -> usize {
        self.shape().iter().fold(1, |product, &side| product.saturating_mul(side))
    }

    /// What the input shows of a picture if this region of it (all of it, if none is given) is put in: with
    /// [`Fit::Stretch`] the region; with [`Fit::Letterbox`] the region with its padding. In pixels of the picture;
    /// a box in the input's units (0 to 1) is multiplied by its width and height and moved by its corner.
    pub fn shown(&self, picture: &Picture, region: Option<Rect>) -> Rect {
        let region = region.unwrap_or_else(|| picture.area());
        match self.fit {
            Fit::Stretch => region,
            Fit::Letterbox => padded(region, self.width, self.height),
        }
    }

    /// Writes a region of the picture (all of it, if none is given) over `out`, as the model takes it, and tells
    /// what the input shows of the picture, as [`TensorPlan::shown`] does.
    ///
    /// Where the region reaches beyond the picture, and where it is padded, it is black.
    pub fn fill<T: TensorValue>(
        &self,
        picture: &Picture,
        region: Option<Rect>,
        out: &mut [T],
    ) -> Result<Rect, TensorError> {
        picture.check()?;
        if out.len() != self.values() {
            return Err(TensorError::Buffer {
                shape: self.shape(),
                expected: self.values(),
                found: out.len(),
            });
        }
        let inside = region.unwrap_or_else(|| picture.area());
        let finite = [inside.x, inside.y, inside.width, inside.height].iter().all(|side| side.is_finite());
        if !finite || inside.width <= 0.0 || inside.height <= 0.0 {
            return Err(TensorError::Region { region: inside });
        }
        let shown = self.shown(picture, region);
        if inside == picture.area() && (picture.width, picture.height) == (self.width, self.height) {
            self.write(&picture.pixels, picture.format, out);
            return Ok(shown);
        }
        let size = (self.width, self.height);
        BENCH.with_borrow_mut(|Bench { resizer, pixels }| {
            let bytes = self.width as usize * self.height as usize * picture.format.bytes_per_pixel();
            pixels.resize(bytes, 0);
            resize_into(resizer, picture, shown, inside, size, pixels);
            self.write(pixels, picture.format, out);
        });
        Ok(shown)
    }

    /// Colour, scale and order in one pass over pixels of the input's size.
    fn write<T: TensorValue>(&self, pixels: &[u8], format: PixelFormat, out: &mut [T]) {
        let (rgb, _) = pixels.as_chunks::<3>();
        match (self.colour, format) {
            (Colour::Grey, PixelFormat::Grey8) => self.write_grey(pixels.iter().copied(), out),
            (Colour::Grey, PixelFormat::Rgb8) => self.write_grey(rgb.iter().copied().map(luma), out),
            (Colour::Rgb, PixelFormat::Grey8) => self.write_rgb(pixels.iter().map(|&grey| [grey; 3]), out),
            (Colour::Rgb, PixelFormat::Rgb8) => self.write_rgb(rgb.iter().copied(), out),
        }
    }

    fn write_grey<T: TensorValue>(&self, pixels: impl Iterator<Item = u8>, out: &mut [T]) {
        let (scale, offset) = (self.scale[0], self.offset[0]);
        for (out, byte) in out.iter_mut().zip(pixels) {
            *out = T::of(byte, scale, offset);
        }
    }

    fn write_rgb<T: TensorValue>(&self, pixels: impl Iterator<Item = [u8; 3]>, out: &mut [T]) {
        let (scale, offset) = (self.scale, self.offset);
        let value = |[red, green, blue]: [u8; 3]| {
            [
                T::of(red, scale[0], offset[0]),
                T::of(green, scale[1], offset[1]),
                T::of(blue, scale[2], offset[2]),
            ]
        };
        match self.layout {
            Layout::Nhwc => {
                let (out, _) = out.as_chunks_mut::<3>();
                for (out, pixel) in out.iter_mut().zip(pixels) {
                    *out = value(pixel);
                }
            }
            Layout::Nchw => {
                let plane = self.width as usize * self.height as usize;
                let (reds, others) = out.split_at_mut(plane.min(out.len()));
                let (greens, blues) = others.split_at_mut(plane.min(others.len()));
                for (((red, green), blue), pixel) in reds.iter_mut().zip(greens).zip(blues).zip(pixels) {
                    [*red, *green, *blue] = value(pixel);
                }
            }
        }
    }
}

/// The region with as much around it that its sides are to each other as the input's are.
fn padded(region: Rect, width: u32, height: u32) -> Rect {
    let (across, down) = (f64::from(region.width), f64::from(region.height));
    let (width, height) = (f64::from(width.max(1)), f64::from(height.max(1)));
    let (across, down) = if across * height >= down * width {
        (region.width, (across * height / width) as f32)
    } else {
        ((down * width / height) as f32, region.height)
    };
    Rect {
        x: region.x + (region.width - across) / 2.0,
        y: region.y + (region.height - down) / 2.0,
        width: across,
        height: down,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{letterbox, resize, resize_region, to_grey, to_rgb};

    fn plan(width: u32, height: u32, layout: Layout, colour: Colour, fit: Fit) -> TensorPlan {
        let (scale, offset) =
            ([1.0 / 58.395, 1.0 / 57.12, 1.0 / 57.375], [-2.117_904, -2.035_714, -1.804_444]);
        TensorPlan { width, height, layout, colour, fit, scale, offset }
    }

    /// Step by step, each with a picture of its own: what `fill` must do in one.
    fn step_by_step<T: TensorValue>(plan: &TensorPlan, picture: &Picture, region: Option<Rect>) -> Vec<T> {
        let sized = match (region, plan.fit) {
            (Some(region), _) => resize_region(picture, region, plan.width, plan.height),
            (None, Fit::Letterbox) => letterbox(picture, plan.width).0,
            (None, Fit::Stretch) => resize(picture, plan.width, plan.height),
        };
        let coloured = match plan.colour {
            Colour::Rgb => to_rgb(sized),
            Colour::Grey => to_grey(&sized),
        };
        let channels = plan.channels();
        let value = |index: usize| {
            let channel = index % channels;
            T::of(coloured.pixels[index], plan.scale[channel], plan.offset[channel])
        };
        let all = coloured.pixels.len();
        match plan.layout {
            Layout::Nhwc => (0..all).map(value).collect(),
            Layout::Nchw => {
                (0..channels).flat_map(|channel| (channel..all).step_by(channels)).map(value).collect()
            }
        }
    }

    /// Any bytes, but always the same for the same measures.
    fn noise(width: u32, height: u32, format: PixelFormat) -> Picture {
        let mut state = width * 31 + height;
        let bytes = width as usize * height as usize * format.bytes_per_pixel();
        let pixels = (0..bytes).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        Picture::new(width, height, format, pixels.collect()).unwrap()
    }

    fn check<T: TensorValue + Default + PartialEq + std::fmt::Debug>(
        plan: &TensorPlan,
        picture: &Picture,
        region: Option<Rect>,
    ) {
        // What was in the buffer before must not shine through.
        let mut out = vec![T::of(77, 3.0, 5.0); plan.values()];
        plan.fill(picture, region, &mut out).unwrap();
        let expected = step_by_step::<T>(plan, picture, region);
        assert!(out == expected, "{plan:?} {}x{} {region:?}", picture.width, picture.height);
    }

    fn any_plan() -> impl Strategy<Value = TensorPlan> {
        let colours = prop_oneof![Just(Colour::Rgb), Just(Colour::Grey)];
        let layouts = prop_oneof![Just(Layout::Nhwc), Just(Layout::Nchw)];
        (1..40_u32, 1..40_u32, layouts, colours)
            .prop_map(|(width, height, layout, colour)| plan(width, height, layout, colour, Fit::Stretch))
    }

    proptest! {
        #[test]
        fn a_region_comes_out_bit_for_bit_as_step_by_step(
            plan in any_plan(),
            (width, height, grey) in (1..60_u32, 1..60_u32, any::<bool>()),
            region in proptest::option::of((-30.0_f32..60.0, -30.0_f32..60.0, 0.1_f32..80.0, 0.1_f32..80.0)),
        ) {
            let picture = noise(width, height, if grey { PixelFormat::Grey8 } else { PixelFormat::Rgb8 });
            let region = region.map(|(x, y, width, height)| Rect { x, y, width, height });
            check::<f32>(&plan, &picture, region);
            check::<u8>(&plan, &picture, region);
            check::<i8>(&plan, &picture, region);
        }

        #[test]
        fn a_padded_picture_comes_out_bit_for_bit_as_step_by_step(
            plan in any_plan(),
            (width, height, grey) in (1..60_u32, 1..60_u32, any::<bool>()),
        ) {
            let picture = noise(width, height, if grey { PixelFormat::Grey8 } else { PixelFormat::Rgb8 });
            let plan = TensorPlan { height: plan.width, fit: Fit::Letterbox, ..plan };
            check::<f32>(&plan, &picture, None);
            let mut out = vec![0_u8; plan.values()];
            let shown = plan.fill(&picture, None, &mut out).unwrap();
            let (_, place) = letterbox(&picture, plan.width);
            prop_assert_eq!(shown, Rect { x: place.x, y: place.y, width: place.side, height: place.side });
        }
    }

    #[test]
    fn the_sizes_of_real_models_come_out_bit_for_bit_as_step_by_step() {
        let picture = noise(640, 480, PixelFormat::Rgb8);
        for layout in [Layout::Nhwc, Layout::Nchw] {
            for (side, colour) in [(224, Colour::Rgb), (128, Colour::Rgb), (64, Colour::Grey)] {
                check::<f32>(&plan(side, side, layout, colour, Fit::Letterbox), &picture, None);
                check::<u8>(&plan(side, side, layout, colour, Fit::Stretch), &picture, None);
            }
        }
    }

    #[test]
    fn a_region_is_padded_to_the_form_of_an_input_that_is_no_square() {
        let picture = Picture::filled(100, 100, [255, 255, 255]);
        let plan = plan(40, 20, Layout::Nhwc, Colour::Grey, Fit::Letterbox);
        let region = Rect { x: 40.0, y: 40.0, width: 20.0, height: 20.0 };
        let mut out = vec![0_u8; plan.values()];
        let shown = plan.fill(&picture, Some(region), &mut out).unwrap();
        assert_eq!(shown, Rect { x: 30.0, y: 40.0, width: 40.0, height: 20.0 });
        // What lies beside the region is in the picture, and yet not shown.
        for row in out.chunks_exact(40) {
            assert!(row[..10].iter().chain(&row[30..]).all(|&value| value == 0));
            assert!(row[10..30].iter().all(|&value| value == 255));
        }
    }

    #[test]
    fn signed_bytes_stand_around_zero() {
        let plan = plan(3, 1, Layout::Nhwc, Colour::Grey, Fit::Stretch);
        let picture = Picture::new(3, 1, PixelFormat::Grey8, vec![0, 128, 255]).unwrap();
        let mut out = [9_i8; 3];
        plan.fill(&picture, None, &mut out).unwrap();
        assert_eq!(out, [-128, 0, 127]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let plan = plan(4, 2, Layout::Nchw, Colour::Rgb, Fit::Stretch);
        let picture = Picture::filled(10, 10, [1, 2, 3]);
        let refused = |picture: &Picture, region, values: usize| {
            plan.fill(picture, region, &mut vec![0_u8; values]).unwrap_err().to_string()
        };
        assert_eq!(
            refused(&picture, None, 23),
            "an input of [1, 3, 2, 4] has 24 values, and the buffer has 23"
        );
        let region = Rect { x: 1.0, y: 2.0, width: 0.0, height: 5.0 };
        assert_eq!(refused(&picture, Some(region), 24), "the region 0x5 at 1,2 has no area");
        let region = Rect { x: f32::NAN, y: 2.0, width: 1.0, height: 5.0 };
        assert_eq!(refused(&picture, Some(region), 24), "the region 1x5 at NaN,2 has no area");
        let broken = Picture { pixels: vec![1; 5], ..picture };
        assert_eq!(
            refused(&broken, None, 24),
            "a picture of 10x10 pixels with 3 bytes each cannot have 5 bytes"
        );
    }

    #[test]
    fn a_region_outside_the_picture_is_black() {
        let plan = plan(4, 2, Layout::Nhwc, Colour::Rgb, Fit::Stretch);
        let mut out = [9_u8; 24];
        let region = Rect { x: 500.0, y: 0.0, width: 5.0, height: 5.0 };
        plan.fill(&Picture::filled(10, 10, [200; 3]), Some(region), &mut out).unwrap();
        assert_eq!(out, [0; 24]);
    }
}
