//! The nouns of Windlass: names, digests, mounts, states, events and the contracts between crates.
//!
//! Nothing here does I/O or knows an async runtime, so every rule in this crate is tested in microseconds.

pub mod confinement;
pub mod digest;
pub mod environment;
pub mod error;
pub mod event;
pub mod filter;
pub mod id;
pub mod mount;
pub mod process;
pub mod reference;
pub mod snapshotter;
pub mod time;
pub mod typed;
pub mod user;

pub use digest::{Descriptor, Digest, Platform};
pub use error::{Context, Error, Kind, Result};
pub use id::{Id, LeaseId, Namespace};
pub use mount::Mount;
pub use reference::Reference;
pub use time::Timestamp;
pub use typed::TypedBytes;
