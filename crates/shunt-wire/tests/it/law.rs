//! Law 1: this crate does no I/O.

use std::{fs, path::Path};

/// What reaches outside, as it would be written in a source.
const FORBIDDEN: [&str; 14] = [
    "std::fs",
    "std::io",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "std::os",
    "fs::",
    "Instant",
    "SystemTime",
    "now_utc",
    "now_local",
    "tokio",
    "libc",
];

#[test]
fn no_source_reaches_outside() {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    let mut folders = vec![crate_folder.join("src")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { &mut folders } else { &mut files }.push(path);
        }
    }
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            let found = FORBIDDEN.iter().find(|word| line.contains(**word));
            assert!(found.is_none(), "{}:{}: {line}", path.display(), number + 1);
        }
        seen += 1;
    }
    assert!(seen >= 6);
    let manifest = fs::read_to_string(crate_folder.join("Cargo.toml")).unwrap();
    let (_, dependencies) = manifest.split_once("\n[dependencies]\n").unwrap();
    let (dependencies, _) = dependencies.split_once("\n[dev-dependencies]\n").unwrap();
    let names = dependencies.lines().filter_map(|line| Some(line.split_once('.')?.0)).collect::<Vec<_>>();
    assert_eq!(names, ["base64", "bytes", "serde", "serde_json", "thiserror", "time"]);
}
