//! The motion gate before photographs.

use proptest::{
    prelude::Rng,
    test_runner::{RngAlgorithm, TestRng},
};
use shunt_vision::{MotionGate, MotionOptions, Picture, resize};

use crate::sample;

/// The picture with the noise of a camera: to each byte a number of a bell curve is added.
fn noisy(picture: &Picture, deviation: f32, random: &mut TestRng) -> Picture {
    let mut noise = || {
        let sum: f32 = (0..6).map(|_| random.next_u32() as f32 / u32::MAX as f32).sum();
        (sum - 3.0) * std::f32::consts::SQRT_2 * deviation
    };
    let pixels = picture.pixels.iter().map(|&byte| (f32::from(byte) + noise()).round() as u8).collect();
    Picture { pixels, ..picture.clone() }
}

/// Puts a picture onto another.
fn put(onto: &mut Picture, thing: &Picture, x: usize, y: usize) {
    let (row_bytes, thing_bytes) = (onto.row_bytes(), thing.row_bytes());
    for (row, line) in thing.pixels.chunks_exact(thing_bytes).enumerate() {
        let start = (y + row) * row_bytes + x * 3;
        onto.pixels[start..start + thing_bytes].copy_from_slice(line);
    }
}

#[test]
fn before_a_photograph_noise_is_no_motion_and_a_thing_of_a_twentieth_is() {
    let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let Some(thing) = sample("coffee.png") else { return };
    let thing = resize(&thing, 128, 120);
    for name in ["cat_720p.jpg", "rocket.jpg", "parrot.jpg", "pets.jpg", "astronaut.png", "hot_dog.jpg"] {
        let scene = resize(&sample(name).unwrap(), 640, 480);
        let mut gate = MotionGate::new(MotionOptions::default());
        gate.moved(&noisy(&scene, 10.0, &mut random), None);
        for _ in 0..3 {
            let still = gate.moved(&noisy(&scene, 10.0, &mut random), None);
            assert!(!still.moved, "{name}: {still:?}");
        }
        for place in [(0, 0), (100, 60), (256, 180), (380, 300), (512, 360)] {
            let mut picture = scene.clone();
            put(&mut picture, &thing, place.0, place.1);
            let motion = gate.moved(&noisy(&picture, 10.0, &mut random), None);
            assert!(motion.moved, "{name} at {place:?}: {motion:?}");
        }
    }
}
