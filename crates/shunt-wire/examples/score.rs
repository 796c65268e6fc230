//! How long it takes to read the body of `POST /score` for a picture of 224x224: 150,528 numbers.
//!
//! `cargo run --release -p shunt-wire --example score`

#![expect(clippy::print_stdout, reason = "a program for a person")]

use std::{fmt::Write as _, time::Instant};

use shunt_wire::seed::ScoreRequest;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (name, comma) in [("compact", ","), ("as Python writes it", ", ")] {
        let mut body = String::from("{\"data\": [[");
        for channel in 0..3_u32 {
            body.push_str(if channel == 0 { "[" } else { ",[" });
            for y in 0..224_u32 {
                body.push_str(if y == 0 { "[" } else { ",[" });
                for x in 0..224_u32 {
                    let value = (x * 7 + y * 13 + channel * 31) % 256;
                    write!(body, "{}{value}", if x == 0 { "" } else { comma })?;
                }
                body.push(']');
            }
            body.push(']');
        }
        body.push_str("]]}");
        let mut times = Vec::new();
        for _ in 0..201 {
            let started = Instant::now();
            let request = ScoreRequest::parse(body.as_bytes())?;
            times.push(started.elapsed());
            assert_eq!(request.shape, [1, 3, 224, 224]);
        }
        times.sort();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        let worst = times.last().copied().unwrap_or_default();
        println!("{name}, {} bytes: median {median:?}, worst {worst:?}", body.len());
    }
    Ok(())
}
