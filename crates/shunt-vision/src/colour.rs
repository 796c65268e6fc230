//! From one way of writing colours to another.

use shunt_wire::events::PixelFormat;

use crate::{Picture, PictureError};

/// The picture in grey, by the weights of ITU-R BT.601 (0.299, 0.587, 0.114), rounded.
pub fn to_grey(picture: &Picture) -> Picture {
    grey_by(picture, |red, green, blue| luma([red, green, blue]))
}

/// A pixel in grey, by the weights of ITU-R BT.601, rounded.
pub(crate) fn luma([red, green, blue]: [u8; 3]) -> u8 {
    // 19595 + 38470 + 7471 = 65536.
    ((19_595 * u32::from(red) + 38_470 * u32::from(green) + 7_471 * u32::from(blue) + 0x8000) >> 16) as u8
}

/// The picture in grey as gbaeke/emotion makes it: `R/4 + G/2 + B/4`, each divided as a whole number.
pub fn fer_grey(picture: &Picture) -> Picture {
    grey_by(picture, |red, green, blue| (red >> 2) + (green >> 1) + (blue >> 2))
}

fn grey_by(picture: &Picture, grey: impl Fn(u8, u8, u8) -> u8) -> Picture {
    let pixels = match picture.format {
        PixelFormat::Grey8 => picture.pixels.clone(),
        PixelFormat::Rgb8 => {
            let (pixels, _) = picture.pixels.as_chunks::<3>();
            pixels.iter().map(|&[red, green, blue]| grey(red, green, blue)).collect()
        }
    };
    Picture { width: picture.width, height: picture.height, format: PixelFormat::Grey8, pixels }
}

/// The picture in RGB; a grey one gets three equal channels.
pub fn to_rgb(picture: Picture) -> Picture {
    match picture.format {
        PixelFormat::Rgb8 => picture,
        PixelFormat::Grey8 => {
            let pixels = picture.pixels.iter().flat_map(|&grey| [grey; 3]).collect();
            Picture { format: PixelFormat::Rgb8, pixels, ..picture }
        }
    }
}

/// An RGB picture from YUYV 4:2:2 (V4L2's `YUYV`): BT.601, luma 16 to 235.
///
/// # Errors
///
/// The bytes are fewer than two a pixel, or the width is odd.
pub fn yuyv_to_rgb(yuyv: &[u8], width: u32, height: u32) -> Result<Picture, PictureError> {
    let size = width as usize * height as usize * 2;
    let (pairs, _) = yuyv.get(..size).unwrap_or(yuyv).as_chunks::<4>();
    let mut pixels = Vec::with_capacity(size / 2 * 3);
    for &[first, blue, second, red] in pairs {
        let (blue, red) = (i32::from(blue) - 128, i32::from(red) - 128);
        for luma in [first, second] {
            // Eight binary places: 1.164, 1.596, 0.392, 0.813, 2.017.
            let luma = 298 * (i32::from(luma) - 16) + 128;
            let channel = |value: i32| (value >> 8).clamp(0, 255) as u8;
            pixels.extend([
                channel(luma + 409 * red),
                channel(luma - 100 * blue - 208 * red),
                channel(luma + 516 * blue),
            ]);
        }
    }
    Picture::new(width, height, PixelFormat::Rgb8, pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grey_follows_bt_601_and_white_stays_white() {
        let picture =
            Picture::new(4, 1, PixelFormat::Rgb8, vec![255, 255, 255, 255, 0, 0, 0, 255, 0, 0, 0, 255])
                .unwrap();
        assert_eq!(to_grey(&picture).pixels, [255, 76, 150, 29]);
    }

    #[test]
    fn the_seed_grey_divides_each_channel_as_a_whole_number() {
        let picture = Picture::new(2, 1, PixelFormat::Rgb8, vec![255, 255, 255, 7, 3, 5]).unwrap();
        assert_eq!(fer_grey(&picture).pixels, [63 + 127 + 63, 1 + 1 + 1]);
    }

    #[test]
    fn yuyv_gives_black_white_and_red() {
        let yuyv = [16, 128, 235, 128, 81, 90, 81, 240];
        let picture = yuyv_to_rgb(&yuyv, 4, 1).unwrap();
        assert_eq!(picture.pixel(0, 0), Some(&[0, 0, 0][..]));
        assert_eq!(picture.pixel(1, 0), Some(&[255, 255, 255][..]));
        let &[red, green, blue] = picture.pixel(2, 0).unwrap() else { panic!() };
        assert!(red > 250 && green < 5 && blue < 5, "{red} {green} {blue}");
    }

    #[test]
    fn too_few_yuyv_bytes_are_refused() {
        assert!(yuyv_to_rgb(&[0; 7], 2, 2).is_err());
    }

    #[test]
    fn a_grey_picture_becomes_rgb_with_equal_channels() {
        let picture = Picture::new(2, 1, PixelFormat::Grey8, vec![9, 200]).unwrap();
        assert_eq!(to_rgb(picture).pixels, [9, 9, 9, 200, 200, 200]);
    }
}
