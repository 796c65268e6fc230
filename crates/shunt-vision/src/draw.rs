//! Fill, frame, label and blur.

use font8x8::legacy::{BASIC_LEGACY, NOTHING_TO_DISPLAY};
use shunt_wire::events::{PixelFormat, Rect};

use crate::{Picture, resize, resize_region};

/// The width and height of a character of [`draw_text`] at scale 1, in pixels.
const CHARACTER: u32 = 8;

/// Fills a rectangle, as far as it is inside the picture; a grey picture gets the colour's brightness.
pub fn fill(picture: &mut Picture, x: u32, y: u32, width: u32, height: u32, rgb: [u8; 3]) {
    if !picture.is_sound() {
        return;
    }
    let (x, right) = (x.min(picture.width) as usize, x.saturating_add(width).min(picture.width) as usize);
    let (y, bottom) = (y.min(picture.height) as usize, y.saturating_add(height).min(picture.height) as usize);
    let row_bytes = picture.row_bytes().max(1);
    for row in picture.pixels.chunks_exact_mut(row_bytes).take(bottom).skip(y) {
        match picture.format {
            PixelFormat::Rgb8 => {
                if let Some(part) = row.get_mut(x * 3..right * 3) {
                    part.as_chunks_mut::<3>().0.fill(rgb);
                }
            }
            PixelFormat::Grey8 => {
                if let Some(part) = row.get_mut(x..right) {
                    part.fill(brightness(rgb));
                }
            }
        }
    }
}

fn brightness([red, green, blue]: [u8; 3]) -> u8 {
    ((u32::from(red) * 299 + u32::from(green) * 587 + u32::from(blue) * 114 + 500) / 1000) as u8
}

/// Draws the outline of a rectangle, `thickness` pixels wide, inwards.
pub fn draw_rect(picture: &mut Picture, rect: Rect, thickness: u32, rgb: [u8; 3]) {
    // A negative edge is outside: the line there is not drawn.
    let (left, top) = (rect.x.round() as i64, rect.y.round() as i64);
    let (right, bottom) = ((rect.x + rect.width).round() as i64, (rect.y + rect.height).round() as i64);
    let thickness = i64::from(thickness).min((right - left) / 2).min((bottom - top) / 2);
    if thickness < 1 {
        return;
    }
    fill_signed(picture, left, top, right, top + thickness, rgb);
    fill_signed(picture, left, bottom - thickness, right, bottom, rgb);
    fill_signed(picture, left, top, left + thickness, bottom, rgb);
    fill_signed(picture, right - thickness, top, right, bottom, rgb);
}

/// Fills from a left upper to a right lower edge, each of which may be outside.
fn fill_signed(picture: &mut Picture, left: i64, top: i64, right: i64, bottom: i64, rgb: [u8; 3]) {
    let inside = |value: i64| value.clamp(0, i64::from(u32::MAX)) as u32;
    let (x, y) = (inside(left), inside(top));
    fill(picture, x, y, inside(right).saturating_sub(x), inside(bottom).saturating_sub(y), rgb);
}

/// Writes a line of text with its left upper edge at (x, y); a character is `8 * scale` pixels wide and high.
/// Only ASCII can be drawn; other characters are shown as `?`.
pub fn draw_text(picture: &mut Picture, x: i32, y: i32, text: &str, scale: u32, rgb: [u8; 3]) {
    let scale = i64::from(scale.clamp(1, 64));
    let mut left = i64::from(x);
    for character in text.chars() {
        let code = if character.is_ascii() { character as usize } else { usize::from(b'?') };
        let rows = BASIC_LEGACY.get(code).unwrap_or(&NOTHING_TO_DISPLAY);
        for (row, bits) in (0_i64..).zip(rows) {
            for column in (0_i64..i64::from(CHARACTER)).filter(|column| bits >> column & 1 == 1) {
                let (dot_x, dot_y) = (left + column * scale, i64::from(y) + row * scale);
                fill_signed(picture, dot_x, dot_y, dot_x + scale, dot_y + scale, rgb);
            }
        }
        left += i64::from(CHARACTER) * scale;
        if left > i64::from(picture.width) {
            break;
        }
    }
}

