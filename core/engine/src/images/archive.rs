//! Images as archives: tar files that hold an OCI layout, Docker's format, or (as those written here) both at once.
//!
//! ```text
//! oci-layout        {"imageLayoutVersion": "1.0.0"}
//! index.json        the images, named by annotations
//! blobs/sha256/…    indexes, manifests, configurations, layers
//! manifest.json     for Docker: configuration, names and layers of each image
//! ```

mod docker;
mod export;
mod format;
mod import;
mod names;
mod read;
mod record;
#[cfg(test)]
mod tests;

pub use export::ExportRequest;
#[cfg(any(test, fuzzing))]
pub(crate) use format::{docker, index, link, plain};
pub use import::ImportRequest;
pub use names::Wanted;
