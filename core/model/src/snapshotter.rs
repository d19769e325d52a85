//! The contract of a snapshot driver: ids and parents in, mounts out.
//!
//! A driver owns one folder and keeps no database: the engine's records say which snapshots exist, what their keys and
//! parents are and whether they are committed. A driver knows a snapshot only by its [`SnapshotId`], a number that is
//! never used twice, and is told the whole chain of parents at each call.
//!
//! ## Life
//! `prepare` makes a writable snapshot over its parents; `view` a read-only one. `mounts` gives the mounts of either,
//! as often as asked. `commit` ends the writing: afterwards the id may stand among the parents of others. `remove` takes
//! away what an id left on disk. The engine never removes an id that is a parent.
//!
//! ## Crashes
//! Every verb may be cut off at any point and be called again with the same arguments; it then completes. An id on disk
//! without a record is garbage: the engine finds it with `ids` and removes it. A driver does not sync: the engine makes
//! an image's layers durable with one `syncfs` before it records them.
//!
//! ## Threads
//! Verbs block and are called from several threads at once, never twice for the same id.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::mount::Mount;

/// The number by which a driver knows a snapshot; unique in the driver's folder for ever.
pub type SnapshotId = u64;

/// Labels that a client put on a snapshot; a driver may take options from them.
pub type Labels = BTreeMap<String, String>;

/// What a snapshot is (containerd's words, `core/snapshots`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// Read-only, over its parents, under a key.
    View,
    /// Writable, under a key.
    Active,
    /// Finished, under a name; may be a parent.
    Committed,
}

/// What a snapshot takes on disk, its parents not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Inodes.
    pub inodes: u64,
    /// Bytes allocated.
    pub bytes: u64,
}

/// A snapshot driver; see the module for the contract. `parents` are nearest first.
pub trait Snapshotter: Send + Sync + std::fmt::Debug {
    /// The driver's name in configuration and API: `overlay`, `native`, …
    fn name(&self) -> &'static str;

    /// The folder that the driver owns.
    fn root(&self) -> &Path;

    /// Makes a writable snapshot.
    fn prepare(&self, id: SnapshotId, parents: &[SnapshotId], labels: &Labels) -> Result<()>;

    /// Makes a read-only snapshot of `parents`.
    fn view(&self, id: SnapshotId, parents: &[SnapshotId], labels: &Labels) -> Result<()>;

    /// The mounts that show a prepared or viewed snapshot; `kind` is never `Committed`.
    fn mounts(&self, id: SnapshotId, parents: &[SnapshotId], kind: Kind) -> Result<Vec<Mount>>;

    /// Ends the writing to a prepared snapshot.
    fn commit(&self, id: SnapshotId, parents: &[SnapshotId]) -> Result<()>;

    /// Takes away what is on disk for `id`; succeeds where there is nothing.
    fn remove(&self, id: SnapshotId) -> Result<()>;

    /// What `id` takes on disk.
    fn usage(&self, id: SnapshotId, parents: &[SnapshotId]) -> Result<Usage>;

    /// All ids that have something on disk, in any order.
    fn ids(&self) -> Result<Vec<SnapshotId>>;

    /// Where a layer for a prepared snapshot can be written straight, and how a deletion is marked there; `None` where
    /// the layer must be applied through the mounts.
    fn layer_target(&self, id: SnapshotId) -> Option<LayerTarget>;
}

/// A folder that takes a layer without being mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerTarget {
    /// The folder.
    pub path: PathBuf,
    /// How the driver wants deletions.
    pub whiteouts: Whiteouts,
}

/// How a layer's deletions stand in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whiteouts {
    /// As overlayfs reads them: character devices 0:0 and the xattr `trusted.overlay.opaque`.
    Overlay,
    /// The folder holds the parents' files: deletions are carried out.
    Apply,
}
