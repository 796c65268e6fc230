//! How long calls take. No test fails by a time: `cargo test -p functions speed -- --ignored --nocapture` prints.

use super::*;

#[tokio::test]
#[ignore = "it measures, and asserts nothing about time"]
async fn time_of_a_fresh_call() {
    let yard = Yard::with(2, 8, 8);
    for (name, bytes) in [
        ("component", UNRULY),
        ("wasi:http", UNRULY_HTTP),
        ("preview 1", UNRULY_PROGRAM),
        ("wasi:cli/run", UNRULY_COMMAND),
    ] {
        let guest = yard.install(bytes).unwrap();
        let (mut inside, mut outside) = (Vec::new(), Vec::new());
        for _ in 0..3000 {
            let begun = Instant::now();
            let answer = yard.call(&guest, "hello", LIMITS).await.unwrap();
            outside.push(begun.elapsed());
            inside.push(answer.took);
        }
        for (place, mut times) in [("on its thread", inside), ("with the way there", outside)] {
            times.sort();
            println!(
                "{name:14} {place:20} p50 {:?} p99 {:?}",
                times[times.len() / 2],
                times[times.len() * 99 / 100]
            );
        }
    }
}

#[test]
#[ignore = "it measures, and asserts nothing about time"]
fn time_of_a_compilation_with_and_without_progress() {
    let yard = Yard::new();
    let plain = engine::compiling().unwrap();
    let grayscale = include_bytes!("../../../../../functions/builds/grayscale.wasm");
    for _ in 0..5 {
        for (name, engine) in [("with progress", &yard.host.0.engine), ("without", &plain)] {
            let begun = Instant::now();
            component::Component::from_binary(engine, grayscale).unwrap();
            println!("{name:14} {:?}", begun.elapsed());
        }
    }
}
