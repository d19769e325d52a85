//! Snapshot records and the driver calls that go with them.
use serde::{Deserialize, Serialize};
use windlass_model::snapshotter::{Kind, Labels, SnapshotId, Usage};
use windlass_model::{Error, Id, Mount, Namespace, Result, Timestamp};
use crate::Tenant;
use crate::events::Events;
use crate::meta::Tx;

/// What is stored of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// The driver's number.
    pub id: SnapshotId,
    /// What it is.
    pub kind: Kind,
    /// The name of the committed snapshot it stands on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Labels of the client.
    #[serde(default)]
    pub labels: Labels,
    /// When it was recorded.
    #[serde(default)]
    pub created_at: Timestamp,
    /// When it was last changed.
    #[serde(default)]
    pub updated_at: Timestamp,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its key, or its name once committed.
    pub key: String,
    /// The name of the committed snapshot it stands on.
    pub parent: Option<String>,
    /// What it is.
    pub kind: Kind,
    /// Labels of the client.
    pub labels: Labels,
    /// When it was recorded.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// The driver's number.
    pub id: SnapshotId,
}

/// What the snapshots of all namespaces share.
pub(crate) struct Shared;

/// The snapshots of one driver in one namespace.
#[derive(Clone)]
pub struct Snapshots { tenant: Tenant, driver: String }

/// The outcome of [`record_committed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// The name now stands for the id that was given.
    New,
    /// The name stood for this other id already; the caller discards its own ([`Snapshots::discard`]).
    Existing(SnapshotId),
}

impl Snapshots {
    pub(crate) fn new(tenant: Tenant, driver: &str) -> Result<Self> {
        let driver = tenant.core.driver(driver)?.name().to_owned();
        Ok(Self { tenant, driver })
    }
    pub async fn prepare(&self, key: &str, parent: Option<&str>, labels: Labels, lease: Option<&Id>) -> Result<Vec<Mount>> { let _ = (key, parent, labels, lease, &self.driver, &self.tenant); Err(Error::unimplemented("prepare")) }
    pub async fn view(&self, key: &str, parent: Option<&str>, labels: Labels, lease: Option<&Id>) -> Result<Vec<Mount>> { let _ = (key, parent, labels, lease); Err(Error::unimplemented("view")) }
    pub async fn mounts(&self, key: &str) -> Result<Vec<Mount>> { let _ = key; Err(Error::unimplemented("mounts")) }
    pub async fn commit(&self, name: &str, key: &str, labels: Labels) -> Result<()> { let _ = (name, key, labels); Err(Error::unimplemented("commit")) }
    pub async fn remove(&self, key: &str) -> Result<()> { let _ = key; Err(Error::unimplemented("remove")) }
    pub async fn stat(&self, key: &str) -> Result<SnapshotInfo> { let _ = key; Err(Error::unimplemented("stat")) }
    pub async fn list(&self) -> Result<Vec<SnapshotInfo>> { Err(Error::unimplemented("list")) }
    pub async fn usage(&self, key: &str) -> Result<Usage> { let _ = key; Err(Error::unimplemented("usage")) }
    pub async fn update_labels(&self, key: &str, change: impl FnOnce(&mut Labels) + Send + 'static) -> Result<SnapshotInfo> { let _ = (key, change); Err(Error::unimplemented("update_labels")) }
    /// A number that no snapshot of this root had or will have.
    pub(crate) fn reserve(&self) -> SnapshotId { 0 }
    /// The numbers of the committed snapshot `name` and its ancestors, nearest first: the `parents` of a driver call.
    pub(crate) fn chain(&self, name: &str) -> Result<Vec<SnapshotId>> { let _ = name; Err(Error::unimplemented("chain")) }
    /// Removes the files of a reserved number that was not recorded.
    pub(crate) async fn discard(&self, id: SnapshotId) { let _ = id; }
}

/// Inside a larger batch: records a committed snapshot whose files are on disk and synced.
pub(crate) fn record_committed(tx: &mut Tx<'_>, events: &Events, namespace: &Namespace, driver: &str, name: &str, parent: Option<&str>, id: SnapshotId, labels: Labels) -> Result<Recorded> { let _ = (tx, events, namespace, driver, name, parent, id, labels); Err(Error::unimplemented("record_committed")) }
