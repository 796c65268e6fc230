//! A text model: languages, loading, scores.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};

use crate::{
    file::{File, TextModelError},
    lexicon::Lexicon,
    ngrams::{Ngrams, sigmoid},
};

/// The model that Shunt ships.
const FILE: &[u8] = include_bytes!("../../../models/sentiment/sentiment.bin");

/// A language that texts may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Language {
    /// `en`
    English,
    /// `nl`
    Dutch,
}

/// A text names no language that there is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the language {0:?} is not known; allowed are en and nl")]
pub struct UnknownLanguage(pub String);

/// A model that tells how positive texts are.
#[derive(Debug)]
pub struct TextModel {
    name: String,
    digest: String,
    english: Option<Ngrams>,
    dutch: Option<Lexicon>,
    gated: bool,
}

// === impl Language ===

impl Language {
    /// All.
    pub const ALL: [Self; 2] = [Self::English, Self::Dutch];

    /// The code of ISO 639-1.
    pub const fn code(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Dutch => "nl",
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.code())
    }
}

impl FromStr for Language {
    type Err = UnknownLanguage;

    /// Takes a code in any case, also with a region behind: `en`, `EN`, `en-US`.
    fn from_str(code: &str) -> Result<Self, UnknownLanguage> {
        let language = code.split(['-', '_']).next().unwrap_or_default();
        let known = Self::ALL.into_iter().find(|known| known.code().eq_ignore_ascii_case(language));
        known.ok_or_else(|| UnknownLanguage(code.to_owned()))
    }
}

// === impl TextModel ===

impl TextModel {
    /// The model to take where none is named: texts that are no opinion come near 0.5.
    pub const DEFAULT: &str = "shunt-sentiment";
    /// The same as it was first trained, on opinions only: it takes every text for one.
    pub const UNGATED: &str = "shunt-sentiment-ungated";

    /// The models that are part of the program.
    pub const BUILT_IN: [&str; 2] = [Self::DEFAULT, Self::UNGATED];

    /// A model that is part of the program.
    ///
    /// # Errors
    ///
    /// There is none of this name.
    pub fn built_in(name: &str) -> Result<Self, TextModelError> {
        if !Self::BUILT_IN.contains(&name) {
            let known = Self::BUILT_IN.join(", ");
            return Err(TextModelError::Unknown { model: name.to_owned(), known });
        }
        let mut model = Self::parse(name, FILE)?;
        model.gated = name == Self::DEFAULT;
        Ok(model)
    }

    /// Reads a model's file; `name` is what it is called from now on. Heavy.
    ///
    /// # Errors
    ///
    /// It is broken: the message says where.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, TextModelError> {
        let broken = |problem| TextModelError::Broken { model: name.to_owned(), problem };
        let file = File::open(bytes).map_err(broken)?;
        let english = Ngrams::read(&file).map_err(broken)?;
        let dutch = Lexicon::read(&file).map_err(broken)?;
        if english.is_none() && dutch.is_none() {
            return Err(broken("it has no language".to_owned()));
        }
        Ok(Self { name: name.to_owned(), digest: digest(bytes), english, dutch, gated: true })
    }

    /// Reads a model's file whose sha256 must be this one, in hexadecimal.
    ///
    /// # Errors
    ///
    /// The digest is another, or the file is broken.
    pub fn parse_checked(name: &str, bytes: &[u8], expected: &str) -> Result<Self, TextModelError> {
        let found = digest(bytes);
        if !found.eq_ignore_ascii_case(expected) {
            let (model, expected) = (name.to_owned(), expected.to_owned());
            return Err(TextModelError::Digest { model, found, expected });
        }
        Self::parse(name, bytes)
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The sha256 of its file in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The languages that it knows.
    pub fn languages(&self) -> Vec<Language> {
        let here = |language: &Language| match language {
            Language::English => self.english.is_some(),
            Language::Dutch => self.dutch.is_some(),
        };
        Language::ALL.into_iter().filter(here).collect()
    }

    /// How positive the text is: 0 (negative) to 1 (positive), 0.5 where nothing is known, as of a language that the
    /// model does not have. Takes some microseconds for a short text, and time in proportion for a long one.
    pub fn score(&self, language: Language, text: &str) -> f64 {
        let (polarity, opinion) = match (language, &self.english, &self.dutch) {
            (Language::English, Some(english), _) => english.judge(text),
            (Language::Dutch, _, Some(dutch)) => (dutch.judge(text), 1.0),
            _ => (0.0, 1.0),
        };
        let opinion = if self.gated { opinion } else { 1.0 };
        0.5 + opinion * (sigmoid(polarity) - 0.5)
    }
}

/// The sha256 of these bytes in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        for nibble in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(u32::from(nibble), 16));
        }
        text
    })
}
