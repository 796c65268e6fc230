//! Has anything moved since the frames before?

use shunt_wire::events::{PixelFormat, Rect};

use crate::Picture;

/// The picture is looked at in at most so many cells across.
const COLUMNS: u32 = 64;
/// And in at most so many down.
const ROWS: u32 = 48;
/// Of each cell at most so many rows are read: with them a frame of 640x480 is done in a tenth of a millisecond, and
/// noise is averaged over more than thirty pixels.
const LINES: u32 = 8;

/// When a change counts as motion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MotionOptions {
    /// The share of the picture, 0 to 1, that must have changed. Default 0.01; 0 takes every frame for motion.
    pub threshold: f32,
    /// How much brighter or darker a place must have become to count as changed, as a share of full brightness.
    /// Default 0.04, ten steps of 255, which the noise of a camera in the dark (a deviation of twenty steps a pixel)
    /// reaches seldom after averaging.
    pub step: f32,
    /// How much of each frame goes over into the background, 0 to 1. Default 0.05: what stands still is part of the
    /// background after some fifty frames.
    pub adapt: f32,
}

/// What a frame has that the frames before had not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Motion {
    /// The share of the picture, 0 to 1, that is not as the background is.
    pub changed: f32,
    /// Is that as much as the threshold says, or more?
    pub moved: bool,
}

/// Tells whether something moves before a camera, so that a model need not look at frames on which nothing happens.
///
/// The picture is averaged into cells (64x48), and each cell compared with a slowly adapting background. What all
/// cells have in common, such as a cloud before the sun, is no motion; a light that is switched on changes cells
/// differently and counts until the background has adapted. The first frame, and the first of another size or
/// region, counts as motion.
///
/// ```
/// use shunt_vision::{MotionGate, MotionOptions, Picture, fill};
///
/// let mut gate = MotionGate::new(MotionOptions::default());
/// let mut picture = Picture::filled(640, 480, [90, 90, 90]);
/// assert!(gate.moved(&picture, None).moved);
/// assert!(!gate.moved(&picture, None).moved);
/// fill(&mut picture, 100, 100, 120, 120, [200, 20, 20]);
/// assert!(gate.moved(&picture, None).moved);
/// ```
#[derive(Debug, Clone)]
pub struct MotionGate {
    options: MotionOptions,
    view: Option<View>,
    /// The mean of each cell over the frames before, 0 to 255.
    background: Vec<f32>,
    cells: Vec<f32>,
    /// Sums of one row of cells, byte by byte.
    sums: Vec<u16>,
}

/// What the background was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct View {
    width: u32,
    height: u32,
    format: PixelFormat,
    columns: Span,
    rows: Span,
}

/// Pixels of one axis that are looked at, and the cells they are put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    from: u32,
    length: u32,
    cells: u32,
}

// === impl MotionOptions ===

impl Default for MotionOptions {
    fn default() -> Self {
        Self { threshold: 0.01, step: 0.04, adapt: 0.05 }
    }
}

// === impl Motion ===

impl Motion {
    /// Where there is nothing to compare with: better one frame too many than one that is missed.
    const UNKNOWN: Self = Self { changed: 1.0, moved: true };
}

// === impl Span ===

impl Span {
    /// The part of an axis that lies in the region; `None` if none does.
    fn new(from: f32, length: f32, limit: u32, cells: u32) -> Option<Self> {
        let end = (from + length).ceil().clamp(0.0, limit as f32) as u32;
        let from = from.floor().clamp(0.0, limit as f32) as u32;
        let length = end.checked_sub(from).filter(|&length| length > 0)?;
        Some(Self { from, length, cells: cells.min(length) })
    }

    /// The first pixel of a cell; that of the cell behind the last is the end.
    fn edge(self, cell: u32) -> u32 {
        self.from + (u64::from(cell) * u64::from(self.length) / u64::from(self.cells.max(1))) as u32
    }
}

// === impl MotionGate ===

impl MotionGate {
    /// A gate that has seen nothing.
    pub fn new(options: MotionOptions) -> Self {
        Self { options, view: None, background: Vec::new(), cells: Vec::new(), sums: Vec::new() }
    }

    /// Judges by other options from now on; the background stays.
    pub fn set_options(&mut self, options: MotionOptions) {
        self.options = options;
    }

