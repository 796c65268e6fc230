//! Files that are cut off, damaged, or claim to be larger than they can be.

use std::{
    io::Cursor,
    process::Command,
    time::{Duration, Instant},
};

use image::ImageFormat;
use proptest::prelude::*;
use shunt_vision::{DecodeError, DecodeLimits, Picture, decode, decode_for, encode_jpeg, encode_png};

use crate::{MEMORY, file, files, sample_file};

fn written(format: ImageFormat) -> Vec<u8> {
    let image = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8, y as u8, 90]));
    let mut file = Cursor::new(Vec::new());
    image.write_to(&mut file, format).unwrap();
    file.into_inner()
}

/// The checksum at the end of a PNG chunk (its annex D).
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
    })
}

/// Small files whose headers claim 10000x5000 pixels.
fn fifty_megapixels() -> Vec<(&'static str, Vec<u8>)> {
    let (width, height) = (10_000_u32, 5_000_u32);
    let mut jpeg = encode_jpeg(&Picture::filled(64, 64, [90, 80, 70]), 90).unwrap();
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 7].copy_from_slice(&(height as u16).to_be_bytes());
    jpeg[frame + 7..frame + 9].copy_from_slice(&(width as u16).to_be_bytes());
    let mut progressive = file("progressive.jpg");
    let frame = progressive.windows(2).position(|pair| pair == [0xff, 0xc2]).unwrap();
    progressive[frame + 5..frame + 7].copy_from_slice(&(height as u16).to_be_bytes());
    progressive[frame + 7..frame + 9].copy_from_slice(&(width as u16).to_be_bytes());
    let mut bmp = written(ImageFormat::Bmp);
    bmp[18..22].copy_from_slice(&width.to_le_bytes());
    bmp[22..26].copy_from_slice(&height.to_le_bytes());
    let mut png = encode_png(&Picture::filled(64, 64, [90, 80, 70])).unwrap();
    png[16..20].copy_from_slice(&width.to_be_bytes());
    png[20..24].copy_from_slice(&height.to_be_bytes());
    let sum = crc(&png[12..29]);
    png[29..33].copy_from_slice(&sum.to_be_bytes());
    let mut gif = file("transparent.gif");
    gif[6..8].copy_from_slice(&(width as u16).to_le_bytes());
    gif[8..10].copy_from_slice(&(height as u16).to_le_bytes());
    let mut webp = written(ImageFormat::WebP);
    let lossless = webp.windows(4).position(|name| name == b"VP8L").unwrap() + 9;
    let measures = (width - 1) | ((height - 1) << 14);
    webp[lossless..lossless + 4].copy_from_slice(&measures.to_le_bytes());
    vec![
        ("JPEG", jpeg),
        ("progressive JPEG", progressive),
        ("BMP", bmp),
        ("PNG", png),
        ("GIF", gif),
        ("WebP", webp),
    ]
}

