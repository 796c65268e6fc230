//! usage: cargo run --release --example time -- PICTURE...
//!
//! Milliseconds that native code takes to make a picture grey: the least and the median of 201 times.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "an example")]
fn main() {
    for path in std::env::args().skip(1) {
        let file = std::fs::read(&path).unwrap();
        let mut times: Vec<f64> = (0..201)
            .map(|_| {
                let begin = std::time::Instant::now();
                std::hint::black_box(grayscale::grey(std::hint::black_box(&file)).unwrap());
                begin.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!("{path}: {:.3} {:.3} ms", times[0], times[100]);
    }
}
