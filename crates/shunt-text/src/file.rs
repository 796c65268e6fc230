//! The file of a text model.
//!
//! ```text
//! "SHUNTTXT"                8 bytes
//! length of the header      4 bytes, little endian
//! header                    JSON: format, languages, and where each section is (offset from the header's end, length)
//! sections                  en.weights: i16 little endian, one a bucket; en.gate: i8, one a bucket;
//!                           en.lexicon: lines of word, tab, weight; nl.lexicon: lines of word, tab, polarity, tab,
//!                           how much it strengthens the next word
//! ```

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

const MAGIC: &[u8] = b"SHUNTTXT";
/// The largest file in bytes.
const FILE_LIMIT: usize = 64 * 1024 * 1024;

/// Why a text model cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextModelError {
    /// No model of this name is part of the program.
    #[error("there is no text model {model:?}; those built in are {known}")]
    Unknown {
        /// The name.
        model: String,
        /// Those that there are.
        known: String,
    },
    /// The file has another digest.
    #[error("the text model {model:?} has the sha256 {found}, but {expected} is wanted")]
    Digest {
        /// The model.
        model: String,
        /// The digest that it has.
        found: String,
        /// The digest that is wanted.
        expected: String,
    },
    /// The file is no text model.
    #[error("the text model {model:?} cannot be used: {problem}")]
    Broken {
        /// The model.
        model: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// What the header says.
#[derive(Debug, Deserialize)]
struct Header {
    format: u32,
    languages: BTreeMap<String, serde_json::Value>,
    sections: HashMap<String, (usize, usize)>,
}

/// A model's file, opened.
#[derive(Debug)]
pub(crate) struct File<'b> {
    header: Header,
    sections: &'b [u8],
}

// === impl File ===

impl<'b> File<'b> {
    pub(crate) fn open(bytes: &'b [u8]) -> Result<Self, String> {
        if bytes.len() > FILE_LIMIT {
            return Err(format!("it has {} bytes, {FILE_LIMIT} are allowed", bytes.len()));
        }
        let rest = bytes.strip_prefix(MAGIC).ok_or("it does not begin with SHUNTTXT")?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or("it ends before its header")?;
        let length = u32::from_le_bytes(*length) as usize;
        let (header, sections) = rest.split_at_checked(length).ok_or("it ends inside its header")?;
        let header: Header = serde_json::from_slice(header)
            .map_err(|error| format!("its header is not understood: {error}"))?;
        if header.format != 1 {
            return Err(format!("it has the format {}, but 1 is wanted", header.format));
        }
        Ok(Self { header, sections })
    }

    /// What the header says of a language; nothing if the model does not know it.
    pub(crate) fn language<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, String> {
        let Some(value) = self.header.languages.get(name) else { return Ok(None) };
        let language = serde_json::from_value(value.clone());
        language.map(Some).map_err(|error| format!("its header is not understood at {name}: {error}"))
    }

    pub(crate) fn section(&self, name: &str) -> Result<&'b [u8], String> {
        let &(offset, length) = self.header.sections.get(name).ok_or(format!("it has no section {name}"))?;
        let end = offset.checked_add(length);
        let section = end.and_then(|end| self.sections.get(offset..end));
        section.ok_or(format!("it ends inside its section {name}"))
    }

    /// The lines of a section of words: each a word and its numbers.
    pub(crate) fn words<const N: usize>(&self, name: &str) -> Result<HashMap<Box<str>, [f32; N]>, String> {
        let text =
            std::str::from_utf8(self.section(name)?).map_err(|_| format!("its section {name} is no text"))?;
        let mut words = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let wrong = || format!("line {} of its section {name} is not a word and {N} numbers", number + 1);
            let mut cells = line.split('\t');
            let word = cells.next().filter(|word| !word.is_empty()).ok_or_else(wrong)?;
            let mut numbers = [0.0; N];
            for place in &mut numbers {
                let number: f32 = cells.next().and_then(|cell| cell.parse().ok()).ok_or_else(wrong)?;
                *place = Some(number).filter(|number| number.is_finite()).ok_or_else(wrong)?;
            }
            if cells.next().is_some() {
                return Err(wrong());
            }
            words.insert(word.into(), numbers);
        }
        Ok(words)
    }
}
