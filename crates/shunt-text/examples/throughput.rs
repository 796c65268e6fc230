//! How many short texts a second one thread judges: `cargo run --release -p shunt-text --example throughput`.

#![expect(clippy::print_stdout, reason = "it prints its result")]

use std::time::{Duration, Instant};

use shunt_text::{Language, TextModel, TextModelError};

const TEXTS: &str = concat!(
    include_str!("../tests/golden/sentences_en.tsv"),
    include_str!("../tests/golden/sentences_nl.tsv")
);

fn main() -> Result<(), TextModelError> {
    let model = TextModel::built_in(TextModel::DEFAULT)?;
    let texts: Vec<&str> = TEXTS.lines().filter_map(|line| Some(line.split_once('\t')?.1)).collect();
    for language in Language::ALL {
        let (begun, mut judged, mut sum) = (Instant::now(), 0_u64, 0.0);
        while begun.elapsed() < Duration::from_secs(2) {
            for text in &texts {
                sum += model.score(language, text);
                judged += 1;
            }
        }
        let rate = judged as f64 / begun.elapsed().as_secs_f64();
        println!("{language}: {rate:.0} texts a second (mean score {:.3})", sum / judged as f64);
    }
    Ok(())
}
