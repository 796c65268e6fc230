//! Whole-system tests: real processes, real clients.
