//! Unpacking of layers into snapshots.