    /// How much of this frame, or of this region of it (in its pixels), is not as in the frames before. The frame
    /// becomes part of the background.
    ///
    /// A picture without pixels, and a region outside it, count as motion: whoever uses them then finds out.
    pub fn moved(&mut self, picture: &Picture, region: Option<Rect>) -> Motion {
        let region = region.unwrap_or_else(|| picture.area());
        let columns = Span::new(region.x, region.width, picture.width, COLUMNS);
        let rows = Span::new(region.y, region.height, picture.height, ROWS);
        let (Some(columns), Some(rows), true) = (columns, rows, picture.is_sound()) else {
            return Motion::UNKNOWN;
        };
        let Picture { width, height, format, .. } = *picture;
        let view = View { width, height, format, columns, rows };
        self.measure(picture, view);
        if self.view != Some(view) {
            self.view = Some(view);
            self.background.clone_from(&self.cells);
            return Motion::UNKNOWN;
        }
        let changed = self.compare();
        self.adapt();
        Motion { changed, moved: changed >= self.options.threshold }
    }

    /// The mean brightness of each cell.
    fn measure(&mut self, picture: &Picture, view: View) {
        let bytes = picture.format.bytes_per_pixel();
        let (begin, length) = (view.columns.from as usize * bytes, view.columns.length as usize * bytes);
        self.cells.clear();
        self.sums.resize(length, 0);
        for cell in 0..view.rows.cells {
            let (from, end) = (view.rows.edge(cell), view.rows.edge(cell + 1));
            let stride = (end - from).div_ceil(LINES).max(1) as usize;
            let lines = picture.pixels.chunks_exact(picture.row_bytes()).take(end as usize);
            let mut count = 0;
            self.sums.fill(0);
            for line in lines.skip(from as usize).step_by(stride) {
                count += 1;
                for (sum, &byte) in self.sums.iter_mut().zip(line.iter().skip(begin)) {
                    // Eight lines of 255 are far from the end of 16 bits; checked sums would be slow.
                    *sum = sum.wrapping_add(u16::from(byte));
                }
            }
            let mut rest = self.sums.as_slice();
            for cell in 0..view.columns.cells {
                let pixels = (view.columns.edge(cell + 1) - view.columns.edge(cell)) as usize;
                let (part, others) = rest.split_at(rest.len().min(pixels * bytes));
                rest = others;
                self.cells.push(brightness(part, picture.format) / (pixels as f32 * count as f32));
            }
        }
    }

    /// The share of cells that are not as the background is.
    fn compare(&self) -> f32 {
        let step = self.options.step * 255.0;
        let common = self.common_change();
        let pairs = self.cells.iter().zip(&self.background);
        let changed =
            pairs.filter(|(cell, background)| (**cell - **background - common).abs() > step).count();
        changed as f32 / self.cells.len().max(1) as f32
    }

    /// By how much the middle one of all cells has changed: the light, not something that moves.
    fn common_change(&self) -> f32 {
        let mut counts = [0_usize; 511];
        for (cell, background) in self.cells.iter().zip(&self.background) {
            let change = (cell - background).round() as i32 + 255;
            if let Some(count) = usize::try_from(change).ok().and_then(|change| counts.get_mut(change)) {
                *count += 1;
            }
        }
        let mut left = self.cells.len() / 2;
        let middle = counts.iter().position(|&count| {
            let found = left < count;
            left = left.saturating_sub(count);
            found
        });
        middle.map_or(0.0, |middle| middle as f32 - 255.0)
    }

    fn adapt(&mut self) {
        for (background, cell) in self.background.iter_mut().zip(&self.cells) {
            *background += self.options.adapt * (cell - *background);
        }
    }
}

