//! Every form of file shows what was put in.

use std::io::Cursor;

use image::{DynamicImage, ImageBuffer, ImageFormat, Luma, LumaA, Rgb, Rgba};
use shunt_vision::{DecodeLimits, Picture, PixelFormat, decode};

use crate::{file, files};

const QUARTERS: [(u32, u32, [u8; 3]); 4] =
    [(8, 6, [220, 30, 30]), (24, 6, [30, 180, 40]), (8, 18, [30, 40, 210]), (24, 18, [240, 220, 30])];

fn read(bytes: &[u8]) -> Picture {
    decode(bytes, &DecodeLimits::default()).unwrap()
}

fn check_quarters(name: &str, picture: &Picture) {
    assert_eq!((picture.width, picture.height, picture.format), (32, 24, PixelFormat::Rgb8), "{name}");
    for (x, y, expected) in QUARTERS {
        let found = picture.pixel(x, y).unwrap();
        let near = found.iter().zip(expected).all(|(found, expected)| found.abs_diff(expected) <= 6);
        assert!(near, "{name} at {x},{y}: {found:?} instead of {expected:?}");
    }
}

#[test]
fn every_form_of_file_shows_the_same_picture_the_right_way_up() {
    for (name, bytes) in files() {
        check_quarters(&name, &read(&bytes));
    }
}

fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    image.into().write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

#[test]
fn channels_of_sixteen_bits_are_rounded_to_eight() {
    let image = ImageBuffer::from_pixel(2, 1, Rgb([0xffff_u16, 0x7fff, 0x0080]));
    assert_eq!(read(&png(image)).pixels, [255, 127, 0, 255, 127, 0]);
    let grey = read(&png(ImageBuffer::from_pixel(2, 1, Luma([0x8080_u16]))));
    assert_eq!((grey.format, grey.pixels), (PixelFormat::Grey8, vec![0x80, 0x80]));
}

#[test]
fn transparency_is_dropped_and_the_colour_below_stays() {
    for alpha in [0, 1, 128, 255] {
        let colour = ImageBuffer::from_pixel(2, 1, Rgba([10_u8, 200, 30, alpha]));
        assert_eq!(read(&png(colour)).pixels, [10, 200, 30, 10, 200, 30]);
        let grey = read(&png(ImageBuffer::from_pixel(2, 1, LumaA([99_u8, alpha]))));
        assert_eq!((grey.format, grey.pixels), (PixelFormat::Grey8, vec![99, 99]));
    }
}

#[test]
fn the_first_picture_of_an_animation_is_taken() {
    // The second one is the first, turned by half: yellow stands where red was.
    check_quarters("animated.gif", &read(&file("animated.gif")));
}
