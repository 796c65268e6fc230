//! Real models on real pictures.

#![expect(
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test ends by a panic"
)]

mod accuracy;
mod conformance;
mod faces;
mod store;

use std::{path::PathBuf, sync::Arc};

use shunt_infer::{Backends, ModelStore, Tract};
use shunt_vision::{DecodeLimits, Picture, decode};

/// The store over the committed models, and those beside the repository where they are.
fn models() -> ModelStore {
    let mut folders = vec![shunt_testkit::repo_root().join("models")];
    folders.extend(shunt_testkit::shared_dir().map(|shared| shared.join("models")));
    ModelStore::with_folders(folders).unwrap()
}

/// The back end that is always there.
fn tract() -> Backends {
    Backends::of(vec![Arc::new(Tract)])
}

/// A sample picture; where there is none, says so.
fn picture(name: &str) -> Option<Picture> {
    let fetched = shunt_testkit::repo_root().join(".shunt/pictures").join(name);
    let file: Option<PathBuf> =
        shunt_testkit::sample_picture(name).or_else(|| fetched.is_file().then_some(fetched));
    let Some(file) = file else {
        println!("Skipped: the picture {name} is not there.");
        return None;
    };
    Some(decode(&std::fs::read(file).unwrap(), &DecodeLimits::default()).unwrap())
}
