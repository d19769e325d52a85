//! Images: names that point at manifests.

mod artifact;
mod image;
mod manifest;
mod pull;
mod unpack;

pub(crate) use image::{Details, put};
pub use image::{ImageDetail, ImageRecord, Images};
pub use manifest::{Document, MAX_CONFIG, MAX_MANIFEST, Manifest, choose};
#[allow(unused_imports, reason = "what pulls are asked with is defined beside the pull")]
pub use pull::*;
