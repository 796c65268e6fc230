//! The module `functions` as a program: see the library.

fn main() {}