/// Blurs a rectangle so that what was there cannot be told: it is made 8 cells wide and stretched again.
pub fn blur(picture: &mut Picture, rect: Rect) {
    // A number that is none becomes 0 in these casts.
    let inside = |value: f32, limit: u32| (value as i64).clamp(0, i64::from(limit)) as u32;
    let (x, y) = (inside(rect.x.floor(), picture.width), inside(rect.y.floor(), picture.height));
    let width = inside((rect.x + rect.width).ceil(), picture.width).saturating_sub(x);
    let height = inside((rect.y + rect.height).ceil(), picture.height).saturating_sub(y);
    if width == 0 || height == 0 || !picture.is_sound() {
        return;
    }
    let cut = Rect { x: x as f32, y: y as f32, width: width as f32, height: height as f32 };
    let cells_high = (8 * height / width.max(1)).clamp(1, 64);
    let blurred = resize(&resize_region(picture, cut, 8, cells_high), width, height);
    let bytes = picture.format.bytes_per_pixel();
    let (offset, part_bytes) = (x as usize * bytes, width as usize * bytes);
    let row_bytes = picture.row_bytes().max(1);
    let rows = picture.pixels.chunks_exact_mut(row_bytes).skip(y as usize);
    for (row, part) in rows.zip(blurred.pixels.chunks_exact(part_bytes.max(1))) {
        if let Some(place) = row.get_mut(offset..offset + part_bytes) {
            place.copy_from_slice(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(picture: &Picture, rgb: [u8; 3]) -> usize {
        picture.pixels.as_chunks::<3>().0.iter().filter(|pixel| **pixel == rgb).count()
    }

    const RED: [u8; 3] = [255, 0, 0];

    #[test]
    fn filling_is_cut_at_the_edges() {
        let mut picture = Picture::filled(20, 10, [0; 3]);
        fill(&mut picture, 15, 8, 100, 100, RED);
        assert_eq!(count(&picture, RED), 10);
        fill(&mut picture, 100, 100, 5, 5, RED);
        fill(&mut picture, u32::MAX, 0, u32::MAX, 5, RED);
        assert_eq!(count(&picture, RED), 10);
        let mut grey = Picture::black(4, 4, PixelFormat::Grey8);
        fill(&mut grey, 0, 0, 2, 2, [255, 255, 255]);
        assert_eq!(grey.pixels, [255, 255, 0, 0, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_frame_is_drawn_inwards_and_may_reach_outside() {
        let mut picture = Picture::filled(20, 20, [0; 3]);
        draw_rect(&mut picture, Rect { x: 2.0, y: 2.0, width: 10.0, height: 10.0 }, 1, RED);
        assert_eq!(count(&picture, RED), 36);
        assert_eq!(picture.pixel(2, 2), Some(&RED[..]));
        assert_eq!(picture.pixel(11, 11), Some(&RED[..]));
        assert_eq!(picture.pixel(3, 3), Some(&[0; 3][..]));
        let mut picture = Picture::filled(20, 20, [0; 3]);
        draw_rect(&mut picture, Rect { x: -5.0, y: -5.0, width: 10.0, height: 10.0 }, 2, RED);
        assert_eq!(count(&picture, RED), 16);
    }

    #[test]
    fn text_is_drawn_and_cut_at_the_edge() {
        let mut picture = Picture::filled(40, 16, [0; 3]);
        draw_text(&mut picture, 0, 0, "I", 1, RED);
        let one = count(&picture, RED);
        assert!((15..40).contains(&one), "{one}");
        let mut large = Picture::filled(40, 16, [0; 3]);
        draw_text(&mut large, 0, 0, "I", 2, RED);
        assert_eq!(count(&large, RED), 4 * one);
        draw_text(&mut large, -300, -300, &"long text é".repeat(50), 3, RED);
        draw_text(&mut large, i32::MAX, i32::MAX, "outside", 1, RED);
    }

    #[test]
    fn a_blurred_rectangle_loses_its_detail_and_the_rest_stays() {
        let mut picture = Picture::filled(80, 80, [0; 3]);
        for x in (0..80).step_by(2) {
            fill(&mut picture, x, 0, 1, 80, [255; 3]);
        }
        let before = picture.clone();
        blur(&mut picture, Rect { x: 20.0, y: 20.0, width: 40.0, height: 40.0 });
        assert_eq!(picture.pixel(10, 30), before.pixel(10, 30));
        for x in 24..56 {
            let value = picture.pixel(x, 40).unwrap()[0];
            assert!((100..156).contains(&value), "at {x}: {value}");
        }
        blur(&mut picture, Rect { x: 70.0, y: -10.0, width: 500.0, height: 20.0 });
        blur(&mut picture, Rect { x: f32::NAN, y: 0.0, width: 5.0, height: 5.0 });
    }
}
