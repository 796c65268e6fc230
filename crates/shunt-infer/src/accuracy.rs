//! How often an expression model is right.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use shunt_vision::{DecodeError, DecodeLimits, decode};
use shunt_wire::events::Expression;

use crate::{ExpressionReader, ModelError};

/// The result of [`expression_accuracy`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accuracy {
    /// Faces judged.
    pub total: u32,
    /// Faces judged as labelled.
    pub correct: u32,
    /// Row: the label; column: the answer; both in FER+'s order.
    pub confusion: [[u32; 8]; 8],
}

/// Why a folder of faces cannot be judged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccuracyError {
    /// The folder or a file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not a picture.
    #[error("cannot use {path}: {source}")]
    Picture {
        /// The file.
        path: PathBuf,
        /// Why.
        source: DecodeError,
    },
    /// There is no labelled face in it.
    #[error(
        "no picture in {0} has a name of the form <expression>_<anything>, for example happiness_0001.png"
    )]
    Empty(PathBuf),
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}

// === impl Accuracy ===

impl Accuracy {
    /// The part that is right, 0 to 1.
    pub fn share(&self) -> f64 {
        f64::from(self.correct) / f64::from(self.total.max(1))
    }

    /// Of the faces with this label: how many there are, and how many are judged so.
    pub fn of(&self, label: Expression) -> (u32, u32) {
        let row = self.confusion.get(label as usize).copied().unwrap_or_default();
        (row.iter().sum(), row.get(label as usize).copied().unwrap_or_default())
    }
}

/// Judges each picture of a folder whose name begins with its expression (`happiness_0001.png`); other files are
/// passed over. Each picture is a face from edge to edge.
pub fn expression_accuracy(reader: &ExpressionReader, folder: &Path) -> Result<Accuracy, AccuracyError> {
    let read = |path: &Path, source| AccuracyError::Read { path: path.to_owned(), source };
    let entries = fs::read_dir(folder).map_err(|source| read(folder, source))?;
    let mut files = Vec::new();
    for entry in entries {
        files.push(entry.map_err(|source| read(folder, source))?.path());
    }
    files.sort();
    let mut accuracy = Accuracy::default();
    for file in files {
        let Some(label) = label(&file) else { continue };
        let bytes = fs::read(&file).map_err(|source| read(&file, source))?;
        let picture = decode(&bytes, &DecodeLimits::default())
            .map_err(|source| AccuracyError::Picture { path: file.clone(), source })?;
        let (answer, _) = reader.read_whole(&picture)?.best();
        accuracy.total += 1;
        accuracy.correct += u32::from(answer == label);
        if let Some(cell) =
            accuracy.confusion.get_mut(label as usize).and_then(|row| row.get_mut(answer as usize))
        {
            *cell += 1;
        }
    }
    if accuracy.total == 0 {
        return Err(AccuracyError::Empty(folder.to_owned()));
    }
    Ok(accuracy)
}

/// The expression that a file's name begins with.
fn label(file: &Path) -> Option<Expression> {
    let name = file.file_stem()?.to_str()?;
    let prefix = name.split_once('_')?.0;
    Expression::ALL.into_iter().find(|expression| expression.as_str() == prefix)
}