/// Runs the body of a test in a process of its own, so that the memory of no other test is counted.
fn alone(test: &str, body: impl FnOnce()) {
    if std::env::var_os("SHUNT_TEST_ALONE").is_some() {
        return body();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("SHUNT_TEST_ALONE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{complaint}");
}

#[test]
fn fifty_megapixels_are_refused_from_the_header_without_memory_for_them() {
    alone("hostile::fifty_megapixels_are_refused_from_the_header_without_memory_for_them", || {
        for (name, bytes) in fifty_megapixels() {
            MEMORY.reset_peak_usage();
            let (before, started) = (MEMORY.current_usage(), Instant::now());
            let refused = decode(&bytes, &DecodeLimits::default()).unwrap_err();
            let (took, grown) = (started.elapsed(), MEMORY.peak_usage() - before);
            println!("{name}: {} us, {} KiB", took.as_micros(), grown / 1024);
            assert_eq!(
                refused.to_string(),
                "the picture has 10000x5000 pixels, 40 million are allowed",
                "{name}"
            );
            // The bounds are 64 MiB and 100 ms; measured are less than 0.2 MiB and 0.1 ms.
            assert!(grown < 4 << 20, "{name}: {grown} bytes");
            assert!(took < Duration::from_secs(2), "{name}: {took:?}");
        }
    });
}

#[test]
fn a_picture_within_the_limits_takes_the_memory_that_the_limits_say() {
    alone("hostile::a_picture_within_the_limits_takes_the_memory_that_the_limits_say", || {
        let pixels = 1_600 * 1_200;
        let picture = Picture::filled(1_600, 1_200, [200, 100, 50]);
        let deep = image::ImageBuffer::from_pixel(1_600, 1_200, image::Rgba([1_u16, 2, 3, 4]));
        let mut png = Cursor::new(Vec::new());
        image::DynamicImage::from(deep).write_to(&mut png, ImageFormat::Png).unwrap();
        for (name, bytes, most) in [
            ("JPEG", encode_jpeg(&picture, 90).unwrap(), 4),
            ("PNG", encode_png(&picture).unwrap(), 4),
            ("PNG of 16 bits", png.into_inner(), 12),
        ] {
            MEMORY.reset_peak_usage();
            let before = MEMORY.current_usage();
            decode(&bytes, &DecodeLimits::default()).unwrap();
            let grown = MEMORY.peak_usage() - before;
            println!("{name}: {:.2} bytes a pixel", grown as f64 / pixels as f64);
            assert!(grown < pixels * most, "{name}: {grown} bytes for {pixels} pixels");
        }
    });
}

#[test]
fn measures_that_no_memory_could_hold_are_refused() {
    let mut png = encode_png(&Picture::filled(64, 64, [90, 80, 70])).unwrap();
    png[16..20].copy_from_slice(&0x7fff_ffff_u32.to_be_bytes());
    png[20..24].copy_from_slice(&0x7fff_ffff_u32.to_be_bytes());
    let sum = crc(&png[12..29]);
    png[29..33].copy_from_slice(&sum.to_be_bytes());
    assert!(decode(&png, &DecodeLimits { max_pixels: u64::MAX }).is_err());
    let mut bmp = written(ImageFormat::Bmp);
    bmp[18..22].copy_from_slice(&i32::MAX.to_le_bytes());
    bmp[22..26].copy_from_slice(&i32::MIN.to_le_bytes());
    assert!(decode(&bmp, &DecodeLimits { max_pixels: u64::MAX }).is_err());
}

#[test]
fn a_picture_without_pixels_is_refused() {
    let mut png = encode_png(&Picture::filled(4, 4, [1; 3])).unwrap();
    png[16..20].copy_from_slice(&0_u32.to_be_bytes());
    let sum = crc(&png[12..29]);
    png[29..33].copy_from_slice(&sum.to_be_bytes());
    let error = decode(&png, &DecodeLimits::default()).unwrap_err();
    assert!(matches!(error, DecodeError::Damaged { .. }), "{error}");
}

#[test]
fn a_file_that_is_cut_off_says_so() {
    let mut wrong = Vec::new();
    // Of an animation the first picture is enough.
    for (name, bytes) in files().into_iter().filter(|(name, _)| name != "animated.gif") {
        for part in [30, 50, 70, 90] {
            let end = bytes.len() * part / 100;
            match decode(&bytes[..end], &DecodeLimits::default()) {
                Err(DecodeError::Truncated { .. }) => {}
                other => wrong.push(format!("{name} {part} %: {:?}", other.map(|_| "a picture"))),
            }
        }
    }
    assert_eq!(wrong.join("\n"), "");
}

/// Damage, then the end somewhere: what comes out is a picture or an error, of whole and of reduced size.
fn check_damaged(bytes: &[u8], limits: DecodeLimits) -> Result<(), TestCaseError> {
    for read in [decode(bytes, &limits), decode_for(bytes, &limits, 8, 8).map(|decoded| decoded.picture)] {
        match read {
            Ok(picture) => {
                prop_assert!(picture.is_sound());
                prop_assert!(u64::from(picture.width) * u64::from(picture.height) <= limits.max_pixels);
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_of_every_form_give_a_picture_or_an_error(
        which in any::<prop::sample::Index>(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        end in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let files = files();
        let (_, mut bytes) = files[which.index(files.len())].clone();
        for (index, byte) in damage {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        bytes.truncate(end.map_or(bytes.len(), |end| end.index(bytes.len())));
        check_damaged(&bytes, DecodeLimits { max_pixels: 4_000_000 })?;
    }

    #[test]
    fn any_bytes_behind_the_first_ones_of_a_format_give_a_picture_or_an_error(
        which in 0..6_usize,
        rest in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let first: &[u8] = [
            &b"\xff\xd8\xff"[..],
            b"\xff\xd8\xff\xe1\0\x22Exif\0\0II*\0",
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
            b"GIF89a",
            b"RIFF\xff\0\0\0WEBPVP8",
            b"BM",
        ][which];
        check_damaged(&[first, &rest].concat(), DecodeLimits { max_pixels: 4_000_000 })?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_photographs_give_a_picture_or_an_error(
        name in prop_oneof![Just("face.jpg"), Just("cat_720p.jpg"), Just("chelsea.png"), Just("grace_hopper.bmp")],
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
        end in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let Some(mut bytes) = sample_file(name) else { return Ok(()) };
        for (index, byte) in damage {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        bytes.truncate(end.map_or(bytes.len(), |end| end.index(bytes.len())));
        check_damaged(&bytes, DecodeLimits { max_pixels: 4_000_000 })?;
    }
}
