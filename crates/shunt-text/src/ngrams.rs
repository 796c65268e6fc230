//! English: a logistic regression over hashed words, pairs and triples, a lexicon, and a gate.

use std::collections::HashMap;

use serde::Deserialize;

use crate::{
    file::File,
    hash::Hash,
    words::{self, Word},
};

/// What the header says of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    form: String,
    buckets: usize,
    scale: f64,
    temperature: f64,
    negated: f64,
    gate: Option<GateSpec>,
}

/// What the header says of the gate.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct GateSpec {
    buckets: usize,
    scale: f64,
    /// Of: polarity, lexicon, no word of the lexicon, a digit, length.
    numbers: [f64; 5],
    intercept: f64,
}

/// The English model.
#[derive(Debug)]
pub(crate) struct Ngrams {
    spec: Spec,
    weights: Box<[i16]>,
    lexicon: HashMap<Box<str>, [f32; 1]>,
    gate: Box<[i8]>,
}

/// The words of a text, the buckets they fall into, and what the lexicon says.
struct Features {
    words: usize,
    buckets: Vec<u32>,
    gate: Vec<u32>,
    lexicon: f64,
    around: f64,
    hits: u32,
}

const BEGIN: &str = "<s>";
const END: &str = "</s>";

// === impl Ngrams ===

impl Ngrams {
    pub(crate) fn read(file: &File<'_>) -> Result<Option<Self>, String> {
        let Some(spec) = file.language::<Spec>("en")? else { return Ok(None) };
        if spec.form != "ngrams" {
            return Err(format!("English has the form {:?}, but \"ngrams\" is wanted", spec.form));
        }
        let weights = file.section("en.weights")?;
        let sizes = [(spec.buckets, weights.len() / 2)];
        let gate = if spec.gate.is_some() { file.section("en.gate")? } else { &[] };
        let sizes = sizes.into_iter().chain(spec.gate.iter().map(|wanted| (wanted.buckets, gate.len())));
        for (buckets, found) in sizes {
            if !buckets.is_power_of_two() || buckets != found {
                return Err(format!("English has {found} weights for {buckets} buckets"));
            }
        }
        let (chunks, _) = weights.as_chunks::<2>();
        let weights = chunks.iter().map(|pair| i16::from_le_bytes(*pair)).collect();
        let gate = gate.iter().map(|byte| byte.cast_signed()).collect();
        Ok(Some(Self { weights, lexicon: file.words("en.lexicon")?, gate, spec }))
    }

    /// Polarity before the gate, as log odds, and how much of an opinion the text is, 0 to 1.
    pub(crate) fn judge(&self, text: &str) -> (f64, f64) {
        let text = words::normal(text);
        let features = self.features(&words::english(&text));
        let weight =
            |bucket: &u32| f64::from(self.weights.get(*bucket as usize).copied().unwrap_or_default());
        let sum = self.spec.scale * features.buckets.iter().map(weight).sum::<f64>() + features.lexicon;
        let root = (features.buckets.len() as f64).sqrt();
        let polarity = sum / root / self.spec.temperature;
        let Some(gate) = &self.spec.gate else { return (polarity, 1.0) };
        let weight = |bucket: &u32| f64::from(self.gate.get(*bucket as usize).copied().unwrap_or_default());
        let sum = gate.scale * features.gate.iter().map(weight).sum::<f64>();
        let numbers = [
            polarity.abs().min(8.0) / 4.0,
            (features.around / root).min(8.0) / 4.0,
            f64::from(features.hits == 0),
            f64::from(text.bytes().any(|byte| byte.is_ascii_digit())),
            (features.words as f64).ln_1p() / 3.0,
        ];
        let dense: f64 = gate.numbers.iter().zip(numbers).map(|(weight, number)| weight * number).sum();
        let odds = 3.0 / (features.gate.len().max(1) as f64).sqrt() * sum + dense + gate.intercept;
        (polarity, sigmoid(odds))
    }

    fn features(&self, found: &[Word<'_>]) -> Features {
        let (all, some) = (self.spec.buckets, self.spec.gate.as_ref().map_or(1, |gate| gate.buckets));
        let mut buckets = Vec::with_capacity(3 * found.len() + 3);
        let mut gate = Vec::with_capacity(2 * found.len() + 1);
        let edge = |text| Word { text, negated: false };
        let (begin, end) = ([edge(BEGIN)], [edge(END)]);
        let mut line = begin.iter().chain(found).chain(&end).peekable();
        let mut first = true;
        while let Some(word) = line.next() {
            let hash = add(Hash::START, word);
            if !first && line.peek().is_some() {
                buckets.push(hash.bucket(all));
                gate.push(hash.bucket(some));
            }
            first = false;
            let mut following = line.clone();
            let Some(second) = following.next() else { break };
            let pair = add(hash.then(b" "), second);
            buckets.push(pair.bucket(all));
            gate.push(pair.bucket(some));
            if let Some(third) = following.next() {
                buckets.push(add(pair.then(b" "), third).bucket(all));
            }
        }
        for list in [&mut buckets, &mut gate] {
            list.sort_unstable();
            list.dedup();
        }
        let mut distinct = found.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let (mut lexicon, mut around, mut hits) = (0.0, 0.0, 0);
        for word in distinct {
            let Some([weight]) = self.lexicon.get(word.text) else { continue };
            let weight = f64::from(*weight) * if word.negated { self.spec.negated } else { 1.0 };
            lexicon += weight;
            around += weight.abs();
            hits += 1;
        }
        Features { words: found.len(), buckets, gate, lexicon, around, hits }
    }
}

/// The hash with a word behind.
fn add(hash: Hash, word: &Word<'_>) -> Hash {
    let hash = if word.negated { hash.then(b"not_") } else { hash };
    hash.then(word.text.as_bytes())
}

pub(crate) fn sigmoid(value: f64) -> f64 {
    1.0 / (1.0 + (-value).exp())
}
