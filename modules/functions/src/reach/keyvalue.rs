//! `wasi:keyvalue`.

/// An open bucket.
#[derive(Debug)]
pub struct Bucket;

/// A value as it was, to be swapped for another.
#[derive(Debug)]
pub struct Cas;
