//! Real models on real pictures.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test ends by a panic"
)]

mod accuracy;
mod conformance;
mod convert;
mod faces;
mod import;
mod sessions;
mod store;
mod tflite;

use std::{path::PathBuf, sync::Arc};

use shunt_infer::{Backend, Backends, ModelStore, Tract};
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

/// A back end by its name. Where it is not installed says so; with `CI` set the test fails: it is to be tested there.
fn installed(name: &str) -> Option<Arc<dyn Backend>> {
    let backends = Backends::installed();
    if let Some(backend) = backends.found().iter().find(|backend| backend.name() == name) {
        return Some(Arc::clone(backend));
    }
    let missing = backends.missing().iter().find(|missing| missing.name == name);
    let why = missing.map_or("this program does not have it", |missing| missing.why.as_str());
    assert!(std::env::var_os("CI").is_none(), "{name} is not installed: {why}");
    println!("Skipped: {name} is not installed: {why}.");
    None
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
