//! Text models: how positive is a text?
//!
//! - [`TextModel`] is a loaded model: English by hashed n-grams with a gate for texts that are no opinion, Dutch by a
//!   lexicon. The one that Shunt ships is part of the program: [`TextModel::built_in`].
//! - [`Language`] are the languages there are.
//!
//! It promises: the same text has the same score on every machine; a score is from 0 (negative) to 1 (positive) and
//! 0.5 where nothing is known; a file with another digest than the one wanted is never used; reading a broken file
//! fails with the reason. A score takes time in proportion to the text's length.
//!
//! It deliberately needs no tensor library, no network and no threads: a text takes some microseconds, but a batch is
//! heavy work for the caller's own thread (law 6). It finds no language and no sentences.
//!
//! ```
//! use shunt_text::{Language, TextModel};
//!
//! let model = TextModel::built_in(TextModel::DEFAULT)?;
//! assert!(model.score(Language::English, "I love this!") > 0.9);
//! assert!(model.score(Language::Dutch, "Wat een waardeloze service.") < 0.3);
//! let plain = model.score(Language::English, "The meeting is at 3 pm on Tuesday.");
//! assert!((0.3..0.7).contains(&plain));
//! # Ok::<(), shunt_text::TextModelError>(())
//! ```

mod file;
mod hash;
mod lexicon;
mod model;
mod ngrams;
mod words;

pub use file::TextModelError;
pub use model::{Language, TextModel, UnknownLanguage, digest};
