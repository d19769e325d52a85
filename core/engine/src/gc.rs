//! The garbage collector.
use windlass_model::{Error, Result};
use crate::Core;

/// What a collection removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcStats { pub leases: usize, pub blobs: usize, pub snapshots: usize, pub ingests: usize }
pub(crate) struct Collector;
impl Collector { pub(crate) fn nudge(&self) {} }
pub(crate) async fn collect(core: &Core) -> Result<GcStats> { let _ = core; Err(Error::unimplemented("collect")) }
