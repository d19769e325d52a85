//! windlassd
fn main() {}
