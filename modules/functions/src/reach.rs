//! What a call may reach: what the grants of its function give, and nothing else.

pub(crate) mod keyvalue;
pub(crate) mod nn;

use crate::{grants::Grants, name::FunctionName};

/// What a call may reach.
#[derive(Debug, Clone)]
pub(crate) struct Reach {
    /// Who is called.
    pub(crate) name: FunctionName,
    /// What was granted.
    pub(crate) grants: Grants,
}
