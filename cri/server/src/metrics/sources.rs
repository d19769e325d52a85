//! What a family's function reads its values from: a pod, or a container and the disk it writes to.

use std::sync::Arc;

use windlass_model::Timestamp;
use windlass_model::snapshotter::Usage as Taken;
use windlass_sys::cgroup::{DeviceIo, Usage};
use windlass_sys::disk::{self, Space};

use crate::container::{Container, Found};
use crate::stats::{More, Reading};

/// A pod that was read.
pub(super) struct OfPod {
    pub(super) reading: Arc<Reading>,
}

/// A container that was read.
pub(super) struct OfContainer {
    pub(super) at: Timestamp,
    pub(super) usage: Usage,
    pub(super) more: Arc<More>,
    /// When its program was started, seconds.
    pub(super) started: u64,
    /// What it wrote, where that was measured.
    pub(super) layer: Option<Taken>,
    pub(super) disk: Option<Arc<Disk>>,
}

/// The file system of the containers' own layers.
pub(super) struct Disk {
    pub(super) device: String,
    pub(super) space: Space,
}

impl OfContainer {
    /// Nothing of a container that does not run.
    pub(super) fn new(container: &Container, found: &Found, disk: Option<&Arc<Disk>>) -> Option<Self> {
        let reading = found.readings.get(&container.id)?;
        Some(Self {
            at: reading.at,
            usage: reading.usage,
            more: reading.more.clone()?,
            started: seconds(u64::try_from(container.started_at.nanos()).unwrap_or(0)),
            layer: found.measure(container).map(|measure| measure.usage),
            disk: disk.cloned(),
        })
    }
}

impl Disk {
    /// Looks at the file system of a folder; nothing where it does not answer.
    pub(super) async fn look(folder: String) -> Option<Self> {
        let look = crate::pod::blocking(move || {
            let space = disk::space(folder.as_ref())?;
            Ok(Self { device: disk::device_name(space.major, space.minor), space })
        });
        let looked = tokio::time::timeout(std::time::Duration::from_secs(1), look).await.ok()?;
        looked.inspect_err(|error| tracing::warn!(%error, "the layers' file system cannot be looked at")).ok()
    }
}

/// The name of a device as monitoring knows it.
pub(super) fn device(io: &DeviceIo) -> String {
    disk::device_name(io.major, io.minor)
}

/// Whole seconds.
pub(super) fn seconds(nanos: u64) -> u64 {
    nanos / 1_000_000_000
}
