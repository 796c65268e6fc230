//! Where the libraries are that back ends load when they start.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

/// Where the images have them.
const OF_THE_SYSTEM: &str = "/usr/lib/shunt";
/// Where `scripts/setup infer` puts them, in the repository.
const OF_THE_REPOSITORY: &str = ".shunt/lib";

/// A library of `models/libraries.toml`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Library {
    /// Its file.
    pub(crate) file: &'static str,
    /// The variables that may name the file; the first that is set counts.
    pub(crate) variables: &'static [&'static str],
}

/// Why a library is not there.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LibraryError {
    /// A variable names a file that is not there.
    #[error("{variable} names {}, which is not there", file.display())]
    Named {
        /// The variable.
        variable: &'static str,
        /// What it says.
        file: PathBuf,
    },
    /// It is nowhere.
    #[error(
        "its library {file} is in none of {}; install it with `scripts/setup infer`, or name it in {variable}",
        folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    Nowhere {
        /// The file.
        file: &'static str,
        /// The folders searched.
        folders: Vec<PathBuf>,
        /// The variable that may name it.
        variable: &'static str,
    },
    /// It is nowhere, and there is none to install for such a processor.
    #[error(
        "its library {file} is not there, and for {} there is none on PyPI; {variable} may name one",
        env::consts::ARCH
    )]
    NoneForThisProcessor {
        /// The file.
        file: &'static str,
        /// The variable that may name it.
        variable: &'static str,
    },
}

// === impl Library ===

impl Library {
    /// The library's file: the one that a variable names; else that in `lib` beside the program's folder, in
    /// `/usr/lib/shunt`, or in `.shunt/lib` above the program or the working folder.
    pub(crate) fn find(self) -> Result<PathBuf, LibraryError> {
        self.find_in(&|variable| env::var_os(variable), &folders())
    }

    fn find_in(
        self,
        read: &dyn Fn(&str) -> Option<OsString>,
        folders: &[PathBuf],
    ) -> Result<PathBuf, LibraryError> {
        for variable in self.variables {
            let Some(named) = read(variable).filter(|named| !named.is_empty()) else { continue };
            let file = PathBuf::from(named);
            if file.is_file() {
                return Ok(file);
            }
            return Err(LibraryError::Named { variable, file });
        }
        let found = folders.iter().map(|folder| folder.join(self.file)).find(|file| file.is_file());
        let variable = self.variables.first().copied().unwrap_or_default();
        found.ok_or_else(|| {
            if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
                LibraryError::Nowhere { file: self.file, folders: folders.to_vec(), variable }
            } else {
                LibraryError::NoneForThisProcessor { file: self.file, variable }
            }
        })
    }
}

/// The folders, in the order in which they are searched.
fn folders() -> Vec<PathBuf> {
    let program = env::current_exe().ok();
    let beside = program.as_deref().and_then(|program| Some(program.parent()?.parent()?.join("lib")));
    let mut folders: Vec<_> = beside.into_iter().chain([PathBuf::from(OF_THE_SYSTEM)]).collect();
    for start in [program, env::current_dir().ok()].into_iter().flatten() {
        // Of the first folder above that has one.
        let above =
            start.ancestors().map(|folder: &Path| folder.join(OF_THE_REPOSITORY)).find(|lib| lib.is_dir());
        folders.extend(above.filter(|lib| !folders.contains(lib)));
    }
    folders
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LIBRARY: Library =
        Library { file: "libthing.so", variables: &["SHUNT_THING_LIBRARY", "THING_PATH"] };

    #[test]
    fn a_variable_names_the_library_and_the_first_that_is_set_counts() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mine.so");
        fs::write(&file, b"").unwrap();
        let named = |variable: &str| (variable == "THING_PATH").then(|| file.clone().into_os_string());
        assert_eq!(LIBRARY.find_in(&named, &[]), Ok(file.clone()));
        // An empty one counts as not set.
        let both = |variable: &str| {
            Some(if variable == "THING_PATH" { file.clone().into_os_string() } else { OsString::new() })
        };
        assert_eq!(LIBRARY.find_in(&both, &[]), Ok(file.clone()));
    }

    #[test]
    fn a_variable_that_names_no_file_is_told_and_nothing_else_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("libthing.so"), b"").unwrap();
        let named = |_: &str| Some(OsString::from("/nowhere/mine.so"));
        let error = LIBRARY.find_in(&named, &[folder.path().to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "SHUNT_THING_LIBRARY names /nowhere/mine.so, which is not there");
    }

    #[test]
    fn without_a_variable_the_first_folder_that_has_it_counts() {
        let (empty, full) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = full.path().join("libthing.so");
        fs::write(&file, b"").unwrap();
        let folders = [empty.path().to_owned(), full.path().to_owned()];
        assert_eq!(LIBRARY.find_in(&|_| None, &folders), Ok(file));
        let error = LIBRARY.find_in(&|_| None, &folders[..1]).unwrap_err().to_string();
        assert!(error.contains("SHUNT_THING_LIBRARY"), "{error}");
        if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
            assert!(error.contains("`scripts/setup infer`"), "{error}");
        }
    }
}
