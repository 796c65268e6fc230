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
