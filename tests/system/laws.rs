//! The laws of docs/architecture.md that can be read off the source.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use shunt_testkit::repo_root;

/// A crate of the workspace: its folder below the root, and what it depends on (tests left out).
struct Member {
    folder: String,
    needs: Vec<String>,
}

/// The libraries of the rooms table of docs/architecture.md, in its order.
fn floors() -> Vec<String> {
    let page = std::fs::read_to_string(repo_root().join("docs/architecture.md")).unwrap();
    let names = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    names.map(|(name, _)| name.to_owned()).filter(|name| name.starts_with("shunt-")).collect()
}

#[test]
fn a_library_uses_only_those_above_it_in_the_rooms_table() {
    let (floors, members) = (floors(), members());
    let crates = members.iter().filter(|(_, member)| member.folder.starts_with("crates/"));
    for (name, member) in crates {
        let floor = floors.iter().position(|other| other == name);
        let floor = floor.unwrap_or_else(|| panic!("{name} is not in the table"));
        for needed in member.needs.iter().filter(|needed| needed.starts_with("shunt-")) {
            assert!(floors[..floor].contains(needed), "{name} uses {needed}, which does not stand above it");
        }
    }
}

fn members() -> BTreeMap<String, Member> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(repo_root())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|package| {
            let manifest = Path::new(package["manifest_path"].as_str().unwrap());
            let folder = manifest.parent().unwrap().strip_prefix(repo_root()).unwrap();
            let needs = package["dependencies"].as_array().unwrap().iter();
            let needs = needs.filter(|needed| needed["kind"].as_str() != Some("dev"));
            let member = Member {
                folder: folder.to_str().unwrap().to_owned(),
                needs: needs.map(|needed| needed["name"].as_str().unwrap().to_owned()).collect(),
            };
            (package["name"].as_str().unwrap().to_owned(), member)
        })
        .collect()
}

/// The source files below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// A file without its tests.
fn code(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    text.split("#[cfg(test)]").next().unwrap_or_default().to_owned()
}

#[test]
fn no_crate_and_no_module_depends_on_a_module() {
    let members = members();
    for (name, member) in &members {
        for needed in &member.needs {
            let Some(other) = members.get(needed) else { continue };
            assert!(!other.folder.starts_with("modules/"), "{name} depends on the module {needed}");
        }
    }
}

#[test]
fn the_vocabulary_does_no_input_or_output() {
    let members = members();
    let wire = members.get("shunt-wire").unwrap();
    let ours: Vec<_> = wire.needs.iter().filter(|needed| members.contains_key(*needed)).collect();
    assert!(ours.is_empty(), "shunt-wire is the ground floor, but depends on {ours:?}");
    for file in sources(&repo_root().join("crates/shunt-wire/src")) {
        for word in
            ["std::fs", "std::net", "std::env", "std::process", "tokio", "SystemTime::now", "Instant::now"]
        {
            assert!(!code(&file).contains(word), "{} uses {word}", file.display());
        }
    }
}

#[test]
fn only_the_relay_sends_telemetry() {
    for module in std::fs::read_dir(repo_root().join("modules")).unwrap().flatten() {
        if module.file_name() == "relay" {
            continue;
        }
        for file in sources(&module.path().join("src")) {
            assert!(!code(&file).contains("HubMessage"), "{} makes messages for the hub", file.display());
        }
    }
    for file in sources(&repo_root().join("crates/shunt-module/src")) {
        assert!(!code(&file).contains("HubMessage"), "{} makes messages for the hub", file.display());
    }
}

#[test]
fn nothing_unbounded_and_no_socket_without_no_delay() {
    for place in ["crates", "modules"] {
        for file in sources(&repo_root().join(place)) {
            let code = code(&file);
            for word in ["unbounded_channel", "Client::new()"] {
                assert!(!code.contains(word), "{} uses {word}", file.display());
            }
        }
    }
}
