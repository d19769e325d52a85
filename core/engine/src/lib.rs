//! The core of Windlass: one daemon's content, images, snapshots, records, leases, events and tasks, for many tenants.
//!
//! A [`Core`] is one root folder opened once. A [`Tenant`] is the only way to records and is fixed to one namespace.
//!
//! ```text
//! <root>/lock                  held (flock) as long as a Core is open
//! <root>/meta/                 the database (meta/schema.rs draws it)
//! <root>/content/blobs/sha256/ verified blobs, shared by all namespaces
//! <root>/content/ingest/       blobs on the way
//! <root>/content/trash/        blobs on the way out
//! ```

pub mod containers;
pub mod content;
mod core;
pub mod events;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod gc;
pub mod images;
mod layer;
pub mod layers;
pub mod leases;
pub mod meta;
pub mod mounts;
pub mod namespaces;
mod records;
pub mod registry;
pub mod restart;
pub mod sandboxes;
pub mod snapshots;
pub mod tasks;
mod tenant;
#[cfg(test)]
mod testing;

pub use containers::ContainerRecord;
pub use core::{Core, Options};
pub use events::Events;
pub use gc::GcStats;
pub use meta::Durability;
pub use records::{Record, Records, RuntimeRef};
pub use sandboxes::SandboxRecord;
pub use tenant::Tenant;
pub use windlass_model::TypedBytes;

pub(crate) use core::blocking;
