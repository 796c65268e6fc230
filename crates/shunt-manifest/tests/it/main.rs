//! What a user sees of manifests: our own templates, a table of mistakes, and the official tools as judges.

mod broken;
mod official;
mod own;
mod places;
