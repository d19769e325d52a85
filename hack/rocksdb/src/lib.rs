//! Nothing: this crate exists for its dependency and its build script.
