//! Where the files are.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::{Catalog, CatalogError, ModelEntry, ModelError, Task};

/// The catalog's file in a folder of models.
const CATALOG: &str = "catalog.toml";
/// The folder in a folder of models with what `shunt models import` wrote: a file for each model.
const IMPORTED: &str = "catalog.d";

/// A catalog and the folders in which its files are looked for.
#[derive(Debug, Clone)]
pub struct ModelStore {
    catalog: Catalog,
    folders: Vec<PathBuf>,
}

// === impl ModelStore ===

impl ModelStore {
    /// The store of a module: this folder (`SHUNT_MODELS_DIR`), then the `models` folder of the repository that
    /// the program is run from, if it is. The first of them that has a `catalog.toml` gives the catalog, else
    /// it is the one built in; what was imported (`catalog.d/*.toml` in any of them) is added.
    ///
    /// # Errors
    ///
    /// A catalog is there and is not understood.
    pub fn open(models_dir: &Path) -> Result<Self, CatalogError> {
        let mut folders = vec![models_dir.to_owned()];
        folders.extend(repository_models().filter(|folder| folder != models_dir));
        Self::with_folders(folders)
    }

    /// A store over exactly these folders.
    ///
    /// # Errors
    ///
    /// As [`ModelStore::open`].
    pub fn with_folders(folders: Vec<PathBuf>) -> Result<Self, CatalogError> {
        let mut catalog = match first_catalog(&folders)? {
            Some(catalog) => catalog,
            None => Catalog::built_in()?,
        };
        // The first folder has the last word.
        for file in folders.iter().rev().flat_map(|folder| imported(folder)) {
            let read = fs::read_to_string(&file);
            let read = read.map_err(|source| CatalogError::Read { file: file.clone(), source });
            if let Err(error) = read.and_then(|text| catalog.add(&text, file)) {
                // The other models serve on.
                tracing::warn!("A model that was imported is left out: {error}.");
            }
        }
        Ok(Self { catalog, folders })
    }

    /// The catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The folders, in the order in which they are searched.
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// What the catalog says of a model.
    pub fn entry(&self, name: &str) -> Result<&ModelEntry, ModelError> {
        self.catalog.models.get(name).ok_or_else(|| ModelError::Unknown {
            model: name.to_owned(),
            known: self.catalog.models.keys().cloned().collect(),
        })
    }

    /// What the catalog says of a model for this task.
    pub fn entry_for(&self, name: &str, task: Task) -> Result<&ModelEntry, ModelError> {
        let entry = self.entry(name)?;
        if entry.task == task {
            return Ok(entry);
        }
        Err(ModelError::Task {
            model: name.to_owned(),
            task: entry.task,
            wanted: task,
            known: self.catalog.names(task).map(ToOwned::to_owned).collect(),
        })
    }

    /// The names of a model's classes: the lines of this file.
    ///
    /// # Errors
    ///
    /// It is in none of the folders, or cannot be read.
    pub(crate) fn labels(&self, name: &str, file: &Path) -> Result<Vec<String>, ModelError> {
        for folder in &self.folders {
            let file = folder.join(file);
            match fs::read_to_string(&file) {
                Ok(text) => return Ok(text.lines().map(|line| line.trim().to_owned()).collect()),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(source) => return Err(ModelError::Read { model: name.to_owned(), file, source }),
            }
        }
        Err(ModelError::Missing {
            model: name.to_owned(),
            file: file.to_owned(),
            folders: self.folders.clone(),
        })
    }

    /// The file of a model, its digest checked.
    ///
    /// # Errors
    ///
    /// The model is unknown, its file is in none of the folders, or has another digest in all of them.
    pub fn find(&self, name: &str) -> Result<PathBuf, ModelError> {
        Ok(self.read(name)?.0)
    }

    /// The file of a model and its bytes, the digest checked.
    ///
    /// # Errors
    ///
    /// As [`ModelStore::find`].
    pub fn read(&self, name: &str) -> Result<(PathBuf, Vec<u8>), ModelError> {
        let entry = self.entry(name)?;
        let mut wrong = None;
        for folder in &self.folders {
            let file = folder.join(&entry.file);
            let bytes = match fs::read(&file) {
                Ok(bytes) => bytes,
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
                {
                    continue;
                }
                Err(source) => return Err(ModelError::Read { model: name.to_owned(), file, source }),
            };
            let found = digest(&bytes);
            match &entry.sha256 {
                Some(expected) if *expected == found => return Ok((file, bytes)),
                Some(expected) => {
                    wrong.get_or_insert(ModelError::Digest {
                        model: name.to_owned(),
                        file,
                        expected: expected.clone(),
                        found,
                    });
                }
                None => {
                    let file_name = file.display();
                    tracing::warn!(
                        model = name,
                        "The catalog knows no digest of {file_name}; it is used unchecked, its sha256 is {found}."
                    );
                    return Ok((file, bytes));
                }
            }
        }
        Err(wrong.unwrap_or_else(|| ModelError::Missing {
            model: name.to_owned(),
            file: entry.file.clone(),
            folders: self.folders.clone(),
        }))
    }
}

/// The catalog of the first folder that has one.
fn first_catalog(folders: &[PathBuf]) -> Result<Option<Catalog>, CatalogError> {
    for folder in folders {
        let file = folder.join(CATALOG);
        match fs::read_to_string(&file) {
            Ok(text) => return Catalog::parse(&text, file).map(Some),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(source) => return Err(CatalogError::Read { file, source }),
        }
    }
    Ok(None)
}

/// The files of imported models in a folder, in the order of their names; none where there is no such folder.
fn imported(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder.join(IMPORTED)).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> =
        files.filter(|file| file.extension().is_some_and(|extension| extension == "toml")).collect();
    files.sort();
    files
}

/// The sha256 of these bytes in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let nibbles = Sha256::digest(bytes).into_iter().flat_map(|byte| [byte >> 4, byte & 15]);
    nibbles.filter_map(|nibble| DIGITS.get(usize::from(nibble))).collect()
}

/// The `models` folders with a catalog, above the working folder and above the program.
fn repository_models() -> impl Iterator<Item = PathBuf> {
    let starts = [env::current_dir().ok(), env::current_exe().ok()];
    let found = starts.into_iter().flatten().filter_map(|start| {
        let mut above = start.ancestors().map(|folder| folder.join("models"));
        above.find(|folder| folder.join(CATALOG).is_file())
    });
    let mut folders: Vec<PathBuf> = found.collect();
    folders.dedup();
    folders.into_iter()
}
