//! How good it is: the figures of the model card, each with some room below.

use proptest::prelude::*;
use shunt_text::{Language, TextModel};

const VECTORS: &str = include_str!("../golden/training_vectors.json");
const ENGLISH: &str = include_str!("../golden/sentences_en.tsv");
const DUTCH: &str = include_str!("../golden/sentences_nl.tsv");

fn default() -> TextModel {
    TextModel::built_in(TextModel::DEFAULT).unwrap()
}

#[test]
fn the_ungated_model_gives_the_vectors_of_its_training() {
    let model = TextModel::built_in(TextModel::UNGATED).unwrap();
    let vectors: Vec<(String, f64)> = serde_json::from_str(VECTORS).unwrap();
    assert_eq!(vectors.len(), 16);
    for (text, expected) in vectors {
        let score = model.score(Language::English, &text);
        assert!((score - expected).abs() < 1e-3, "{text:?} has {score}, not {expected}");
    }
}

#[test]
fn the_gate_changes_no_side_and_calms_what_is_no_opinion() {
    let (gated, plain) = (default(), TextModel::built_in(TextModel::UNGATED).unwrap());
    let vectors: Vec<(String, f64)> = serde_json::from_str(VECTORS).unwrap();
    for (text, _) in vectors {
        let (with, without) = (gated.score(Language::English, &text), plain.score(Language::English, &text));
        assert!((with - 0.5) * (without - 0.5) >= 0.0, "{text:?}: {with} and {without}");
        assert!((with - 0.5).abs() <= (without - 0.5).abs(), "{text:?}: {with} and {without}");
    }
    let meeting = gated.score(Language::English, "The meeting is at 3 pm on Tuesday.");
    assert!((0.3..0.7).contains(&meeting), "{meeting}");
    assert!(gated.score(Language::English, "I love this!") > 0.95);
    assert!(gated.score(Language::English, "This is terrible.") < 0.1);
}

/// Shares of sentences on the right side, of positive and negative ones, and of neutral ones between 0.3 and 0.7.
fn shares(language: Language, sentences: &str) -> (f64, f64) {
    let model = default();
    let (mut sides, mut right, mut flat, mut calm) = (0.0, 0.0, 0.0, 0.0);
    for line in sentences.lines() {
        let (label, text) = line.split_once('\t').unwrap();
        let score = model.score(language, text);
        let good = match label {
            "+" => score > 0.5,
            "-" => score < 0.5,
            _ => (0.3..0.7).contains(&score),
        };
        if label == "0" {
            flat += 1.0;
            calm += f64::from(good);
        } else {
            sides += 1.0;
            right += f64::from(good);
        }
        if !good {
            println!("{language} {label} {score:.3} {text}");
        }
    }
    println!(
        "{language}: {:.3} of {sides} on the right side, {:.3} of {flat} neutral",
        right / sides,
        calm / flat
    );
    (right / sides, calm / flat)
}

#[test]
fn english_sentences_of_every_day_are_told_apart() {
    let (right, calm) = shares(Language::English, ENGLISH);
    assert!(right >= 0.85, "{right}");
    assert!(calm >= 0.85, "{calm}");
}

#[test]
fn dutch_sentences_of_every_day_are_told_apart() {
    let (right, calm) = shares(Language::Dutch, DUTCH);
    assert!(right >= 0.85, "{right}");
    assert!(calm >= 0.85, "{calm}");
}

#[test]
fn texts_that_were_not_trained_on_are_judged_as_the_card_says() {
    let Some(file) = shunt_testkit::shared_dir().map(|shared| shared.join("models/checks/sent_heldout.json"))
    else {
        println!("Skipped: there is no shared folder.");
        return;
    };
    let texts: Vec<(String, String, u8)> = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let model = default();
    for (set, least) in [("sst_test", 0.81), ("uci", 0.89), ("cr", 0.85)] {
        let of: Vec<_> = texts.iter().filter(|(of, _, _)| of == set).collect();
        let right = of
            .iter()
            .filter(|(_, text, label)| (model.score(Language::English, text) > 0.5) == (*label == 1));
        let share = right.count() as f64 / of.len() as f64;
        println!("{set}: {share:.4} of {}", of.len());
        assert!(share >= least, "{set}: {share}");
    }
}

proptest! {
    #[test]
    fn any_text_has_a_score(text in ".{0,200}", dutch: bool) {
        let language = if dutch { Language::Dutch } else { Language::English };
        let score = default_once().score(language, &text);
        prop_assert!((0.0..=1.0).contains(&score), "{}", score);
    }
}

fn default_once() -> &'static TextModel {
    static MODEL: std::sync::OnceLock<TextModel> = std::sync::OnceLock::new();
    MODEL.get_or_init(default)
}
