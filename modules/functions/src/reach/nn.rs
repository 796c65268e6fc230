//! `wasi:nn`: the models of the device.

/// A tensor of the guest.
#[derive(Debug)]
pub struct Tensor;

/// A model.
#[derive(Debug)]
pub struct Graph;

/// One use of a model.
#[derive(Debug)]
pub struct Execution;

/// What went wrong.
#[derive(Debug)]
pub struct Error;
