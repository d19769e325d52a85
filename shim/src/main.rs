//! windlass-shim
fn main() {}
