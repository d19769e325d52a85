//! Snapshot drivers: ids and parents in, mounts out.
//!
//! Each driver keeps one folder and no database; the contract they fulfil is `windlass_model::snapshotter`, and
//! `tests/contract.rs` runs one suite over all of them.

pub mod native;
pub mod overlay;

mod folder;
mod usage;

pub use native::Native;
pub use overlay::Overlay;
