//! Large JPEG files that are needed small.

use shunt_vision::{
    DecodeLimits, Decoded, Picture, PixelFormat, Rect, decode, decode_for, encode_jpeg, resize,
};

use crate::with_orientation;

/// Waves of every length, so that a wrong reduction shows.
fn waves(width: u32, height: u32) -> Picture {
    let value = |x: f32, y: f32| ((x / 40.0).sin() * (y / 30.0).cos() * 100.0 + 128.0) as u8;
    let pixels = (0..height).flat_map(|y| {
        (0..width).flat_map(move |x| {
            let (x, y) = (x as f32, y as f32);
            [value(x, y), value(y, x), value(x + y, x - y)]
        })
    });
    Picture::new(width, height, PixelFormat::Rgb8, pixels.collect()).unwrap()
}

fn read(bytes: &[u8], width: u32, height: u32) -> Decoded {
    decode_for(bytes, &DecodeLimits::default(), width, height).unwrap()
}

/// The mean difference of two pictures' bytes.
fn difference(one: &Picture, other: &Picture) -> f64 {
    assert_eq!((one.width, one.height, one.format), (other.width, other.height, other.format));
    let sum: u64 = one.pixels.iter().zip(&other.pixels).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / one.pixels.len() as f64
}

#[test]
fn a_large_file_is_reduced_as_far_as_is_wanted_and_shows_the_same() {
    let file = encode_jpeg(&waves(2400, 1600), 90).unwrap();
    let whole = decode(&file, &DecodeLimits::default()).unwrap();
    for (wanted, factor) in
        [((300, 200), 8), ((224, 224), 4), ((600, 400), 4), ((601, 10), 2), ((1201, 1), 1)]
    {
        let decoded = read(&file, wanted.0, wanted.1);
        assert_eq!((decoded.reduced, decoded.width, decoded.height), (factor, 2400, 1600), "{wanted:?}");
        let expected = resize(&whole, 2400 / factor, 1600 / factor);
        let far = difference(&decoded.picture, &expected);
        assert!(far < 2.0, "a {factor}th is {far} steps off");
    }
}

#[test]
fn a_small_file_is_not_reduced() {
    let file = encode_jpeg(&waves(1280, 720), 90).unwrap();
    let decoded = read(&file, 10, 10);
    assert_eq!((decoded.reduced, decoded.picture.width), (1, 1280));
    assert_eq!(decoded.picture, decode(&file, &DecodeLimits::default()).unwrap());
}

#[test]
fn sides_that_the_factor_does_not_divide_lose_nothing() {
    let file = encode_jpeg(&waves(2403, 1601), 90).unwrap();
    let decoded = read(&file, 300, 200);
    assert_eq!((decoded.picture.width, decoded.picture.height), (301, 201));
    let corner = decoded.to_file(Rect { x: 10.0, y: 20.0, width: 5.0, height: 1.5 });
    assert_eq!(corner, Rect { x: 80.0, y: 160.0, width: 40.0, height: 12.0 });
}

#[test]
fn a_reduced_file_is_turned_as_its_exif_data_say() {
    let file = encode_jpeg(&waves(2400, 1600), 90).unwrap();
    let lying = with_orientation(&file, 6);
    // Wanted is the size after turning: 800 high is a third of the longer side.
    let decoded = read(&lying, 300, 800);
    assert_eq!((decoded.reduced, decoded.width, decoded.height), (2, 1600, 2400));
    let upright = shunt_vision::rotate(read(&file, 800, 300).picture, 1);
    assert_eq!(decoded.picture, upright);
}

#[test]
fn a_large_grey_file_stays_grey() {
    let grey = shunt_vision::to_grey(&waves(2400, 1600));
    let decoded = read(&encode_jpeg(&grey, 90).unwrap(), 300, 200);
    assert_eq!((decoded.reduced, decoded.picture.format), (8, PixelFormat::Grey8));
    assert!(difference(&decoded.picture, &resize(&grey, 300, 200)) < 2.0);
}

#[test]
fn a_large_file_that_is_cut_off_or_too_large_is_refused_all_the_same() {
    let file = encode_jpeg(&waves(2400, 1600), 90).unwrap();
    let cut = decode_for(&file[..file.len() / 2], &DecodeLimits::default(), 300, 200).unwrap_err();
    assert_eq!(cut.to_string(), format!("the JPEG file is cut off after {} bytes", file.len() / 2));
    let large = decode_for(&file, &DecodeLimits { max_pixels: 3_000_000 }, 300, 200).unwrap_err();
    assert_eq!(large.to_string(), "the picture has 2400x1600 pixels, 3 million are allowed");
}
