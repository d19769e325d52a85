//! Images as the kubelet sees them: one for each id, with all its tags and digests.

mod fs;
mod pin;
mod pull;
mod query;
mod remove;

pub(crate) use fs::Measures;
pub(crate) use pin::Pins;