/// The sum of the pixels' brightness, green counted twice; each pixel counts 0 to 255.
fn brightness(sums: &[u16], format: PixelFormat) -> f32 {
    match format {
        PixelFormat::Grey8 => sums.iter().fold(0_u32, |sum, &grey| sum.wrapping_add(u32::from(grey))) as f32,
        PixelFormat::Rgb8 => {
            let (pixels, _) = sums.as_chunks::<3>();
            let total = pixels.iter().fold(0_u32, |total, &[red, green, blue]| {
                total.wrapping_add(u32::from(red) + 2 * u32::from(green) + u32::from(blue))
            });
            total as f32 / 4.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fill;

    /// Numbers of a bell curve around zero, always the same.
    struct Noise(u64);

    impl Noise {
        fn next(&mut self, deviation: f32) -> f32 {
            // The sum of twelve even ones has a deviation of one.
            let sum: f32 = (0..12)
                .map(|_| {
                    self.0 = self
                        .0
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    (self.0 >> 40) as f32 / (1 << 24) as f32
                })
                .sum();
            (sum - 6.0) * deviation
        }

        fn over(&mut self, picture: &Picture, deviation: f32) -> Picture {
            let pixels = picture.pixels.iter().map(|&byte| (f32::from(byte) + self.next(deviation)) as u8);
            Picture { pixels: pixels.collect(), ..picture.clone() }
        }
    }

    fn scene() -> Picture {
        let pixels = (0..480_u32).flat_map(|y| (0..640_u32).flat_map(move |x| [x / 4 + 20, y / 3 + 30, 90]));
        let pixels = pixels.map(|value| value as u8).collect();
        Picture::new(640, 480, PixelFormat::Rgb8, pixels).unwrap()
    }

    fn gate() -> MotionGate {
        MotionGate::new(MotionOptions::default())
    }

    #[test]
    fn the_first_frame_counts_and_the_same_again_does_not() {
        let mut gate = gate();
        assert_eq!(gate.moved(&scene(), None), Motion::UNKNOWN);
        assert_eq!(gate.moved(&scene(), None), Motion { changed: 0.0, moved: false });
    }

    #[test]
    fn the_noise_of_a_dark_room_is_no_motion() {
        let (mut gate, mut noise) = (gate(), Noise(1));
        gate.moved(&noise.over(&scene(), 20.0), None);
        for _ in 0..12 {
            let motion = gate.moved(&noise.over(&scene(), 20.0), None);
            assert!(!motion.moved, "{motion:?}");
        }
    }

    #[test]
    fn a_thing_that_covers_a_twentieth_and_moves_is_motion_in_every_frame() {
        let (mut gate, mut noise) = (gate(), Noise(2));
        gate.moved(&scene(), None);
        for frame in 0..20 {
            let mut picture = noise.over(&scene(), 8.0);
            fill(&mut picture, 20 + frame * 20, 150, 128, 120, [30, 40, 40]);
            let motion = gate.moved(&picture, None);
            assert!(motion.moved && motion.changed > 0.03 && motion.changed < 0.2, "{frame}: {motion:?}");
        }
    }

    #[test]
    fn what_stops_becomes_background() {
        let mut gate = gate();
        gate.moved(&scene(), None);
        let mut picture = scene();
        fill(&mut picture, 100, 100, 128, 120, [20, 20, 20]);
        assert!(gate.moved(&picture, None).moved);
        let frames = (0..200).position(|_| !gate.moved(&picture, None).moved);
        assert!(frames.is_some_and(|frames| (10..100).contains(&frames)), "{frames:?}");
    }

    #[test]
    fn a_cloud_is_no_motion_and_a_lamp_is_none_after_some_frames() {
        let mut gate = gate();
        gate.moved(&scene(), None);
        let light = |add: f32, times: f32| {
            let pixels = scene().pixels.iter().map(|&byte| (f32::from(byte) * times + add) as u8).collect();
            Picture { pixels, ..scene() }
        };
        assert!(!gate.moved(&light(-18.0, 1.0), None).moved);
        let lamp = light(10.0, 1.5);
        assert!(gate.moved(&lamp, None).moved);
        let frames = (0..200).position(|_| !gate.moved(&lamp, None).moved);
        assert!(frames.is_some_and(|frames| frames < 60), "{frames:?}");
    }

    #[test]
    fn motion_outside_the_region_is_not_seen() {
        let mut gate = gate();
        let region = Some(Rect { x: 320.0, y: 0.0, width: 320.0, height: 480.0 });
        gate.moved(&scene(), region);
        let mut picture = scene();
        fill(&mut picture, 10, 10, 300, 400, [255, 255, 255]);
        assert_eq!(gate.moved(&picture, region), Motion { changed: 0.0, moved: false });
        fill(&mut picture, 330, 10, 60, 400, [255, 255, 255]);
        assert!(gate.moved(&picture, region).moved);
    }

    #[test]
    fn another_size_or_region_begins_anew() {
        let mut gate = gate();
        gate.moved(&scene(), None);
        assert_eq!(gate.moved(&Picture::filled(33, 20, [1, 2, 3]), None), Motion::UNKNOWN);
        assert!(!gate.moved(&Picture::filled(33, 20, [1, 2, 3]), None).moved);
        let grey = Picture::black(33, 20, PixelFormat::Grey8);
        assert_eq!(gate.moved(&grey, None), Motion::UNKNOWN);
        assert!(!gate.moved(&grey, None).moved);
    }

    #[test]
    fn what_cannot_be_compared_counts_as_motion() {
        let mut gate = gate();
        let picture = Picture::filled(10, 10, [1, 2, 3]);
        for region in [
            Rect { x: 50.0, y: 0.0, width: 5.0, height: 5.0 },
            Rect { x: 0.0, y: 0.0, width: -5.0, height: 5.0 },
            Rect { x: f32::NAN, y: 0.0, width: 5.0, height: f32::INFINITY },
        ] {
            gate.moved(&picture, Some(region));
            assert_eq!(gate.moved(&picture, Some(region)), Motion::UNKNOWN, "{region:?}");
        }
        let broken = Picture { pixels: vec![1; 5], ..picture };
        assert_eq!(gate.moved(&broken, None), Motion::UNKNOWN);
        assert_eq!(gate.moved(&Picture::filled(0, 0, [0; 3]), None), Motion::UNKNOWN);
    }
}
