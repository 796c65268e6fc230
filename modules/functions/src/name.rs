//! The name of a function.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The longest name in bytes.
const LONGEST: usize = 64;

/// Names that are routes of the module, one a line. `shunt function new` reads the same list.
const RESERVED: &str = include_str!("name/reserved.txt");

/// The name of a function, which is its path too: 1 to 64 letters, digits, `_`, `-` and `.`, of which the first is a
/// letter, a digit or `_`; none of the module's own routes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FunctionName(String);

/// Why a text is not the name of a function.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FunctionNameError {
    /// It has signs that no name has.
    #[error(
        "{0:?} is not the name of a function: 1 to 64 letters, digits, '_', '-' and '.', the first a letter, a digit or '_'"
    )]
    Form(String),
    /// It is a route of the module.
    #[error("{0:?} is a route of the module and cannot be the name of a function")]
    Reserved(String),
}

// === impl FunctionName ===

impl FunctionName {
    /// The function that is always there.
    pub fn echo() -> Self {
        Self("echo".to_owned())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Is it the function that is always there?
    pub fn is_echo(&self) -> bool {
        self.0 == "echo"
    }
}

impl FromStr for FunctionName {
    type Err = FunctionNameError;

    fn from_str(text: &str) -> Result<Self, FunctionNameError> {
        let first = |sign: char| sign.is_ascii_alphanumeric() || sign == '_';
        let other = |sign: char| first(sign) || sign == '-' || sign == '.';
        if text.len() > LONGEST || !text.starts_with(first) || !text.chars().all(other) {
            return Err(FunctionNameError::Form(text.chars().take(LONGEST).collect()));
        }
        if RESERVED.lines().any(|reserved| reserved == text) {
            return Err(FunctionNameError::Reserved(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for FunctionName {
    type Error = FunctionNameError;

    fn try_from(text: String) -> Result<Self, FunctionNameError> {
        text.parse()
    }
}

impl From<FunctionName> for String {
    fn from(name: FunctionName) -> Self {
        name.0
    }
}

impl fmt::Display for FunctionName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}
