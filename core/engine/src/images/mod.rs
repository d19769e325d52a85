//! Images: names that point at manifests.

pub(crate) mod archive;
mod artifact;
mod image;
mod manifest;
mod policy;
mod progress;
mod pull;
mod push;
mod tree;
mod unpack;
mod verify;

pub use archive::{ExportRequest, ImportRequest, Wanted};
pub(crate) use image::{Details, put, remove};
pub use image::{ImageDetail, ImageRecord, Images};
pub use manifest::{Document, MAX_CONFIG, MAX_MANIFEST, Manifest, choose};
pub use progress::{Progress, Reporter};
#[allow(unused_imports, reason = "what pulls are asked with is defined beside the pull")]
pub use pull::*;
pub use push::PushRequest;
pub use verify::VerifierConfig;
pub(crate) use verify::Verifiers;
