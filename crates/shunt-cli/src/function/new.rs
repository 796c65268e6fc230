//! `shunt function new`: begins a function that builds with ordinary tools.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::{Args, ValueEnum};

use crate::output;

/// Begin a function: a folder with its source, how to build it, and how to install it.
#[derive(Debug, Args)]
pub(super) struct New {
    /// The name of the function, and of its folder.
    name: String,
    /// What it is written in.
    #[arg(long, value_enum)]
    lang: Language,
    /// Where the folder is made.
    #[arg(long, value_name = "DIR", default_value = ".")]
    within: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Language {
    /// A component of Shunt's own contract; built by cargo.
    Rust,
    /// A text; needs no building.
    Python,
    /// A text; needs no building.
    Js,
    /// A program for WASI preview 1; built by make and clang.
    C,
}

/// What stands in a template for the name.
const NAME: &str = "{{name}}";
/// What stands in a template for the name as Rust and C write it.
const WORD: &str = "{{word}}";
/// The longest name; as the module has it.
const LONGEST: usize = 64;
/// Names that are routes of the module, one a line: the module's own list.
const RESERVED: &str = include_str!("../../../../modules/functions/src/name/reserved.txt");
/// The function that is built in and cannot be replaced.
const BUILT_IN: &str = "echo";

/// A file of a project: its path, and what is in it.
type File = (&'static str, &'static str);

const RUST: &[File] = &[
    ("Cargo.toml", include_str!("../../templates/function/rust/Cargo.toml.txt")),
    ("src/lib.rs", include_str!("../../templates/function/rust/lib.rs.txt")),
    ("README.md", include_str!("../../templates/function/rust/README.md")),
    (".gitignore", "/target/\n"),
    ("wit/functions.wit", include_str!("../../../../modules/functions/wit/functions.wit")),
    (
        "wit/deps/keyvalue/keyvalue.wit",
        include_str!("../../../../modules/functions/wit/deps/keyvalue/keyvalue.wit"),
    ),
    ("wit/deps/nn/nn.wit", include_str!("../../../../modules/functions/wit/deps/nn/nn.wit")),
];
const PYTHON: &[File] = &[
    ("{{name}}.py", include_str!("../../templates/function/python/function.py")),
    ("README.md", include_str!("../../templates/function/python/README.md")),
];
const JS: &[File] = &[
    ("{{name}}.js", include_str!("../../templates/function/js/function.js")),
    ("README.md", include_str!("../../templates/function/js/README.md")),
];
const C: &[File] = &[
    ("{{name}}.c", include_str!("../../templates/function/c/function.c")),
    ("Makefile", include_str!("../../templates/function/c/Makefile")),
    ("README.md", include_str!("../../templates/function/c/README.md")),
    (".gitignore", "*.wasm\n"),
];

// === impl New ===

impl New {
    pub(super) fn run(self) -> anyhow::Result<()> {
        check(&self.name, self.lang)?;
        let folder = self.within.join(&self.name);
        let cannot = || format!("cannot make {}", folder.display());
        // Fails where there is one already: nobody's work is written over.
        fs::create_dir(&folder).with_context(cannot)?;
        for (path, text) in self.lang.files() {
            let file = folder.join(self.filled(path));
            fs::create_dir_all(file.parent().unwrap_or(Path::new("."))).with_context(cannot)?;
            fs::write(&file, self.filled(text)).with_context(cannot)?;
        }
        output::line(format_args!("{} is begun; its README.md says how to go on", folder.display()))
    }

    fn filled(&self, text: &str) -> String {
        text.replace(NAME, &self.name).replace(WORD, &self.name.replace('-', "_"))
    }
}

/// Is it the name of a function, and one that the language's tools take?
fn check(name: &str, language: Language) -> anyhow::Result<()> {
    let sign = |sign: char| sign.is_ascii_alphanumeric() || sign == '-' || sign == '_';
    let is_name = name.len() <= LONGEST && name.starts_with(|first: char| first.is_ascii_alphabetic());
    anyhow::ensure!(
        is_name && name.chars().all(sign),
        "{name:?} cannot be the name: 1 to {LONGEST} letters, digits, '_' and '-', the first a letter"
    );
    let is_free = name != BUILT_IN && !RESERVED.lines().any(|reserved| reserved == name);
    anyhow::ensure!(is_free, "{name:?} cannot be the name: the module functions has it for itself");
    // Cargo refuses a package of this name, whoever wants it.
    anyhow::ensure!(language != Language::Rust || name != "test", "a Rust package cannot be named {name:?}");
    Ok(())
}

// === impl Language ===

impl Language {
    fn files(self) -> &'static [File] {
        match self {
            Self::Rust => RUST,
            Self::Python => PYTHON,
            Self::Js => JS,
            Self::C => C,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_has_all_its_files_with_the_name_in_them() {
        for (lang, source) in [
            (Language::Rust, "src/lib.rs"),
            (Language::Python, "my-thing.py"),
            (Language::Js, "my-thing.js"),
            (Language::C, "my-thing.c"),
        ] {
            let within = tempfile::tempdir().unwrap();
            let begin = || New { name: "my-thing".to_owned(), lang, within: within.path().to_owned() }.run();
            begin().unwrap();
            let folder = within.path().join("my-thing");
            assert!(folder.join(source).is_file());
            let readme = fs::read_to_string(folder.join("README.md")).unwrap();
            assert!(readme.contains("shunt function install") && readme.contains("my-thing"), "{readme}");
            for (path, _) in lang.files() {
                let file = folder.join(path.replace(NAME, "my-thing"));
                assert!(!fs::read_to_string(file).unwrap().contains("{{"), "{path}");
            }
            fs::write(folder.join("README.md"), "mine").unwrap();
            assert!(format!("{:#}", begin().unwrap_err()).contains("exists"));
            assert_eq!(fs::read_to_string(folder.join("README.md")).unwrap(), "mine");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "x".repeat(65);
        for name in
            ["", "../x", "a/b", "1st", "-x", "a b", "é", &long, "mgmt", "functions", "swagger", "echo"]
        {
            assert!(check(name, Language::Python).is_err(), "{name}");
        }
        assert!(check("functions2", Language::Python).is_ok());
        assert!(check("test", Language::Rust).is_err());
    }
}
