//! Dutch: a lexicon of words, negations, and words that strengthen the next one.

use std::collections::HashMap;

use serde::Deserialize;

use crate::{file::File, words};

/// What the header says of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    form: String,
    negated: f64,
    gain: f64,
}

/// The Dutch model: polarity from -1 to 1 and strength of each word.
#[derive(Debug)]
pub(crate) struct Lexicon {
    spec: Spec,
    words: HashMap<Box<str>, [f32; 2]>,
}

/// Polarity below this is none.
const FLAT: f64 = 0.05;
/// A word of this strength and more strengthens the next one instead of telling something itself.
const STRENGTHENS: f32 = 1.2;
/// What a negation tells that reaches no word of the lexicon: "dit werkt niet".
const BARE_NEGATION: f64 = -0.35;

// === impl Lexicon ===

impl Lexicon {
    pub(crate) fn read(file: &File<'_>) -> Result<Option<Self>, String> {
        let Some(spec) = file.language::<Spec>("nl")? else { return Ok(None) };
        if spec.form != "lexicon" {
            return Err(format!("Dutch has the form {:?}, but \"lexicon\" is wanted", spec.form));
        }
        Ok(Some(Self { words: file.words("nl.lexicon")?, spec }))
    }

    /// Polarity as log odds: 0 where no word is known.
    pub(crate) fn judge(&self, text: &str) -> f64 {
        let text = words::normal(text);
        let found = words::dutch(&text);
        let (mut sum, mut hits, mut strength) = (0.0, 0_u32, 1.0);
        let mut bare = false;
        for (index, word) in found.iter().enumerate() {
            let opens = found.get(index + 1).is_some_and(|next| next.negated) && !word.negated;
            bare |= matches!(word.text, "niet" | "nooit");
            let Some(&[polarity, intensity]) = self.words.get(word.text) else {
                strength = 1.0;
                continue;
            };
            let next = found.get(index + 1).and_then(|next| self.words.get(next.text));
            if intensity >= STRENGTHENS && next.is_some() && !opens {
                strength = f64::from(intensity);
                continue;
            }
            let polarity = f64::from(polarity) * strength;
            strength = 1.0;
            if polarity.abs() < FLAT {
                continue;
            }
            sum += polarity * if word.negated { self.spec.negated } else { 1.0 };
            hits += 1;
        }
        if hits == 0 && bare {
            (sum, hits) = (BARE_NEGATION, 1);
        }
        self.spec.gain * sum / f64::from(hits.max(1)).sqrt()
    }
}
